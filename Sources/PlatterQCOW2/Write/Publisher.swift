import PlatterCore

/// Whoever publishes. It has the state in hand for moments: what is to be written is taken out in one, and noted as written
/// in a later one. Between them it is written and flushed.
///
/// Nobody else changes from start to end what is published. So a `WriterCore` publishes itself where it is held anyway, and
/// `QCOW2Writer` lets others look things up in between: a piece that is being written stays dirty until it is in the file,
/// and therefore in memory, so nobody loads it from the file meanwhile.
protocol Publisher {
  var store: any ByteStore { get }

  /// Runs `body` on the state.
  mutating func withCore<R>(_ body: (inout WriterCore) throws(ImageError) -> R) throws(ImageError) -> R
}

extension WriterCore: Publisher {
  mutating func withCore<R>(_ body: (inout WriterCore) throws(ImageError) -> R) throws(ImageError) -> R {
    try body(&self)
  }
}

extension Publisher {
  /// Puts everything so far on disk; `WriterCore` has the order. Where that fails the state takes no change any more.
  mutating func publish(_ barrier: Barrier) throws(ImageError) {
    do throws(ImageError) {
      try publishStages(barrier)
    } catch {
      // Those who wait for their turn must not go on from a state that is only partly on disk.
      try withCore { core in core.damage = core.damage ?? error }
      throw error
    }
  }

  private mutating func publishStages(_ barrier: Barrier) throws(ImageError) {
    guard try withCore({ core throws(ImageError) in try core.beginToPublish() }) else { return }
    // Stage A.
    try publishRefcounts(barrier)
    try write({ core in core.pendingTables(areNew: true) }, then: { core, writes in core.l2.settle(writes) })
    try barrier()
    // Stage B.
    try write({ core in core.pendingTables(areNew: false) }, then: { core, writes in core.l2.settle(writes) })
    try write({ core in core.pendingL1 }, then: { core, _ in core.settleL1() })
    try publishByteCount(barrier)
    guard try withCore({ core in !core.refcounts.dropped.isEmpty }) else { return }
    try barrier()
    // Stage C.
    try subtractDropped()
  }

  /// Writes what `pending` finds, and tells `settle` of it.
  private mutating func write(
    _ pending: (inout WriterCore) -> [PendingWrite], then settle: (inout WriterCore, [PendingWrite]) -> Void
  ) throws(ImageError) {
    let writes = try withCore { core in pending(&core) }
    for write in writes { try write.carryOut(store) }
    try withCore { core in settle(&core, writes) }
  }

  /// Raises counts on disk: blocks, then the table that names new ones, then the header that names a new table.
  mutating func publishRefcounts(_ barrier: Barrier) throws(ImageError) {
    guard try withCore({ core in core.beginToPublishCounts() }) else { return }
    try writeCounts()
    let table = try withCore { core in
      (isOnDisk: !core.refcounts.isCopying, needsBarrier: core.refcounts.needsTableBarrier)
    }
    guard table.isOnDisk else { return }
    if table.needsBarrier { try barrier() }
    try writeCountTable()
    guard let field = try withCore({ core in core.takeMovedCountTable() }) else { return }
    try barrier()
    try store.write(field.rawBytes, at: 48)
    try barrier()
    try withCore { core in core.finishMoveOfCountTable() }
  }

  /// Writes all changed counts.
  mutating func writeCounts() throws(ImageError) {
    try write({ core in core.refcounts.pendingBlocks }, then: { core, writes in core.refcounts.settleBlocks(writes) })
  }

  mutating func writeCountTable() throws(ImageError) {
    try write({ core in core.refcounts.pendingTable }, then: { core, _ in core.refcounts.settleTable() })
  }

  /// A new size is on disk after everything that makes new bytes read as zeros.
  private mutating func publishByteCount(_ barrier: Barrier) throws(ImageError) {
    let size = try withCore { core in
      (new: core.header.virtualByteCount, isOnDisk: core.header.virtualByteCount == core.byteCountOnDisk)
    }
    guard !size.isOnDisk else { return }
    try barrier()
    try store.write(Words.encode([size.new]).rawBytes, at: 24)
    try barrier()
    try withCore { core throws(ImageError) in
      core.byteCountOnDisk = size.new
      // A raw data file is as long as the disk.
      if core.isDataFileRaw { try core.dataFile?.resize(to: size.new) }
    }
  }

  /// Lowers the counts of what nothing on disk refers to any more, and gives freed space back to the file system.
  mutating func subtractDropped() throws(ImageError) {
    var free: [UInt64] = []
    while let freed = try withCore({ core throws(ImageError) in try core.subtractSome() }) { free += freed }
    // A crash before these are on disk leaves leaks, so no barrier follows.
    try writeCounts()
    let rows = try withCore { core in core.rows(ofFreed: free.sorted()) }
    for row in rows { try store.punch(row) }
  }
}

extension WriterCore {
  /// - Returns: false where there is nothing to publish.
  fileprivate mutating func beginToPublish() throws(ImageError) -> Bool {
    if let damage = damage ?? refcounts.damage { throw damage }
    releasedByteCount = 0
    return isDirty
  }

  fileprivate mutating func beginToPublishCounts() -> Bool {
    guard refcounts.isDirty else { return false }
    for block in refcounts.newBlocks { overlaps.add(.refcountBlock, clusterAt: block) }
    return true
  }

  fileprivate func pendingTables(areNew: Bool) -> [PendingWrite] {
    l2.pendingWrites { newTables.contains($0 / clusterByteCount * clusterByteCount) == areNew }
  }

  fileprivate var pendingL1: [PendingWrite] {
    dirtyL1.map { [PendingWrite(piece: header.l1Offset, content: .words(l1), part: $0)] } ?? []
  }

  fileprivate mutating func settleL1() {
    dirtyL1 = nil
    newTables = []
  }

  /// The header's fields that name a refcount table that has moved; nil where it has not.
  fileprivate mutating func takeMovedCountTable() -> [UInt8]? {
    guard refcounts.movedFrom != nil else { return nil }
    header.refcountTableOffset = refcounts.tableOffset
    header.refcountTableClusterCount = UInt32(refcounts.tableByteCount / clusterByteCount)
    return Words.encode([header.refcountTableOffset]) + withBigEndianBytes(header.refcountTableClusterCount)
  }

  fileprivate mutating func finishMoveOfCountTable() {
    refcounts.finishMove()
    overlaps.remove(.refcountTable)
    overlaps.add(.refcountTable, at: header.refcountTableOffset, byteCount: refcounts.tableByteCount)
  }

  /// Most references that are subtracted in one moment: each may take a read.
  private static let maximumStepCount = 256

  /// - Returns: clusters that became free; nil where nothing was left to subtract.
  fileprivate mutating func subtractSome() throws(ImageError) -> [UInt64]? {
    guard !refcounts.dropped.isEmpty else { return nil }
    let free = try refcounts.subtractDropped(atMost: Self.maximumStepCount, store)
    tails.forget(clusters: free)
    return free
  }

  /// Parts of the file that freed clusters take, neighbours together; none where they lie in another file.
  /// - Parameter clusters: in ascending order.
  fileprivate func rows(ofFreed clusters: [UInt64]) -> [Range<UInt64>] {
    guard !hasDataFile else { return [] }
    var rows: [Range<UInt64>] = []
    for start in clusters.map({ $0 * clusterByteCount }) {
      if let last = rows.last, last.upperBound == start {
        rows[rows.count - 1] = last.lowerBound..<start + clusterByteCount
      } else {
        rows.append(start..<start + clusterByteCount)
      }
    }
    return rows
  }
}

/// A part of a table or of counts that is newer in memory than on disk. It shares the memory of what it was taken from, as
/// long as neither changes.
struct PendingWrite {
  enum Content {
    case words([UInt64])
    case bytes([UInt8])
  }

  /// Where the piece starts in the file.
  var piece: UInt64
  var content: Content
  /// Words or bytes of the piece.
  var part: Range<Int>

  func carryOut(_ store: any ByteStore) throws(ImageError) {
    switch content {
    case .words(let words):
      let bytes = Words.encode(words[part])
      try store.write(bytes.rawBytes, at: piece + UInt64(part.lowerBound) * 8)
    case .bytes(let bytes):
      try store.write(bytes.rawBytes.extracting(part), at: piece + UInt64(part.lowerBound))
    }
  }
}
