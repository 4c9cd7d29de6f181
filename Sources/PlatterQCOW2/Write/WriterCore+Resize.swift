import PlatterCore

extension WriterCore {
  /// Changes the disk's size in memory; the next publish writes it. Until then the engine makes new bytes read as zeros
  /// where old content or a backing image would show through.
  mutating func resize(to byteCount: UInt64, _ barrier: Barrier) throws(ImageError) {
    try checkResize(to: byteCount)
    let old = header.virtualByteCount
    if byteCount < old {
      let start = byteCount.dividedRoundingUp(by: clusterByteCount) * clusterByteCount
      if start < old { try giveUp(start..<old, barrier) }
    } else {
      try growL1(toCover: byteCount, barrier)
      // The end of its last cluster is going to be read, and written.
      if let dataFile, try dataFile.byteCount() < byteCount { try dataFile.resize(to: byteCount) }
    }
    try resizeBitmaps(to: byteCount)
    header.virtualByteCount = byteCount
  }

  /// Empties the end that is cut off, one L2 table at a time, so that what is not published yet stays bounded.
  private mutating func giveUp(_ range: Range<UInt64>, _ barrier: Barrier) throws(ImageError) {
    var position = range.lowerBound
    while position < range.upperBound {
      let end = min(range.upperBound, (position / geometry.l1EntryCoverage + 1) * geometry.l1EntryCoverage)
      _ = try releaseUnits(position..<end, as: .absent)
      if takesMuchMemory { try publish(barrier) }
      position = end
    }
  }

  func checkResize(to byteCount: UInt64) throws(ImageError) {
    guard byteCount <= UInt64(Int64.max) else { throw .invalidArgument("a disk of \(byteCount) bytes is too large") }
    guard header.version >= 3 || header.snapshotCount == 0 else {
      throw .unsupported("Can't resize a v2 image which has snapshots")
    }
    try checkBitmapResize(to: byteCount)
  }

  /// Moves the L1 table to a larger place: new table, barrier, header, barrier, then the old place is free.
  mutating func growL1(toCover byteCount: UInt64, _ barrier: Barrier) throws(ImageError) {
    let wanted = byteCount.dividedRoundingUp(by: geometry.l1EntryCoverage)
    guard wanted > UInt64(l1.count) else { return }
    guard wanted <= UInt64(Header.maximumL1EntryCount) else {
      throw .unsupported(
        "a disk of \(byteCount) bytes needs \(wanted) L1 entries, more than \(Header.maximumL1EntryCount)")
    }
    try publish(barrier)
    let oldRange = header.l1Offset..<header.l1Offset + UInt64(l1.count) * 8
    let clusters = (wanted * 8).dividedRoundingUp(by: clusterByteCount)
    let row = try allocateRow(clusters)
    let new = l1 + [UInt64](repeating: 0, count: Int(wanted) - l1.count)
    var bytes = Words.encode(new)
    bytes += [UInt8](repeating: 0, count: Int(clusters * clusterByteCount) - bytes.count)
    try store.write(bytes.rawBytes, at: row.lowerBound * clusterByteCount)
    try publish(barrier)
    try barrier()
    l1 = new
    header.l1EntryCount = UInt32(wanted)
    header.l1Offset = row.lowerBound * clusterByteCount
    try store.write((withBigEndianBytes(header.l1EntryCount) + Words.encode([header.l1Offset])).rawBytes, at: 36)
    try barrier()
    overlaps.remove(.l1Table)
    overlaps.add(.l1Table, at: header.l1Offset, byteCount: wanted * 8)
    // A disk of no bytes has no table to give back.
    if !oldRange.isEmpty {
      for cluster in oldRange.lowerBound / clusterByteCount...(oldRange.upperBound - 1) / clusterByteCount {
        refcounts.drop(cluster)
      }
    }
    try publish(barrier)
  }
}
