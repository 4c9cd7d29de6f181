import PlatterCore
import SystemPackage

// Order on disk (`WriterCore+Switch` has what a switch is)
//
//   create   switch: higher counts; a new L1 table of the disk and new L2 tables where flags change, the old ones are the
//            snapshot's; table of snapshots
//   apply    copy of the snapshot's L1 table, higher counts -- barrier -- header: size and L1 table at once -- barrier --
//            lower counts of what the disk was before. The flags need no switch: what the disk will be is shared with the
//            snapshot before and after
//   delete   table of snapshots -- barrier -- header -- barrier -- switch: lower counts; new tables where flags change

extension WriterCore {
  // MARK: Create

  /// - Returns: the new snapshot's id.
  mutating func createSnapshot(named name: String, seconds: UInt32, nanoseconds: UInt32, _ barrier: Barrier)
    throws(ImageError) -> String
  {
    if let damage { throw damage }
    let name = Array(name.utf8)
    try checkSnapshotsPossible()
    guard name.count <= SnapshotRecord.maximumNameByteCount, !name.contains(0) else {
      throw .invalidArgument(
        "a snapshot's name has at most \(SnapshotRecord.maximumNameByteCount) bytes and no NUL among them")
    }
    guard snapshots.count < Int(Header.maximumSnapshotCount) else {
      throw .unsupported("the image has \(snapshots.count) snapshots already, the most that it can have")
    }
    guard let number = snapshots.map(\.number).max().map({ $0.adding(1) }) ?? 1 else {
      throw .unsupported("the image's snapshots have used up all ids")
    }
    try publish(barrier)
    try checkTree(l1, Self.activeName, isRaised: true)
    let id = String(number)
    let record = SnapshotRecord(
      l1Offset: l1.isEmpty ? 0 : header.l1Offset, l1EntryCount: UInt32(l1.count), id: Array(id.utf8), name: name,
      seconds: seconds, nanoseconds: nanoseconds, diskByteCount: header.virtualByteCount)
    try switchTrees(barrier) { core throws(ImageError) in
      try core.raiseTree(core.l1, barrier)
      let right = try core.rightL1()
      try core.placeL1(right)
      let old = try core.placeSnapshots(core.snapshots + [record])
      core.dropClusters(at: old.offset, byteCount: old.byteCount)
    }
    return id
  }

  /// A count must be able to say "two", and the bytes must lie in this file.
  private func checkSnapshotsPossible() throws(ImageError) {
    guard !hasDataFile else {
      throw .unsupported("an image with an external data file cannot have internal snapshots")
    }
    guard refcounts.geometry.maximum > 1 else {
      throw .unsupported("an image with refcount_bits 1 cannot have snapshots: its refcounts cannot say 2")
    }
  }

  /// Writes a copy of an L1 table and counts everything below it once more, on disk too.
  /// - Returns: the clusters of the copy.
  private mutating func copyL1(_ words: [UInt64], _ barrier: Barrier) throws(ImageError) -> Range<UInt64> {
    // A disk of no bytes has no table.
    guard !words.isEmpty else { return 0..<0 }
    let row = try allocateRow((UInt64(words.count) * 8).dividedRoundingUp(by: clusterByteCount))
    do throws(ImageError) {
      try writeWords(words.map { $0 & ~L1Entry.copied }, in: row)
      try raiseTree(words, barrier)
    } catch {
      for cluster in row { refcounts.drop(cluster) }
      try publish(barrier)
      throw error
    }
    try publish(barrier)
    try barrier()
    return row
  }

  /// Writes words at the start of a row of clusters, and zeros behind them.
  func writeWords(_ words: [UInt64], in row: Range<UInt64>) throws(ImageError) {
    try writePadded(Words.encode(words), in: row)
  }

  func writePadded(_ bytes: [UInt8], in row: Range<UInt64>) throws(ImageError) {
    let start = row.lowerBound * clusterByteCount
    try store.write(bytes.rawBytes, at: start)
    // Clusters are large and tables small: the rest takes no space.
    let end = start + UInt64(bytes.count)
    if end < row.upperBound * clusterByteCount { try store.punch(end..<row.upperBound * clusterByteCount) }
  }

  // MARK: Apply

  mutating func applySnapshot(_ selector: SnapshotSelector, _ barrier: Barrier) throws(ImageError) {
    if let damage { throw damage }
    let record = snapshots[try index(of: selector)]
    try checkSnapshotsPossible()
    guard bitmaps.isEmpty, liveBitmaps.isEmpty else {
      // They could not tell afterwards what has changed.
      throw ImageError(.forbidden, "a snapshot cannot be applied while the image has dirty bitmaps")
    }
    let byteCount = record.diskByteCount ?? header.virtualByteCount
    guard byteCount <= UInt64(Int64.max) else {
      throw .corrupt("snapshot \"\(printable(record))\" has a disk of \(byteCount) bytes, which is too large")
    }
    guard header.version >= 3 || byteCount == header.virtualByteCount else {
      throw .unsupported("a version 2 image with snapshots cannot be resized, which applying this one would need")
    }
    try publish(barrier)
    var new = try l1Table(of: record)
    let needed = byteCount.dividedRoundingUp(by: geometry.l1EntryCoverage)
    guard needed <= UInt64(Header.maximumL1EntryCount) else {
      throw .unsupported(
        "a disk of \(byteCount) bytes needs \(needed) L1 entries, more than \(Header.maximumL1EntryCount)")
    }
    try checkTree(new, "snapshot \"\(printable(record))\"", isRaised: true)
    try checkTree(l1, Self.activeName, isRaised: false)
    new.append(contentsOf: repeatElement(0, count: max(0, Int(needed) - new.count)))
    let row = try copyL1(new, barrier)
    // All of it is shared with the snapshot now, whatever the flags in the snapshot's own tables were.
    new = try withoutFlags(new, barrier)
    try publish(barrier)
    try barrier()
    try switchDisk(to: new, at: row.lowerBound * clusterByteCount, byteCount: byteCount, barrier)
  }

  /// Names another L1 table and another size in one write, then gives up what the disk was before.
  private mutating func switchDisk(to new: [UInt64], at offset: UInt64, byteCount: UInt64, _ barrier: Barrier)
    throws(ImageError)
  {
    let old = l1
    let oldPlace = header.l1Offset
    header.virtualByteCount = byteCount
    header.l1EntryCount = UInt32(new.count)
    header.l1Offset = offset
    try writeRoots()
    try barrier()
    byteCountOnDisk = byteCount
    l1 = new
    dirtyL1 = nil
    overlaps.remove(.l1Table)
    overlaps.add(.l1Table, at: offset, byteCount: UInt64(new.count) * 8)
    overlaps.removeClusters(.l2Table)
    for word in new where word != 0 { overlaps.add(.l2Table, clusterAt: L1Entry(rawValue: word).tableOffset) }
    try lowerTree(old, barrier)
    dropClusters(at: oldPlace, byteCount: UInt64(old.count) * 8)
    try publish(barrier)
  }

  /// The entries of a snapshot's L1 table.
  func l1Table(of record: SnapshotRecord) throws(ImageError) -> [UInt64] {
    let name = "the L1 table of snapshot \"\(printable(record))\""
    guard record.l1Offset % clusterByteCount == 0, record.l1Offset != 0 || record.l1EntryCount == 0 else {
      throw .corrupt("\(name) at \(record.l1Offset.hex) is not aligned to the cluster size (\(clusterByteCount.hex))")
    }
    return Words.decode(try store.readFully(name, at: record.l1Offset, count: Int(record.l1EntryCount) * 8))
  }

  // MARK: Delete

  mutating func deleteSnapshot(_ selector: SnapshotSelector, _ barrier: Barrier) throws(ImageError) {
    if let damage { throw damage }
    guard !hasDataFile else {
      throw .unsupported("an image with an external data file cannot have internal snapshots")
    }
    let index = try index(of: selector)
    let record = snapshots[index]
    try publish(barrier)
    let old = try l1Table(of: record)
    try checkTree(old, "snapshot \"\(printable(record))\"", isRaised: false)
    try checkTree(l1, Self.activeName, isRaised: false)
    var rest = snapshots
    rest.remove(at: index)
    try switchSnapshots(to: rest, barrier)
    try switchTrees(barrier) { core throws(ImageError) in
      try core.lowerTree(old, barrier)
      core.dropClusters(at: record.l1Offset, byteCount: UInt64(record.l1EntryCount) * 8)
      // Nothing on disk names these since the header has the new table: their clusters may be used again at once.
      try core.subtractDropped()
      let (l1, place) = (core.l1, core.header.l1Offset)
      let right = try core.rightL1()
      guard right != l1 else { return }
      try core.placeL1(right)
      core.dropClusters(at: place, byteCount: UInt64(l1.count) * 8)
    }
  }

  // MARK: Table

  /// Writes the table anew, names it in the header, and gives the old one up.
  mutating func switchSnapshots(to records: [SnapshotRecord], _ barrier: Barrier) throws(ImageError) {
    let old = try placeSnapshots(records)
    try publish(barrier)
    try barrier()
    try writeRoots()
    try barrier()
    dropClusters(at: old.offset, byteCount: old.byteCount)
    try publish(barrier)
  }

  /// Writes the table to a new place, for the header to name.
  /// - Returns: where the old one lies.
  private mutating func placeSnapshots(_ records: [SnapshotRecord]) throws(ImageError)
    -> (offset: UInt64, byteCount: UInt64)
  {
    let records =
      header.version >= 3
      ? records.map { $0.withUsualExtra(presentByteCount: header.virtualByteCount) } : records
    var bytes: [UInt8] = []
    for record in records { bytes += record.encoded }
    guard UInt64(bytes.count) <= SnapshotRecord.maximumTableByteCount else {
      throw .unsupported("the snapshot table would be larger than \(SnapshotRecord.maximumTableByteCount) bytes")
    }
    var offset: UInt64 = 0
    if !records.isEmpty {
      let row = try allocateRow(UInt64(bytes.count).dividedRoundingUp(by: clusterByteCount))
      offset = row.lowerBound * clusterByteCount
      try writePadded(bytes, in: row)
    }
    let old = (
      offset: header.snapshotTableOffset, byteCount: UInt64(snapshots.reduce(0) { $0 + $1.encodedByteCount })
    )
    header.snapshotCount = UInt32(records.count)
    header.snapshotTableOffset = offset
    snapshots = records
    addSnapshotMetadata()
    return old
  }

  /// Tells the guard where the table and the snapshots' L1 tables lie now.
  mutating func addSnapshotMetadata() {
    overlaps.remove(.snapshotTable)
    overlaps.remove(.snapshotL1Table)
    let byteCount = snapshots.reduce(0) { $0 + $1.encodedByteCount }
    overlaps.add(.snapshotTable, at: header.snapshotTableOffset, byteCount: UInt64(byteCount))
    for snapshot in snapshots {
      overlaps.add(.snapshotL1Table, at: snapshot.l1Offset, byteCount: UInt64(snapshot.l1EntryCount) * 8)
    }
  }

  /// Notes that a table's clusters are no longer referred to. The range was read from the file before.
  mutating func dropClusters(at offset: UInt64, byteCount: UInt64) {
    guard byteCount > 0 else { return }
    for cluster in offset / clusterByteCount...(offset + byteCount - 1) / clusterByteCount { refcounts.drop(cluster) }
  }

  private func index(of selector: SnapshotSelector) throws(ImageError) -> Int {
    let wanted = Array(selector.text.utf8)
    let found =
      switch selector {
      case .id: snapshots.firstIndex { $0.id == wanted }
      case .name: snapshots.firstIndex { $0.name == wanted }
      case .idOrName: snapshots.firstIndex { $0.id == wanted } ?? snapshots.firstIndex { $0.name == wanted }
      }
    guard let found else {
      throw ImageError(.notFound, "there is no snapshot \"\(FilePath(selector.text).printable)\"")
    }
    return found
  }

  private func printable(_ record: SnapshotRecord) -> String {
    FilePath(String(decoding: record.name, as: UTF8.self)).printable
  }
}
