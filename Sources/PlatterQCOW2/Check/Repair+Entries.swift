import PlatterCore

extension Repair {
  // MARK: Conflicts

  /// Takes clusters out of conflicts.
  /// - Returns: whether anything changed.
  mutating func apply(_ fixes: [CheckLog.Fix], _ scan: ImageScan) throws(ImageError) -> Bool {
    // Tables first and alone: what a table that is really something else seems to name is no entry.
    let forTables = fixes.filter { fix in
      switch fix {
      case .copyTable, .dropTable: true
      case .copyData, .copyPacked: false
      }
    }
    // Behind the cluster that the upper bound of a packed length may reach.
    var end = scan.clusterCount
    var changes: [(offset: UInt64, word: UInt64)] = []
    for fix in forTables.isEmpty ? fixes : forTables {
      guard spend(2 * scan.geometry.clusterByteCount) else { break }
      guard let change = try prepare(fix, scan, &end) else { continue }
      changes.append(change)
    }
    guard !changes.isEmpty else { return false }
    // Copies are on disk before an entry names them.
    if end > scan.clusterCount { try store.resize(to: end * scan.geometry.clusterByteCount) }
    try store.flush()
    for change in changes { try write([change.word], at: change.offset) }
    try store.flush()
    return true
  }

  /// Takes bytes from the budget for copies; false where it is used up.
  private mutating func spend(_ byteCount: UInt64) -> Bool {
    guard let rest = copyBudget.subtracting(byteCount) else {
      note("clusters that are used twice are left: copying all of them would more than double the file")
      copyBudget = 0
      return false
    }
    copyBudget = rest
    return true
  }

  /// Copies what a fix needs copied to the end of the file.
  private mutating func prepare(_ fix: CheckLog.Fix, _ scan: ImageScan, _ end: inout UInt64)
    throws(ImageError) -> (offset: UInt64, word: UInt64)?
  {
    let size = scan.geometry.clusterByteCount
    switch fix {
    case .dropTable(let entry):
      note("the L1 entry at \(entry.hex) is dropped: \(scan.geometry.l1EntryCoverage) bytes of the disk are lost")
      return (entry, 0)
    case .copyTable(let entry, let word):
      return (entry, try copyCluster(at: L1Entry(rawValue: word).tableOffset, scan, &end))
    case .copyData(let entry, let word):
      let l2 = L2Entry(rawValue: word)
      if l2.readsZero, !scan.geometry.hasExtendedL2 { return (entry, L2Entry.zero) }
      guard scan.header.encryption != .luks else {
        note("the entry at \(entry.hex) is left: its cluster is encrypted for the place where it lies")
        return nil
      }
      return (entry, try copyCluster(at: l2.hostOffset, scan, &end))
    case .copyPacked(let entry, let word):
      let location = PackedLocation(L2Entry(rawValue: word), clusterBits: scan.geometry.clusterBits)
      let inside = location.offset % 512
      let target = end * size + inside
      let offsetBits = 70 - scan.geometry.clusterBits
      guard target + location.byteCount < 1 << offsetBits else { return nil }
      let bytes = try store.readPrefix(at: location.offset, count: Int(location.byteCount))
      try store.write(bytes.rawBytes, at: target)
      end += (inside + location.byteCount).dividedRoundingUp(by: size)
      return (entry, ((word >> offsetBits) << offsetBits) | target)
    }
  }

  /// - Returns: where the copy lies.
  private func copyCluster(at offset: UInt64, _ scan: ImageScan, _ end: inout UInt64) throws(ImageError) -> UInt64 {
    let size = scan.geometry.clusterByteCount
    let target = end * size
    guard target + size <= L1Entry.offsetMask else {
      throw .unsupported("the file would grow past what an entry can name (\(target.hex))")
    }
    let bytes = try store.readPrefix(at: offset, count: Int(size))
    try store.write(bytes.rawBytes, at: target)
    end += 1
    return target
  }

  // MARK: Entries and flags

  /// Mends bad entries of all trees.
  mutating func mendEntries(_ scan: ImageScan) throws(ImageError) {
    var lost: [String] = []
    for tree in scan.trees {
      try rewriteTree(tree, scan) { index, word throws(ImageError) in
        let faults = scan.rules.faults(ofL1: word)
        if faults.isEmpty { return word }
        guard !faults.isDisjoint(with: .fatal) else {
          return word & L1Entry.offsetMask == 0 ? 0 : word & ~L1Entry.reservedMask
        }
        let start = index * scan.geometry.l1EntryCoverage
        lost.append(Self.lost(tree, start, scan.geometry.l1EntryCoverage))
        return 0
      } entry: { guest, word, bitmap throws(ImageError) in
        let reading = scan.rules.read(word, bitmap)
        if reading.faults.isEmpty { return (word, bitmap) }
        let mended = scan.rules.mended(word, bitmap, reading)
        if reading.holdsData, mended.word & L2Entry.offsetMask == 0, lost.count < CheckReport.maximumMessageCount {
          lost.append(Self.lost(tree, guest, scan.geometry.clusterByteCount))
        }
        return mended
      }
    }
    for text in lost { note(text) }
  }

  private static func lost(_ tree: Volume.Tree, _ start: UInt64, _ byteCount: UInt64) -> String {
    "\(tree.name): guest bytes \(start) to \(start &+ byteCount &- 1) are lost, and no longer refer to anything"
  }

  /// Sets the copied flags of the present disk's tables by the refcounts.
  mutating func setFlags(_ scan: ImageScan) throws(ImageError) {
    let (rules, refcounts, size) = (scan.rules, scan.refcounts, scan.geometry.clusterByteCount)
    try rewriteTree(scan.trees[0], scan) { _, word throws(ImageError) in
      guard rules.faults(ofL1: word).isEmpty else { return word }
      let isAlone = try refcounts.count(of: L1Entry(rawValue: word).tableOffset / size) == 1
      return isAlone ? word | L1Entry.copied : word & ~L1Entry.copied
    } entry: { _, word, bitmap throws(ImageError) in
      let reading = rules.read(word, bitmap)
      guard reading.faults.isEmpty, !reading.isPacked, let host = reading.host else { return (word, bitmap) }
      let count = rules.hasDataFile ? 1 : try refcounts.count(of: host.offset / size)
      let isAlone = count == 1
      return (isAlone ? word | L2Entry.copied : word & ~L2Entry.copied, bitmap)
    }
  }

  /// Gives every entry of a tree that is not 0 to a closure, and writes what it makes of it.
  private func rewriteTree(
    _ tree: Volume.Tree, _ scan: ImageScan, l1: (UInt64, UInt64) throws(ImageError) -> UInt64,
    entry: (_ guest: UInt64, UInt64, UInt64) throws(ImageError) -> (word: UInt64, bitmap: UInt64)
  ) throws(ImageError) {
    try scan.forEachWord(tree.name, at: tree.offset, count: tree.entryCount) { index, old throws(ImageError) in
      let word = try l1(index, old)
      if word != old { try write([word], at: tree.offset + index * 8) }
      let table = L1Entry(rawValue: word).tableOffset
      guard table != 0, scan.rules.faults(ofL1: word).isEmpty else { return }
      try rewriteTable(table, guestStart: index &* scan.geometry.l1EntryCoverage, scan, entry)
    }
  }

  private func rewriteTable(
    _ table: UInt64, guestStart: UInt64, _ scan: ImageScan,
    _ entry: (UInt64, UInt64, UInt64) throws(ImageError) -> (word: UInt64, bitmap: UInt64)
  ) throws(ImageError) {
    let geometry = scan.geometry
    let step = geometry.l2EntryWordCount
    for slice in stride(from: 0, to: geometry.clusterByteCount, by: Int(geometry.sliceByteCount)) {
      let old = Words.decode(
        try store.readFully("L2 table", at: table + slice, count: Int(geometry.sliceByteCount)))
      var words = old
      let first = slice / UInt64(step * 8)
      for index in stride(from: 0, to: words.count, by: step) {
        let bitmap = step == 2 ? words[index + 1] : 0
        if words[index] == 0, bitmap == 0 { continue }
        let guest = guestStart &+ (first + UInt64(index / step)) &* geometry.clusterByteCount
        let new = try entry(guest, words[index], bitmap)
        words[index] = new.word
        if step == 2 { words[index + 1] = new.bitmap }
      }
      if words != old { try write(words, at: table + slice) }
    }
  }
}
