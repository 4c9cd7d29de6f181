import PlatterCore
import Synchronization

/// An L2 table and who names it.
struct TableUse: Sendable {
  var offset: UInt64 = 0
  /// Its place in the disk.
  var l1Index: UInt32 = 0
  /// L1 entries that name it, in all trees.
  var weight: UInt32 = 0
  /// Windows that its entries reach, once it was read.
  var firstWindow: UInt32 = 0
  var lastWindow: UInt32 = .max
  var isActive = false
}

/// Follows L1 tables to L2 tables, and those to clusters.
struct TableWalk {
  /// Tables listed at once. More are followed in batches, each a list of its own.
  private static let maximumBatchCount = 1 << 18

  private let scan: ImageScan
  /// All tables, where they fit one batch; then later windows need no L1 table again.
  private var kept: [TableUse]?

  init(_ scan: ImageScan) { self.scan = scan }

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
        guard faults.isDisjoint(with: .fatal) else { return }
        try mark(word, tree, index, isActive: number == 0, ledger)
      }
    }
  }

  private func mark(
    _ word: UInt64, _ tree: Volume.Tree, _ index: UInt64, isActive: Bool, _ ledger: ClusterLedger
  ) throws(ImageError) {
    let cluster = L1Entry(rawValue: word).tableOffset / scan.geometry.clusterByteCount
    scan.reach(cluster: cluster)
    guard ledger.window.contains(cluster) else { return }
    let reference = ClusterLedger.Reference(cluster: cluster, isCopied: word & L1Entry.copied != 0)
    let manner = ClusterLedger.Manner(
      use: isActive ? [.table, .active] : .table, guest: index, isFlagged: isActive)
    let entry = tree.offset + index * 8
    switch try ledger.add([reference], manner).first?.problem {
    case nil: return
    case .wrongFlag: try noteWrongFlag(word, index, cluster)
    case .surplus: scan.log.propose(.copyTable(entry: entry, word: word))
    case .conflict(let earlier): noteConflict(earlier, word, tree, index, cluster)
    }
  }

  private func noteConflict(
    _ earlier: ClusterLedger.Use, _ word: UInt64, _ tree: Volume.Tree, _ index: UInt64, _ cluster: UInt64
  ) {
    let entry = tree.offset + index * 8
    let isMetadata = earlier.contains(.metadata)
    scan.log.corruption(
      .tables, entry,
      "\(tree.name), entry \(index): L2 table \((cluster * scan.geometry.clusterByteCount).hex) is "
        + (isMetadata ? "other metadata" : "the table of another part of the disk too"))
    scan.log.add(CheckLog.Tally(areRefcountsBroken: earlier.contains(.refcounts)))
    scan.log.propose(isMetadata ? .dropTable(entry: entry) : .copyTable(entry: entry, word: word))
  }

  private func noteWrongFlag(_ word: UInt64, _ index: UInt64, _ cluster: UInt64) throws(ImageError) {
    let count = try scan.refcounts.count(of: cluster)
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
    var batch: [(key: UInt64, l1Index: UInt32)] = []
    var batches = 0
    var last: [TableUse] = []
    func flush() throws(ImageError) {
      last = try follow(Self.uses(&batch), ledger, windowIndex)
      batch = []
      batches += 1
    }
    for (number, tree) in scan.trees.enumerated() {
      try scan.forEachWord(tree.name, at: tree.offset, count: tree.entryCount) { index, word throws(ImageError) in
        guard scan.rules.faults(ofL1: word).isDisjoint(with: .fatal) else { return }
        let table = L1Entry(rawValue: word).tableOffset
        guard table != 0 else { return }
        // The low bits of an aligned offset are free to say which tree.
        batch.append((table | (number == 0 ? 1 : 0), UInt32(index)))
        if batch.count >= Self.maximumBatchCount { try flush() }
      }
    }
    try flush()
    if batches == 1 { kept = last }
  }

  private static func uses(_ keys: inout [(key: UInt64, l1Index: UInt32)]) -> [TableUse] {
    keys.sort { $0.key < $1.key }
    var uses: [TableUse] = []
    for (key, l1Index) in keys {
      if let index = uses.indices.last, uses[index].offset == key & ~1 {
        uses[index].weight += 1
        uses[index].isActive = uses[index].isActive || key & 1 != 0
      } else {
        uses.append(TableUse(offset: key & ~1, l1Index: l1Index, weight: 1, isActive: key & 1 != 0))
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
    let next = Atomic<Int>(0)
    let grain = 4
    let reached = Mutex(uses)
    let workers = min(scan.workerCount, (uses.count + grain - 1) / grain)
    try Workers.run(workers) { (_, stop) throws(ImageError) in
      var walk = L2Walk(scan: scan, ledger: ledger, isFirst: windowIndex == 0)
      defer { scan.reach(windows: walk.windows) }
      while !stop.isRaised {
        let start = next.wrappingAdd(grain, ordering: .relaxed).oldValue
        guard start < uses.count else { return }
        for index in start..<min(start + grain, uses.count) {
          guard uses[index].firstWindow <= windowIndex, windowIndex <= uses[index].lastWindow else { continue }
          let windows = try walk.run(uses[index])
          guard scan.hasManyWindows else { continue }
          reached.withLock { uses in
            (uses[index].firstWindow, uses[index].lastWindow) = (windows?.lowerBound ?? 1, windows?.upperBound ?? 0)
          }
        }
        try scan.report(window: windowIndex, share: Double(start) / Double(uses.count))
      }
    }
    return reached.withLock { $0 }
  }
}

extension UInt64 {
  /// Hexadecimal digits alone, as QEMU's messages have them.
  var bareHex: String { String(self, radix: 16) }
}
