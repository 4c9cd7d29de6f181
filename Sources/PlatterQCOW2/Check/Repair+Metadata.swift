import PlatterCore

// What a header names by place and number: the present disk's L1 table, the snapshot table with its L1 tables, the bitmap
// directory. New ones go to the end of the file; then one sector of the header names them.

extension Repair {
  private static let maximumMetadataRoundCount = 8
  private static let pieceByteCount: UInt64 = 1 << 20

  /// Appends clusters to a file.
  private struct Tail {
    let store: any ByteStore
    let size: UInt64
    /// Cluster that is written next.
    var end: UInt64

    /// - Returns: where the bytes lie.
    mutating func append(_ bytes: [UInt8]) throws(ImageError) -> UInt64 {
      let target = try take(UInt64(bytes.count))
      try store.write(bytes.rawBytes, at: target)
      return target
    }

    mutating func append(copyOf byteCount: UInt64, at offset: UInt64) throws(ImageError) -> UInt64 {
      let target = try take(byteCount)
      for piece in stride(from: 0, to: byteCount, by: Int(Repair.pieceByteCount)) {
        let bytes = try store.readPrefix(at: offset + piece, count: Int(min(Repair.pieceByteCount, byteCount - piece)))
        try store.write(bytes.rawBytes, at: target + piece)
      }
      return target
    }

    private mutating func take(_ byteCount: UInt64) throws(ImageError) -> UInt64 {
      let target = end * size
      end += byteCount.dividedRoundingUp(by: size)
      guard end * size <= L1Entry.offsetMask else {
        throw .unsupported("the file would grow past what an entry can name (\(target.hex))")
      }
      return target
    }

    /// Everything appended is on stable storage, and the file ends with a whole cluster.
    func finish(from start: UInt64) throws(ImageError) {
      if end > start { try store.resize(to: end * size) }
      try store.flush()
    }
  }

  // MARK: Snapshots and L1 tables

  mutating func repairMetadata() throws(ImageError) {
    for _ in 0..<Self.maximumMetadataRoundCount {
      let scan = try scan(skipsRefcounts: true, workers: 1)
      try scan.run { _ in }
      guard try repairMetadata(scan) else { return }
    }
  }

  /// - Returns: whether anything changed.
  private mutating func repairMetadata(_ scan: ImageScan) throws(ImageError) -> Bool {
    let misplaced = scan.log.misplaced
    var tail = Tail(store: store, size: scan.geometry.clusterByteCount, end: scan.clusterCount)
    var fields: [(offset: UInt64, bytes: [UInt8])] = []
    if misplaced.contains(.activeL1) {
      let tree = scan.trees[0]
      let place = try tail.append(copyOf: tree.entryCount * 8, at: tree.offset)
      fields.append((40, Words.encode([place])))
    }
    if misplaced.contains(.cryptoSurplus), let field = cryptoByteCountField(scan) { fields.append(field) }
    if let records = try mendedSnapshots(scan, misplaced, &tail) {
      var bytes: [UInt8] = []
      for record in records { bytes += record.encoded }
      let place = records.isEmpty ? 0 : try tail.append(bytes)
      fields.append((60, withBigEndianBytes(UInt32(records.count)) + Words.encode([place])))
    }
    guard !fields.isEmpty else { return false }
    try tail.finish(from: scan.clusterCount)
    for field in fields { try store.write(field.bytes.rawBytes, at: field.offset) }
    try store.flush()
    return true
  }

  /// A crypto header that ends where it ends by its own word, where the header extension gives it others' clusters.
  private mutating func cryptoByteCountField(_ scan: ImageScan) -> (offset: UInt64, bytes: [UInt8])? {
    let items = scan.volume.extensions.items
    guard let place = scan.volume.encryption.place,
      let index = items.lastIndex(where: { $0.type == HeaderExtensions.Kind.crypto })
    else { return nil }
    let own = scan.volume.encryption.ownByteCount
    note("the crypto header has \(own) bytes, not \(place.byteCount): something else lies behind it")
    return (Self.place(ofItem: index, items, scan.header) + 16, Words.encode([own]))
  }

  /// - Returns: the snapshots that stay, as they are to be; nil where they are right as they are.
  private mutating func mendedSnapshots(
    _ scan: ImageScan, _ misplaced: Set<MetadataMarker.Part>, _ tail: inout Tail
  ) throws(ImageError) -> [SnapshotRecord]? {
    var isChanged = !scan.snapshots.faults.isEmpty || misplaced.contains(.snapshotTable)
    var records: [SnapshotRecord] = []
    for (index, item) in scan.snapshots.items.enumerated() {
      var record = item.record
      guard item.fault == nil else {
        isChanged = true
        note("snapshot \(index) (\"\(record.printableName)\") is dropped: \(item.fault ?? "")")
        continue
      }
      if item.isIncomplete {
        isChanged = true
        record.extra.removeLast(max(0, record.extra.count - Int(SnapshotRecord.maximumExtraByteCount)))
        record = record.withUsualExtra(presentByteCount: scan.header.virtualByteCount)
      }
      if misplaced.contains(.snapshotL1(index)) {
        isChanged = true
        record.l1Offset = try tail.append(copyOf: UInt64(record.l1EntryCount) * 8, at: record.l1Offset)
      }
      records.append(record)
    }
    for fault in scan.snapshots.faults where scan.header.snapshotCount > 0 {
      note("\(Int(scan.header.snapshotCount) - scan.snapshots.items.count) snapshots are lost: \(fault)")
    }
    return isChanged ? records : nil
  }

  // MARK: Bitmaps

  /// Drops bitmaps that are damaged or lie in somebody else's clusters. A bitmap that is not there costs a longer backup, one
  /// that is wrong costs data.
  mutating func repairBitmaps() throws(ImageError) {
    // Behind a directory that nobody could follow there may be more.
    for _ in 0..<Self.maximumMetadataRoundCount {
      guard try repairBitmapsOnce() else { return }
    }
  }

  /// - Returns: whether anything changed.
  private mutating func repairBitmapsOnce() throws(ImageError) -> Bool {
    let scan = try scan(workers: 1)
    try scan.run { _ in }
    let misplaced = scan.log.misplaced
    var kept: [BitmapRecord] = []
    var isChanged = scan.bitmaps.isDamaged || misplaced.contains(.bitmapDirectory)
    for (index, item) in scan.bitmaps.items.enumerated() {
      let isMisplaced = misplaced.contains(.bitmap(index))
      if let record = item.record, item.fault == nil, !isMisplaced {
        kept.append(record)
      } else {
        isChanged = true
        let name = item.record.map { " (\"\($0.printableName)\")" } ?? ""
        note("bitmap \(index)\(name) is dropped: \(item.fault ?? "it lies where something else does, or nowhere")")
      }
    }
    guard isChanged else { return false }
    if let fault = scan.bitmaps.fault { note("bitmaps are lost: \(fault)") }
    try setBitmaps(kept, scan)
    return true
  }

  private func setBitmaps(_ records: [BitmapRecord], _ scan: ImageScan) throws(ImageError) {
    let items = scan.volume.extensions.items
    guard var first = items.firstIndex(where: { $0.type == HeaderExtensions.Kind.bitmaps }) else { return }
    guard !records.isEmpty else {
      try setAutoclear(scan.header.autoclearFeatures.subtracting(.bitmaps), scan.header)
      // The first word of 0 ends the list.
      var rest = HeaderExtensions()
      rest.items = items[first...].filter { $0.type != HeaderExtensions.Kind.bitmaps }
      try store.write(rest.encoded.rawBytes, at: Self.place(ofItem: first, items, scan.header))
      return try store.flush()
    }
    first = items.lastIndex { $0.type == HeaderExtensions.Kind.bitmaps } ?? first
    var tail = Tail(store: store, size: scan.geometry.clusterByteCount, end: scan.clusterCount)
    var directory: [UInt8] = []
    for record in records { directory += record.encoded }
    let place = try tail.append(directory)
    try tail.finish(from: scan.clusterCount)
    let field =
      withBigEndianBytes(UInt32(records.count)) + [0, 0, 0, 0] + Words.encode([UInt64(directory.count), place])
    let offset = Self.place(ofItem: first, items, scan.header) + 8
    // Sectors are written whole or not at all. Where two are needed, nobody trusts the bitmaps meanwhile.
    let isOneSector = offset / 512 == (offset + UInt64(field.count) - 1) / 512
    if !isOneSector { try setAutoclear(scan.header.autoclearFeatures.subtracting(.bitmaps), scan.header) }
    try store.write(field.rawBytes, at: offset)
    try store.flush()
    if !isOneSector { try setAutoclear(scan.header.autoclearFeatures, nil) }
  }

  /// - Parameter present: the header with the present features; nil where these are not they.
  func setAutoclear(_ features: AutoclearFeatures, _ present: Header?) throws(ImageError) {
    guard features != present?.autoclearFeatures else { return }
    try write([features.rawValue], at: 88)
    try store.flush()
  }

  private static func place(ofItem index: Int, _ items: [HeaderExtensions.Item], _ header: Header) -> UInt64 {
    var offset = UInt64(header.headerByteCount)
    for item in items[..<index] { offset += 8 + UInt64(item.bytes.count + 7) / 8 * 8 }
    return offset
  }
}
