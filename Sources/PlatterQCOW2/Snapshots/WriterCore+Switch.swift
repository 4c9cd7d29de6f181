import PlatterCore

// A count and the flag "copied" that says the same lie in different sectors, so they cannot change one after the other
// without a moment in which they differ. They change beside those on disk instead, and one write of the header's first
// sector names all that is new:
//
//   clusters for each refcount block and for the table, counted: leaks, should it end here
//   new blocks, new refcount table, new L1 and L2 tables, new table of snapshots; nothing names them
//   -- barrier -- header, bytes 24..<72: size, L1 table, refcount table, table of snapshots -- barrier
//   what the new ones replace is given up

extension WriterCore {
  /// Runs `body`, which changes counts and roots, and makes all of that count at once. Where that fails the image is as it
  /// was before.
  mutating func switchTrees(
    _ barrier: Barrier, _ body: (inout WriterCore) throws(ImageError) -> Void
  ) throws(ImageError) {
    try publish(barrier)
    try checkOwnCounts()
    let space = try spaceForCopy()
    try publish(barrier)
    let before = self
    do throws(ImageError) {
      refcounts.beginCopy(reserve: space.blocks, tableAt: space.table.lowerBound * clusterByteCount)
      try body(&self)
      try nameCopy(barrier)
    } catch {
      restore(before)
      for cluster in space.blocks + Array(space.table) { refcounts.drop(cluster) }
      throw error
    }
    for block in refcounts.finishCopy() { overlaps.remove(clusterAt: block) }
    overlaps.remove(.refcountTable)
    overlaps.add(.refcountTable, at: header.refcountTableOffset, byteCount: refcounts.tableByteCount)
    try publish(barrier)
  }

  /// Takes clusters for a copy of all counts. Taking them can make more counts needed.
  private mutating func spaceForCopy() throws(ImageError) -> (table: Range<UInt64>, blocks: [UInt64]) {
    var table: Range<UInt64> = 0..<0
    var blocks: [UInt64] = []
    do throws(ImageError) {
      while true {
        let wanted = refcounts.tableByteCount / clusterByteCount
        table = try allocateRow(wanted)
        while blocks.count < refcounts.blockOffsets.count {
          blocks += try allocate(UInt64(refcounts.blockOffsets.count - blocks.count)).clusters
        }
        if refcounts.tableByteCount == wanted * clusterByteCount { return (table, blocks) }
        for cluster in table { refcounts.drop(cluster) }
        table = 0..<0
      }
    } catch {
      for cluster in blocks + Array(table) { refcounts.drop(cluster) }
      throw error
    }
  }

  /// Tables and blocks that will be given up must be counted, and be where they can be.
  mutating func checkOwnCounts() throws(ImageError) {
    var offsets = refcounts.blockOffsets.sorted()
    for offset in offsets where offset % clusterByteCount != 0 {
      throw .corrupt(
        "the refcount table names block \(offset.hex), which is not aligned to the cluster size (\(clusterByteCount.hex))")
    }
    for index in offsets.indices.dropFirst() where offsets[index] == offsets[index - 1] {
      throw .corrupt("the refcount table names block \(offsets[index].hex) twice; the image must be repaired first")
    }
    for table in [(header.l1Offset, UInt64(l1.count) * 8), (header.refcountTableOffset, refcounts.tableByteCount)] {
      offsets += stride(from: table.0, to: table.0 + table.1, by: Int(clusterByteCount))
    }
    for offset in offsets where try refcounts.count(of: offset / clusterByteCount, store) == 0 {
      throw .corrupt("the refcount of the table at \(offset.hex) is 0; the image must be repaired first")
    }
  }

  private mutating func nameCopy(_ barrier: Barrier) throws(ImageError) {
    for block in refcounts.newBlocks { overlaps.add(.refcountBlock, clusterAt: block) }
    try writeCounts()
    try writeCountTable()
    header.refcountTableOffset = refcounts.tableOffset
    header.refcountTableClusterCount = UInt32(refcounts.tableByteCount / clusterByteCount)
    try barrier()
    try writeRoots()
    try barrier()
  }

  /// Takes back what `body` did in memory. On disk it wrote only where nothing is.
  private mutating func restore(_ before: WriterCore) {
    let (fresh, length, damage) = (refcounts.freshStart, fileByteCount, damage)
    self = before
    refcounts.skipFresh(to: fresh)
    fileByteCount = max(fileByteCount, length)
    self.damage = self.damage ?? damage
  }

  /// Writes the header's fields from the disk's size to the table of snapshots: bytes 24..<72, in one sector.
  func writeRoots() throws(ImageError) {
    var fields = [UInt8](repeating: 0, count: 48)
    fields.withMutableRawBytes { raw in
      raw.storeBigEndian(header.virtualByteCount, at: 0)
      raw.storeBigEndian(header.encryption.rawValue, at: 8)
      raw.storeBigEndian(header.l1EntryCount, at: 12)
      raw.storeBigEndian(header.l1Offset, at: 16)
      raw.storeBigEndian(header.refcountTableOffset, at: 24)
      raw.storeBigEndian(header.refcountTableClusterCount, at: 32)
      raw.storeBigEndian(header.snapshotCount, at: 36)
      raw.storeBigEndian(header.snapshotTableOffset, at: 40)
    }
    try store.write(fields.rawBytes, at: 24)
  }

  /// Writes an L1 table of the disk to a new place, for the header to name.
  mutating func placeL1(_ words: [UInt64]) throws(ImageError) {
    // A disk of no bytes has no table.
    guard !words.isEmpty else { return }
    let row = try allocateRow((UInt64(words.count) * 8).dividedRoundingUp(by: clusterByteCount))
    try writeWords(words, in: row)
    header.l1Offset = row.lowerBound * clusterByteCount
    l1 = words
    dirtyL1 = nil
    overlaps.remove(.l1Table)
    overlaps.add(.l1Table, at: header.l1Offset, byteCount: UInt64(words.count) * 8)
  }
}
