package import PlatterCore
import PlatterCrypto

extension QCOW2: StreamableFormat {
  package static func stream(_ request: CreationRequest) throws(ImageError) -> any StreamedImage {
    try NewStream(request)
  }
}

/// An image that will be sent: cluster 0, the refcounts, L1, LUKS header and L2 tables in the order of `NewLayout`, then the
/// packed clusters, then the plain ones. Nothing but the tables that are needed is there.
struct NewStream: StreamedImage {
  private let image: NewImage
  private let request: CreationRequest
  private let volume: NewLUKSVolume?
  let cipher: (any SectorCipher)?

  init(_ request: CreationRequest) throws(ImageError) {
    image = try NewImage(request)
    self.request = request
    guard image.dataFileName == nil else {
      throw .unsupported("an image with an external data file cannot go to a pipe: the data file would need a place")
    }
    // Fails now where no layout is possible.
    let maker = try ImageMaker(image, request)
    volume = try maker.newVolume()
    switch image.encryption {
    case .none: cipher = nil
    case .legacyAES: cipher = try LegacyQCOWCipher.make(passphrase: maker.passphrase)
    case .luks: cipher = try volume.map { volume throws(ImageError) in try volume.makeCipher() }
    }
  }

  var unitByteCount: UInt64 { image.clusterByteCount }
  var takesAll: Bool { image.preallocation != .off }
  var saysZero: Bool { image.version >= 3 }

  func layOut(_ units: UnitRecord) throws(ImageError) -> any StreamedLayout {
    let header = ImageMaker.header(image)
    let geometry = Geometry(header)
    var tables = TableCounter(entriesPerTable: geometry.l2EntryCount)
    var places = PackedPlaces(
      from: 0, clusterByteCount: image.clusterByteCount, maximumCount: RefcountGeometry(header).maximum)
    var cursor = units.cursor()
    while let run = cursor.next() {
      tables.add(run)
      if run.kind == .packed { _ = places.next(byteCount: run.byteCount) }
    }
    let packedClusters = places.end.dividedRoundingUp(by: image.clusterByteCount)
    let layout = try NewLayout(
      image, header, l2Tables: tables.count, dataClusters: packedClusters + units.plainCount)
    let end = layout.end
    guard end >> 56 == 0, units.packedCount == 0 || end <= 1 << (70 - UInt64(image.clusterBits)) else {
      throw .unsupported("the file would grow past what an entry can name (\(end.hex))")
    }
    return StreamedFile(
      maker: try ImageMaker(image, request, layout), volume: volume, units: units, packedClusters: packedClusters)
  }
}

extension NewLUKSVolume {
  /// As the image is read: sectors are numbered by their place in the file.
  fileprivate func makeCipher() throws(ImageError) -> any SectorCipher {
    try header.suite.makeCipher(key: key, numbering: .host(base: 0))
  }
}

/// Counts the L2 tables that runs of units need.
private struct TableCounter {
  let entriesPerTable: UInt64
  private(set) var count: UInt64 = 0
  /// Number of the first table that was not counted yet.
  private var next: UInt64 = 0

  init(entriesPerTable: UInt64) { self.entriesPerTable = entriesPerTable }

  mutating func add(_ run: UnitRecord.Run) {
    guard run.kind != .absent else { return }
    let last = (run.first + run.count - 1) / entriesPerTable
    let first = max(run.first / entriesPerTable, next)
    guard first <= last else { return }
    count += last - first + 1
    next = last + 1
  }
}

/// A layout with every byte's place.
private struct StreamedFile: StreamedLayout {
  /// Tables are sent in pieces of about this.
  private static let pieceByteCount = 256 << 10

  let maker: ImageMaker
  let volume: NewLUKSVolume?
  let units: UnitRecord
  let packedClusters: UInt64

  private typealias Sink = (RawSpan) throws(ImageError) -> Void

  private var layout: NewLayout { maker.layout }
  private var cluster: UInt64 { layout.clusterByteCount }
  var byteCount: UInt64 { layout.end }
  var plainOffset: UInt64 { layout.dataOffset + packedClusters * cluster }
  var places: PackedPlaces {
    PackedPlaces(
      from: layout.dataOffset, clusterByteCount: cluster, maximumCount: RefcountGeometry(maker.header).maximum)
  }

  func sendHead(to sink: (RawSpan) throws(ImageError) -> Void) throws(ImageError) {
    try sendPadded(try maker.headerBytes(), clusters: 1, to: sink)
    let (cluster, blocks) = (cluster, layout.refcountBlockOffset)
    let blockCount = layout.refcountBlocks
    try sendWords(layout.refcountTableClusters * cluster / 8, to: sink) { index in
      index < blockCount ? blocks + index * cluster : 0
    }
    try sendRefcounts(to: sink)
    try sendL1(to: sink)
    if let volume {
      try sendPadded(Self.bytes(of: volume), clusters: layout.cryptoClusters, to: sink)
    }
    try sendL2(to: sink)
  }

  /// A LUKS header with its key material.
  private static func bytes(of volume: NewLUKSVolume) -> [UInt8] {
    var area: [UInt8] = []
    for case .write(let offset, let bytes) in volume.steps {
      let end = Int(offset) + bytes.count
      if area.count < end { area += [UInt8](repeating: 0, count: end - area.count) }
      area.replaceSubrange(Int(offset)..<end, with: bytes)
    }
    return area
  }

  private func sendPadded(_ bytes: [UInt8], clusters: UInt64, to sink: Sink) throws(ImageError) {
    let padded = bytes + [UInt8](repeating: 0, count: Int(clusters * cluster) - bytes.count)
    try sink(padded.rawBytes)
  }

  /// Sends words by their number, in pieces. `word` is asked in order.
  private func sendWords(_ count: UInt64, to sink: Sink, _ word: (UInt64) -> UInt64) throws(ImageError) {
    var first: UInt64 = 0
    while first < count {
      let part = min(UInt64(Self.pieceByteCount / 8), count - first)
      var bytes = [UInt8](repeating: 0, count: Int(part * 8))
      bytes.withMutableRawBytes { bytes in
        for index in 0..<part { bytes.storeBigEndian(word(first + index), at: Int(index * 8)) }
      }
      try sink(bytes.rawBytes)
      first += part
    }
  }

  private func sendRefcounts(to sink: Sink) throws(ImageError) {
    let geometry = RefcountGeometry(maker.header)
    let packed = layout.dataOffset / cluster..<layout.dataOffset / cluster + packedClusters
    var counts = PackedCounts(units, places, clusterByteCount: cluster, first: packed.lowerBound)
    let end = layout.clusterCount
    let total = layout.refcountBlocks * geometry.countsPerBlock
    var first: UInt64 = 0
    while first < total {
      let count = min(UInt64(Self.pieceByteCount * 8) >> geometry.order, total - first)
      var bytes = [UInt8](repeating: 0, count: Int((count << geometry.order) / 8))
      bytes.withMutableRawBytes { bytes in
        for index in 0..<min(count, end - min(end, first)) {
          let value = packed.contains(first + index) ? counts.next() : 1
          _ = geometry.set(Int(index), in: &bytes, to: value)
        }
      }
      try sink(bytes.rawBytes)
      first += count
    }
  }

  private func sendL1(to sink: Sink) throws(ImageError) {
    let perTable = Geometry(maker.header).l2EntryCount
    var cursor = units.cursor()
    var run = cursor.next()
    var offset = layout.l2Offset
    let (cluster, entryCount) = (cluster, layout.l1EntryCount)
    try sendWords(layout.l1Clusters * cluster / 8, to: sink) { index in
      guard index < entryCount else { return 0 }
      let end = (index + 1) * perTable
      var isNeeded = false
      while let there = run, there.first < end {
        if there.kind != .absent { isNeeded = true }
        guard there.first + there.count <= end else { break }
        run = cursor.next()
      }
      guard isNeeded else { return 0 }
      defer { offset += cluster }
      return offset | L1Entry.copied
    }
  }

  private func sendL2(to sink: Sink) throws(ImageError) {
    let geometry = Geometry(maker.header)
    var cursor = units.cursor()
    var entries = EntryMaker(geometry, places: places, plainOffset: plainOffset)
    var table: UInt64?
    var bytes = [UInt8](repeating: 0, count: Int(cluster))
    while let run = cursor.next() {
      guard run.kind != .absent else { continue }
      for unit in run.first..<run.first + run.count {
        if let last = table, last != unit / geometry.l2EntryCount {
          try sink(bytes.rawBytes)
          bytes.withMutableRawBytes { $0.zero(0..<$0.byteCount) }
        }
        table = unit / geometry.l2EntryCount
        let place = Int(unit % geometry.l2EntryCount) * geometry.l2EntryWordCount * 8
        bytes.withMutableRawBytes { bytes in entries.store(run, in: &bytes, at: place) }
      }
    }
    if table != nil { try sink(bytes.rawBytes) }
  }
}

/// Makes L2 entries, unit by unit in guest order.
private struct EntryMaker {
  private let geometry: Geometry
  private var places: PackedPlaces
  private var plainOffset: UInt64

  init(_ geometry: Geometry, places: PackedPlaces, plainOffset: UInt64) {
    self.geometry = geometry
    self.places = places
    self.plainOffset = plainOffset
  }

  /// Stores the entry of the next unit, which is one of `run`.
  mutating func store(_ run: UnitRecord.Run, in table: inout MutableRawSpan, at place: Int) {
    var word: UInt64 = 0
    var bitmap: UInt64 = 0
    switch run.kind {
    case .absent: return
    case .zero:
      if geometry.hasExtendedL2 { bitmap = L2Entry.allSubclustersAllocated << 32 } else { word = L2Entry.zero }
    case .plain:
      word = plainOffset | L2Entry.copied
      bitmap = L2Entry.allSubclustersAllocated
      plainOffset += geometry.clusterByteCount
    case .packed:
      word = PackedLocation.word(
        offset: places.next(byteCount: run.byteCount), byteCount: UInt64(run.byteCount),
        clusterBits: geometry.clusterBits)
    }
    table.storeBigEndian(word, at: place)
    if geometry.hasExtendedL2 { table.storeBigEndian(bitmap, at: place + 8) }
  }
}

/// Counts of the clusters that packed units lie in, cluster by cluster.
private struct PackedCounts {
  private var cursor: UnitRecord.Cursor
  private var places: PackedPlaces
  private let clusterByteCount: UInt64
  private var cluster: UInt64
  /// Clusters that the next unit touches.
  private var ahead: ClosedRange<UInt64>?
  /// 1 where the last unit reaches into the next cluster.
  private var carried: UInt64 = 0

  init(_ units: UnitRecord, _ places: PackedPlaces, clusterByteCount: UInt64, first: UInt64) {
    cursor = units.cursor()
    self.places = places
    self.clusterByteCount = clusterByteCount
    cluster = first
    look()
  }

  private mutating func look() {
    ahead = nil
    while let run = cursor.next() {
      guard run.kind == .packed else { continue }
      let offset = places.next(byteCount: run.byteCount)
      ahead = offset / clusterByteCount...(offset + UInt64(run.byteCount) - 1) / clusterByteCount
      return
    }
  }

  mutating func next() -> UInt64 {
    var count = carried
    carried = 0
    while let unit = ahead, unit.lowerBound == cluster {
      count += 1
      if unit.upperBound > cluster { carried = 1 }
      look()
    }
    cluster += 1
    return count
  }
}
