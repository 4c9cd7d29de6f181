import PlatterCore

/// Reads L2 tables one by one, checks their entries and counts the clusters that they name. Belongs to one worker.
struct L2Walk {
  private let scan: ImageScan
  private let ledger: ClusterLedger
  /// Entries are judged in the first window only; each window counts its own clusters.
  private let isFirst: Bool
  private let uncommonMask: UInt64
  /// Where the last cluster that lies whole inside the file starts.
  private let lastOffset: UInt64
  private let size: UInt64
  private let clusterBits: UInt64

  private var table = TableUse()
  /// All windows that entries of all tables reach, and those of the present table; not kept where there is only one.
  private(set) var windows: Set<UInt32> = []
  private var tableWindows: ClosedRange<UInt32>?
  private let windowClusterCount: UInt64?
  private var tally = CheckLog.Tally()
  /// Where the next data cluster would lie, were the disk stored in one piece.
  private var contiguous: UInt64 = 0
  /// Of the present slice: sound clusters, clusters that faulty entries lie in, packed ones.
  private var plain: [ClusterLedger.Reference] = []
  private var faulty: [ClusterLedger.Reference] = []
  private var packed: [ClusterLedger.Reference] = []
  private var bytes: [UInt8]

  init(scan: ImageScan, ledger: ClusterLedger, isFirst: Bool) {
    self.scan = scan
    self.ledger = ledger
    self.isFirst = isFirst
    uncommonMask = scan.rules.uncommonMask
    size = scan.geometry.clusterByteCount
    clusterBits = scan.geometry.clusterBits
    windowClusterCount = scan.hasManyWindows ? scan.windowClusterCount : nil
    lastOffset = scan.fileByteCount < size ? 0 : scan.fileByteCount - size
    bytes = [UInt8](repeating: 0, count: Int(scan.geometry.sliceByteCount))
  }

  /// - Returns: windows that the entries reach, where there are several; nil for none.
  mutating func run(_ table: TableUse) throws(ImageError) -> ClosedRange<UInt32>? {
    self.table = table
    (tableWindows, contiguous, tally) = (nil, 0, CheckLog.Tally())
    for slice in stride(from: 0, to: size, by: bytes.count) {
      try bytes.withMutableRawBytes { buffer throws(ImageError) in
        try scan.store.readFully("L2 table", into: &buffer, at: table.offset + slice)
      }
      try walk(firstEntry: slice / UInt64(scan.geometry.l2EntryWordCount * 8))
    }
    scan.log.add(tally)
    return tableWindows
  }

  private mutating func reach(_ cluster: UInt64) {
    guard let windowClusterCount else { return }
    let window = UInt32(truncatingIfNeeded: cluster / windowClusterCount)
    if let known = tableWindows, known.contains(window), known.count == 1 { return }
    tableWindows = tableWindows.map { min($0.lowerBound, window)...max($0.upperBound, window) } ?? window...window
    windows.insert(window)
  }

  private mutating func walk(firstEntry: UInt64) throws(ImageError) {
    plain.removeAll(keepingCapacity: true)
    faulty.removeAll(keepingCapacity: true)
    packed.removeAll(keepingCapacity: true)
    readSlice(firstEntry)
    let guest = UInt64(table.l1Index) &* scan.geometry.l2EntryCount &+ firstEntry
    let use: ClusterLedger.Use = table.isActive ? [.data, .active] : .data
    var manner = ClusterLedger.Manner(use: use, weight: table.weight, guest: guest, isFlagged: table.isActive)
    try add(plain, manner, firstEntry)
    manner.isFlagged = false
    try add(faulty, manner, firstEntry)
    manner.use = table.isActive ? [.packed, .active] : .packed
    manner.guest = nil
    try add(packed, manner, firstEntry)
  }

  /// Ordinary entries, nearly all of most tables, are dealt with here; the others one by one.
  private mutating func readSlice(_ firstEntry: UInt64) {
    let bytes = bytes
    let raw = bytes.rawBytes
    let isExtended = scan.geometry.hasExtendedL2
    let step = isExtended ? 16 : 8
    let summarizes = isFirst && table.isActive
    let window = ledger.window
    for index in 0..<bytes.count / step {
      let word: UInt64 = raw.bigEndian(at: index * step) ?? 0
      let bitmap: UInt64 = isExtended ? raw.bigEndian(at: index * step + 8) ?? 0 : 0
      let offset = word & L2Entry.offsetMask
      guard word & uncommonMask == 0, offset != 0, offset <= lastOffset, bitmap & (bitmap >> 32) == 0 else {
        if word != 0 || bitmap != 0 { readUncommon(word, bitmap, index, firstEntry) }
        continue
      }
      if summarizes {
        tally.allocated += 1
        if contiguous != 0, offset != contiguous { tally.fragmented += 1 }
        contiguous = offset &+ size
      }
      let cluster = offset >> clusterBits
      reach(cluster)
      guard window.contains(cluster) else { continue }
      plain.append(.init(cluster: cluster, isCopied: word & L2Entry.copied != 0, token: UInt64(index)))
    }
  }

  private mutating func readUncommon(_ word: UInt64, _ bitmap: UInt64, _ index: Int, _ firstEntry: UInt64) {
    let reading = scan.rules.read(word, bitmap)
    if isFirst { judge(word, reading, firstEntry + UInt64(index)) }
    guard let host = reading.host, !scan.rules.hasDataFile, !reading.faults.contains(.pastEnd) else { return }
    let first = host.offset >> clusterBits
    // A misaligned entry is taken for the cluster that it points into: that one must not look unused.
    let last = reading.isPacked ? (host.offset + host.byteCount - 1) >> clusterBits : first
    for cluster in first...last where cluster < scan.clusterCount {
      reach(cluster)
      guard ledger.window.contains(cluster) else { continue }
      let reference = ClusterLedger.Reference(
        cluster: cluster, isCopied: word & L2Entry.copied != 0, token: UInt64(index))
      if reading.isPacked {
        packed.append(reference)
      } else if reading.faults.isEmpty {
        plain.append(reference)
      } else {
        faulty.append(reference)
      }
    }
  }

  private func entryOffset(_ entry: UInt64) -> UInt64 {
    table.offset + entry * UInt64(scan.geometry.l2EntryWordCount * 8)
  }

  /// Numbers for the summary, and faults.
  private mutating func judge(_ word: UInt64, _ reading: EntryRules.Reading, _ entry: UInt64) {
    if table.isActive { summarize(reading) }
    guard reading.faults.isEmpty else {
      tally.badEntries += 1
      if !reading.faults.isDisjoint(with: .fatal), reading.holdsData { tally.isTreeBroken = true }
      scan.log.corruption(
        .entries, entryOffset(entry),
        "L2 table \(table.offset.hex), entry \(entry): \(scan.rules.describe(reading.faults, word))")
      return
    }
    // The ledger sees to clusters of this file. Those of a data file are nobody else's.
    guard table.isActive, scan.rules.hasDataFile, reading.host != nil, word & L2Entry.copied == 0 else { return }
    noteWrongFlag(word, entry, count: 1)
  }

  private mutating func noteWrongFlag(_ word: UInt64, _ entry: UInt64, count: @autoclosure () -> UInt64) {
    tally.wrongFlags += 1
    scan.log.corruption(
      .entries, entryOffset(entry), "OFLAG_COPIED data cluster: l2_entry=\(word.bareHex) refcount=\(count())")
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
    contiguous = host.offset &+ size
  }

  private mutating func add(
    _ references: [ClusterLedger.Reference], _ manner: ClusterLedger.Manner, _ firstEntry: UInt64
  ) throws(ImageError) {
    guard !references.isEmpty else { return }
    for finding in try ledger.add(references, manner) {
      let bytes = bytes
      let word: UInt64 = bytes.rawBytes.bigEndian(at: finding.token * scan.geometry.l2EntryWordCount * 8) ?? 0
      let entry = firstEntry + UInt64(finding.token)
      switch finding.problem {
      case .wrongFlag:
        let count = scan.log.hasRoom ? try scan.refcounts.count(of: finding.cluster) : 0
        noteWrongFlag(word, entry, count: count)
      case .surplus: proposeCopy(word, entry)
      case .conflict(let earlier): noteConflict(earlier, word, entry)
      }
    }
  }

  private func proposeCopy(_ word: UInt64, _ entry: UInt64) {
    let place = entryOffset(entry)
    let isPacked = L2Entry(rawValue: word).isCompressed
    scan.log.propose(isPacked ? .copyPacked(entry: place, word: word) : .copyData(entry: place, word: word))
  }

  /// A cluster that is something else too.
  private func noteConflict(_ earlier: ClusterLedger.Use, _ word: UInt64, _ entry: UInt64) {
    let what: String =
      if earlier.contains(.metadata) { "metadata" } else if earlier.contains(.table) { "an L2 table" } else {
        "another part of the disk"
      }
    scan.log.corruption(
      .entries, entryOffset(entry),
      "L2 table \(table.offset.hex), entry \(entry): its cluster is used by \(what) too (\(word.hex))")
    scan.log.add(CheckLog.Tally(areRefcountsBroken: earlier.contains(.refcounts)))
    proposeCopy(word, entry)
  }
}
