import PlatterCore

extension Repair {
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
