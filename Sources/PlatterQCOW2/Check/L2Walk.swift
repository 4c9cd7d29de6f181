import PlatterCore

/// Reads one L2 table, checks its entries and counts the clusters that they name.
struct L2Walk {
  let scan: ImageScan
  let ledger: ClusterLedger
  /// Where the table lies.
  let table: UInt64
  let weight: UInt32
  let isActive: Bool
  /// Entries are judged in the first window only; each window counts its own clusters.
  let isFirst: Bool
  /// Windows that the entries reach.
  private(set) var windows: ClosedRange<UInt32>?
  private var tally = CheckLog.Tally()
  /// Where the next data cluster would lie, were the disk stored in one piece.
  private var contiguous: UInt64 = 0
  private var references: [ClusterLedger.Reference] = []

  init(scan: ImageScan, ledger: ClusterLedger, table: UInt64, weight: UInt32, isActive: Bool, isFirst: Bool) {
    self.scan = scan
    self.ledger = ledger
    self.table = table
    self.weight = weight
    self.isActive = isActive
    self.isFirst = isFirst
  }

  mutating func run() throws(ImageError) {
    let geometry = scan.geometry
    for slice in stride(from: 0, to: geometry.clusterByteCount, by: Int(geometry.sliceByteCount)) {
      let bytes = try scan.store.readFully("L2 table", at: table + slice, count: Int(geometry.sliceByteCount))
      try walk(bytes, firstEntry: Int(slice) / (geometry.l2EntryWordCount * 8))
    }
    scan.log.add(tally)
  }

  private mutating func walk(_ bytes: [UInt8], firstEntry: Int) throws(ImageError) {
    let raw = bytes.rawBytes
    let step = scan.geometry.l2EntryWordCount * 8
    references.removeAll(keepingCapacity: true)
    for index in 0..<bytes.count / step {
      let word: UInt64 = raw.bigEndian(at: index * step) ?? 0
      let bitmap: UInt64 = step == 16 ? raw.bigEndian(at: index * step + 8) ?? 0 : 0
      if word == 0, bitmap == 0 { continue }
      let reading = scan.rules.read(word, bitmap)
      if isFirst { try judge(word, reading, firstEntry + index) }
      count(reading, firstEntry + index)
    }
    for conflict in ledger.add(references, weight: weight) {
      let place = (conflict.token - firstEntry) * step
      note(conflict.earlier, raw.bigEndian(at: place) ?? 0, conflict.token)
    }
  }

  private func entryOffset(_ entry: Int) -> UInt64 { table + UInt64(entry * scan.geometry.l2EntryWordCount * 8) }

  /// Numbers for the summary, faults, and the copied flag.
  private mutating func judge(_ word: UInt64, _ reading: EntryRules.Reading, _ entry: Int) throws(ImageError) {
    if isActive { summarize(reading) }
    guard reading.faults.isEmpty else {
      tally.badEntries += 1
      if !reading.faults.isDisjoint(with: .fatal), reading.holdsData { tally.isTreeBroken = true }
      scan.log.corruption(
        .entries, entryOffset(entry),
        "L2 table \(table.hex), entry \(entry): \(scan.rules.describe(reading.faults, word))")
      return
    }
    guard isActive, !reading.isPacked, let host = reading.host else { return }
    let cluster = host.offset / scan.geometry.clusterByteCount
    let count = scan.rules.hasDataFile ? 1 : try scan.refcounts.count(of: cluster)
    guard (count == 1) != (word & L2Entry.copied != 0) else { return }
    tally.wrongFlags += 1
    scan.log.corruption(
      .entries, entryOffset(entry), "OFLAG_COPIED data cluster: l2_entry=\(word.bareHex) refcount=\(count)")
  }

  /// A packed cluster counts as fragmented; else one that does not follow the one before it in the table (observed:
  /// qemu-img 7.2).
  private mutating func summarize(_ reading: EntryRules.Reading) {
    guard let host = reading.host else { return }
    tally.allocated += 1
    if reading.isPacked {
      tally.compressed += 1
      tally.fragmented += 1
      return
    }
    if contiguous != 0, host.offset != contiguous { tally.fragmented += 1 }
    contiguous = host.offset &+ scan.geometry.clusterByteCount
  }

  private mutating func count(_ reading: EntryRules.Reading, _ entry: Int) {
    guard let host = reading.host, !scan.rules.hasDataFile, !reading.faults.contains(.pastEnd) else { return }
    let size = scan.geometry.clusterByteCount
    let first = host.offset / size
    // A misaligned entry is taken for the cluster that it points into: that one must not look unused.
    let last = reading.isPacked ? (host.offset + host.byteCount - 1) / size : first
    for cluster in first...last {
      guard cluster < scan.clusterCount else { continue }
      reach(UInt32(cluster / ClusterLedger.windowClusterCount))
      guard ledger.window.contains(cluster) else { continue }
      let use: ClusterLedger.Use = reading.isPacked ? .packed : .data
      references.append(.init(cluster: cluster, use: isActive ? use.union(.active) : use, token: entry))
    }
  }

  private mutating func reach(_ window: UInt32) {
    windows = windows.map { min($0.lowerBound, window)...max($0.upperBound, window) } ?? window...window
  }

  /// A cluster that is something else too.
  private func note(_ earlier: ClusterLedger.Use, _ word: UInt64, _ entry: Int) {
    let what: String =
      if earlier.contains(.metadata) { "metadata" } else if earlier.contains(.table) { "an L2 table" } else {
        "another part of the disk"
      }
    let place = entryOffset(entry)
    let isPacked = L2Entry(rawValue: word).isCompressed
    scan.log.corruption(
      .entries, place, "L2 table \(table.hex), entry \(entry): its cluster is used by \(what) too (\(word.hex))")
    scan.log.add(CheckLog.Tally(areRefcountsBroken: earlier.contains(.refcounts)))
    scan.log.propose(isPacked ? .copyPacked(entry: place, word: word) : .copyData(entry: place, word: word))
  }
}
