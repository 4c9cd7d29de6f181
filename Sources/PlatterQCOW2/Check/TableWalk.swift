import PlatterCore
import Synchronization

/// Follows L1 tables to L2 tables, and those to clusters.
struct TableWalk {
  /// An L2 table and who names it.
  private struct TableUse: Sendable {
    var offset: UInt64
    /// L1 entries that name it, in all trees.
    var weight: UInt32
    var isActive: Bool
    /// Windows that its entries reach; known once it was read.
    var windows: ClosedRange<UInt32>?
  }

  /// Tables listed at once. More are followed in batches, each a list of its own.
  private static let maximumBatchCount = 1 << 19

  private let scan: ImageScan
  private let windowCount: Int
  /// All tables, where they fit one batch; then later windows need no L1 table again.
  private var kept: [TableUse]?

  init(_ scan: ImageScan, windowCount: Int) {
    self.scan = scan
    self.windowCount = windowCount
  }

  // MARK: L1 tables

  /// Checks all entries of all L1 tables (in the first window) and counts the L2 tables of this window.
  func markTables(_ ledger: ClusterLedger, isFirst: Bool) throws(ImageError) {
    for (number, tree) in scan.trees.enumerated() {
      try scan.forEachWord(tree.name, at: tree.offset, count: tree.entryCount) { index, word throws(ImageError) in
        let faults = scan.rules.faults(ofL1: word)
        let entryOffset = tree.offset + index * 8
        if isFirst, !faults.isEmpty {
          scan.log.corruption(
            .tables, entryOffset, "\(tree.name), entry \(index): \(scan.rules.describe(faults, word))")
          scan.log.add(CheckLog.Tally(badEntries: 1, isTreeBroken: !faults.isDisjoint(with: .fatal)))
        }
        let table = L1Entry(rawValue: word).tableOffset
        guard table != 0 else { return }
        if isFirst, number == 0, faults.isDisjoint(with: .fatal) { try checkFlag(ofL1: word, index) }
        mark(table / scan.geometry.clusterByteCount, word, tree, index, isActive: number == 0, ledger, faults)
      }
    }
  }

  private func mark(
    _ cluster: UInt64, _ word: UInt64, _ tree: Volume.Tree, _ index: UInt64, isActive: Bool, _ ledger: ClusterLedger,
    _ faults: EntryRules.Faults
  ) {
    guard ledger.window.contains(cluster) else { return }
    let use: ClusterLedger.Use = isActive ? [.table, .active] : .table
    guard faults.isDisjoint(with: .fatal) else { return }
    let conflicts = ledger.add([.init(cluster: cluster, use: use, token: 0)], weight: 1)
    guard let conflict = conflicts.first else { return }
    let entry = tree.offset + index * 8
    let isMetadata = conflict.earlier.contains(.metadata)
    scan.log.corruption(
      .tables, entry,
      "\(tree.name), entry \(index): L2 table \((cluster * scan.geometry.clusterByteCount).hex) is "
        + (isMetadata ? "other metadata" : "the table of another part of the disk too"))
    scan.log.add(CheckLog.Tally(areRefcountsBroken: conflict.earlier.contains(.refcounts)))
    scan.log.propose(isMetadata ? .dropTable(entry: entry) : .copyTable(entry: entry, word: word))
  }

  private func checkFlag(ofL1 word: UInt64, _ index: UInt64) throws(ImageError) {
    let cluster = L1Entry(rawValue: word).tableOffset / scan.geometry.clusterByteCount
    let count = try scan.refcounts.count(of: cluster)
    guard (count == 1) != (word & L1Entry.copied != 0) else { return }
    scan.log.add(CheckLog.Tally(wrongFlags: 1))
    scan.log.corruption(
      .tables, index, "OFLAG_COPIED L2 cluster: l1_index=\(index) l1_entry=\(word.bareHex) refcount=\(count)")
  }

  // MARK: Lists of tables

  /// Counts what the L2 tables name inside the ledger's window.
  mutating func followTables(_ ledger: ClusterLedger, windowIndex: Int) throws(ImageError) {
    if let kept {
      self.kept = try follow(kept, ledger, windowIndex)
      return
    }
    var batch: [UInt64] = []
    var batches = 0
    var last: [TableUse] = []
    func flush() throws(ImageError) {
      last = try follow(Self.uses(&batch), ledger, windowIndex)
      batch = []
      batches += 1
    }
    for (number, tree) in scan.trees.enumerated() {
      try scan.forEachWord(tree.name, at: tree.offset, count: tree.entryCount) { _, word throws(ImageError) in
        guard scan.rules.faults(ofL1: word).isDisjoint(with: .fatal) else { return }
        let table = L1Entry(rawValue: word).tableOffset
        guard table != 0 else { return }
        // The low bits of an aligned offset are free to say which tree.
        batch.append(table | (number == 0 ? 1 : 0))
        if batch.count >= Self.maximumBatchCount { try flush() }
      }
    }
    try flush()
    if batches == 1 { kept = last }
  }

  private static func uses(_ keys: inout [UInt64]) -> [TableUse] {
    keys.sort()
    var uses: [TableUse] = []
    for key in keys {
      if let index = uses.indices.last, uses[index].offset == key & ~1 {
        uses[index].weight += 1
        uses[index].isActive = uses[index].isActive || key & 1 != 0
      } else {
        uses.append(TableUse(offset: key & ~1, weight: 1, isActive: key & 1 != 0))
      }
    }
    return uses
  }

  /// Reads tables on all workers, a few at a time.
  private func follow(_ uses: [TableUse], _ ledger: ClusterLedger, _ windowIndex: Int) throws(ImageError)
    -> [TableUse]
  {
    guard !uses.isEmpty else { return uses }
    let scan = scan
    let windowCount = windowCount
    let next = Atomic<Int>(0)
    let grain = 4
    let reached = Mutex<[Int: ClosedRange<UInt32>]>([:])
    let workers = min(scan.workerCount, uses.count.dividedRoundingUpByGrain(grain))
    try Workers.run(workers) { (_, stop) throws(ImageError) in
      while !stop.isRaised {
        let start = next.wrappingAdd(grain, ordering: .relaxed).oldValue
        guard start < uses.count else { return }
        for index in start..<min(start + grain, uses.count) {
          if let windows = uses[index].windows, !windows.contains(UInt32(windowIndex)) { continue }
          let use = uses[index]
          var reader = L2Walk(
            scan: scan, ledger: ledger, table: use.offset, weight: use.weight, isActive: use.isActive,
            isFirst: windowIndex == 0)
          try reader.run()
          if windowCount > 1, let windows = reader.windows { reached.withLock { $0[index] = windows } }
        }
        let share = Double(windowIndex) + Double(start) / Double(uses.count)
        try scan.report(progress: share / Double(windowCount))
      }
    }
    guard windowCount > 1 else { return uses }
    var uses = uses
    for (index, windows) in reached.withLock({ $0 }) { uses[index].windows = windows }
    return uses
  }
}

extension Int {
  fileprivate func dividedRoundingUpByGrain(_ grain: Int) -> Int { (self + grain - 1) / grain }
}

extension UInt64 {
  /// Hexadecimal digits alone, as QEMU's messages have them.
  var bareHex: String { String(self, radix: 16) }
}
