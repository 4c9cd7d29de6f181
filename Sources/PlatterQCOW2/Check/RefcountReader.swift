import PlatterCore

/// Refcounts as they lie in the file, read without trust: what is broken counts nothing.
final class RefcountReader: Sendable {
  private static let pieceByteCount: UInt64 = 64 << 10
  /// Table entries and what is wrong with them; a bad block is taken for none.
  struct BadBlock: Sendable {
    var index: Int
    var why: String
  }

  let geometry: RefcountGeometry
  /// Where each block lies; 0 for none.
  let blocks: [UInt64]
  let badBlocks: [BadBlock]
  /// What is wrong with the table itself, if anything is.
  let tableDamage: String?
  private let store: any ByteStore
  private let cache = TableCache<UInt64, [UInt8]>(capacity: 64)

  init(_ store: any ByteStore, _ header: Header, fileByteCount: UInt64) throws(ImageError) {
    self.store = store
    geometry = RefcountGeometry(header)
    let cluster = header.clusterByteCount
    let byteCount = UInt64(header.refcountTableClusterCount) * cluster
    guard header.refcountTableOffset >= cluster, header.refcountTableOffset % cluster == 0, byteCount > 0,
      let end = header.refcountTableOffset.adding(byteCount),
      end <= fileByteCount, byteCount <= Header.maximumRefcountTableByteCount
    else {
      blocks = []
      badBlocks = []
      tableDamage =
        "the refcount table (\(byteCount) bytes at \(header.refcountTableOffset.hex)) does not lie inside the file "
        + "(\(fileByteCount.hex)) behind the header, or not on a cluster"
      return
    }
    var blocks = Words.decode(
      try store.readFully("refcount table", at: header.refcountTableOffset, count: Int(byteCount)))
    var bad: [BadBlock] = []
    for index in blocks.indices where blocks[index] != 0 {
      if let why = Self.fault(blocks[index], cluster, fileByteCount) {
        bad.append(BadBlock(index: index, why: why))
        blocks[index] = 0
      }
    }
    self.blocks = blocks
    badBlocks = bad
    tableDamage = nil
  }

  private static func fault(_ entry: UInt64, _ cluster: UInt64, _ fileByteCount: UInt64) -> String? {
    guard entry & ~RefcountGeometry.offsetMask == 0 else { return "reserved bits are set (\(entry.hex))" }
    guard entry % cluster == 0 else { return "block \(entry.hex) is not aligned to the cluster size (\(cluster.hex))" }
    guard let end = entry.adding(cluster), end <= fileByteCount else {
      return "block \(entry.hex) lies past the end of the file (\(fileByteCount.hex))"
    }
    return nil
  }

  /// Bits of one count.
  var bits: UInt64 { 1 << geometry.order }

  /// Where a cluster's block lies; 0 for none.
  func block(of cluster: UInt64) -> UInt64 {
    let index = cluster / geometry.countsPerBlock
    return index < UInt64(blocks.count) ? blocks[Int(index)] : 0
  }

  /// One cluster's count, through a cache.
  func count(of cluster: UInt64) throws(ImageError) -> UInt64 {
    let block = block(of: cluster)
    guard block != 0 else { return 0 }
    let piece = min(geometry.clusterByteCount, Self.pieceByteCount)
    let perPiece = piece * 8 / bits
    let slot = cluster % geometry.countsPerBlock
    let offset = block + slot / perPiece * piece
    let bytes = try cache.value(for: offset) { () throws(ImageError) in
      try store.readFully("refcount block", at: offset, count: Int(piece))
    }
    return geometry.count(Int(slot % perPiece), in: bytes.rawBytes)
  }

  /// Whether any block counts clusters of this range.
  func hasBlock(in clusters: Range<UInt64>) -> Bool {
    let first = clusters.lowerBound / geometry.countsPerBlock
    let last = min((clusters.upperBound - 1) / geometry.countsPerBlock, UInt64(blocks.count))
    guard first <= last, first < UInt64(blocks.count) else { return false }
    return blocks[Int(first)...min(Int(last), blocks.count - 1)].contains { $0 != 0 }
  }

  /// Parts of a range of clusters (which starts at a multiple of 8) with the bytes of their counts, block by block.
  /// Parts that no block counts are left out.
  func forEachPart(
    of clusters: Range<UInt64>,
    _ body: (_ clusters: Range<UInt64>, _ offset: UInt64, _ bytes: [UInt8]) throws(ImageError) -> Void
  ) throws(ImageError) {
    var position = clusters.lowerBound
    while position < clusters.upperBound {
      let end = min(clusters.upperBound, (position / geometry.countsPerBlock + 1) * geometry.countsPerBlock)
      let block = block(of: position)
      if block != 0 {
        let offset = block + position % geometry.countsPerBlock * bits / 8
        let count = Int(((end - position) * bits).dividedRoundingUp(by: 8))
        try body(position..<end, offset, try store.readFully("refcount block", at: offset, count: count))
      }
      position = end
    }
  }
}
