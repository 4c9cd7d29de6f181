import PlatterCore

/// Reads L1 and L2 tables in slices and keeps the last used ones: at most 2 MiB and 8 MiB, whatever the image says.
final class TableReader: Sendable {
  private static let l1CacheByteCount: UInt64 = 2 << 20
  private static let l2CacheByteCount: UInt64 = 8 << 20
  /// Entries of a slice of an L1 table.
  static let l1SliceEntryCount = Geometry.maximumSliceByteCount / 8

  private let store: any ByteStore
  private let geometry: Geometry
  private let fileByteCount: UInt64
  /// Both by position of the slice in the file; decoded to the machine's byte order.
  private let l1Slices = TableCache<UInt64, [UInt64]>(
    capacity: Int(l1CacheByteCount / Geometry.maximumSliceByteCount))
  private let l2Slices: TableCache<UInt64, [UInt64]>

  init(_ store: any ByteStore, _ geometry: Geometry, fileByteCount: UInt64) {
    self.store = store
    self.geometry = geometry
    self.fileByteCount = fileByteCount
    l2Slices = TableCache(capacity: Int(Self.l2CacheByteCount / geometry.sliceByteCount))
  }

  /// The slice of a tree's L1 table with this number; the last one may be short.
  func l1Slice(_ index: UInt64, of tree: Volume.Tree) throws(ImageError) -> [UInt64] {
    let first = index * Self.l1SliceEntryCount
    let count = min(Self.l1SliceEntryCount, tree.entryCount - first)
    let offset = tree.offset + first * 8
    return try l1Slices.value(for: offset) { () throws(ImageError) in
      try load(tree.name, at: offset, count: Int(count * 8))
    }
  }

  /// The slice with this number of the L2 table that an L1 entry names.
  ///
  /// - Throws: `.corrupt` where the entry breaks the format's rules, `.truncated` where it points outside the file.
  func l2Slice(_ index: UInt64, of entry: L1Entry, _ tree: Volume.Tree, _ l1Index: UInt64) throws(ImageError)
    -> [UInt64]
  {
    guard entry.reservedBits == 0 else {
      throw .corrupt("\(tree.name), entry \(l1Index): reserved bits are set (\(entry.rawValue.hex))")
    }
    let table = entry.tableOffset
    guard table % geometry.clusterByteCount == 0 else {
      throw .corrupt(
        "\(tree.name), entry \(l1Index): L2 table \(table.hex) is not aligned to the cluster size "
          + "(\(geometry.clusterByteCount.hex))")
    }
    // Offsets have 56 bits, so the sum cannot overflow.
    guard table + geometry.clusterByteCount <= fileByteCount else {
      throw .truncated(
        "\(tree.name), entry \(l1Index): L2 table \(table.hex) lies past the end of the file (\(fileByteCount.hex))")
    }
    let offset = table + index * geometry.sliceByteCount
    return try l2Slices.value(for: offset) { () throws(ImageError) in
      try load("L2 table", at: offset, count: Int(geometry.sliceByteCount))
    }
  }

  private func load(_ name: String, at offset: UInt64, count: Int) throws(ImageError) -> [UInt64] {
    let bytes = try store.readFully(name, at: offset, count: count)
    let raw = bytes.rawBytes
    var words: [UInt64] = []
    words.reserveCapacity(count / 8)
    for index in 0..<count / 8 { words.append(raw.bigEndian(at: index * 8) ?? 0) }
    return words
  }
}
