import PlatterCore

// A tree is an L1 table, the L2 tables that it names and the clusters that these name: the present disk, or a snapshot.
// What two trees share is counted once for each of them, so that taking or giving up a tree means one step on every
// count below it. L2 tables pass through the cache slice by slice: memory does not follow the size of the tree.

extension WriterCore {
  /// Checks a whole tree before anything is done to it: that every entry is sound, that all it refers to is counted, and
  /// that no L2 table stands in it twice.
  /// - Parameter isRaised: every count is going to be raised by one, and must have room for that.
  mutating func checkTree(_ l1: [UInt64], _ name: String, isRaised: Bool) throws(ImageError) {
    var tables: [UInt64] = []
    for index in l1.indices where l1[index] & ~L1Entry.copied != 0 {
      let entry = L1Entry(rawValue: l1[index])
      do throws(ImageError) { try check(entry, index) } catch {
        guard name != Self.activeName else { throw error }
        throw ImageError(error.code, "\(name): \(error.message)")
      }
      tables.append(entry.tableOffset)
    }
    tables.sort()
    for index in tables.indices.dropFirst() where tables[index] == tables[index - 1] {
      throw .corrupt("\(name) names L2 table \(tables[index].hex) twice; the image must be repaired first")
    }
    try eachEntry(l1) { core, word, place throws(ImageError) in try core.checkEntry(word, place, isRaised: isRaised) }
    for table in tables { try checkCount(table / clusterByteCount, "L2 table \(table.hex)", isRaised: isRaised) }
  }

  static var activeName: String { "L1 table" }

  private mutating func checkEntry(_ word: UInt64, _ place: Place, isRaised: Bool) throws(ImageError) {
    let entry = L2Entry(rawValue: word)
    let what = "L2 table piece at \(place.piece.hex), word \(place.word)"
    guard !entry.isCompressed else {
      let location = PackedLocation(entry, clusterBits: geometry.clusterBits)
      guard location.reservedBits == 0, location.offset < fileByteCount else {
        throw .truncated(
          "\(what): compressed cluster \(location.offset.hex) lies past the end of the file (\(fileByteCount.hex))")
      }
      for cluster in packedClusters(location) { try checkCount(cluster, what, isRaised: isRaised) }
      return
    }
    let host = entry.hostOffset
    guard word & L2Entry.reservedMask == 0, host % clusterByteCount == 0 else {
      throw .corrupt("\(what): reserved bits are set, or the cluster is not aligned (\(word.hex))")
    }
    guard host != 0 else { return }
    guard host < fileByteCount else {
      throw .truncated("\(what): data cluster \(host.hex) lies past the end of the file (\(fileByteCount.hex))")
    }
    try checkCount(host / clusterByteCount, what, isRaised: isRaised)
  }

  private mutating func checkCount(_ cluster: UInt64, _ what: String, isRaised: Bool) throws(ImageError) {
    let present = try refcounts.count(of: cluster, store)
    guard present > 0 else {
      throw .corrupt("\(what) refers to cluster \(cluster), whose refcount is 0; the image must be repaired first")
    }
    guard !isRaised || present < refcounts.geometry.maximum else {
      throw .unsupported(
        "cluster \(cluster) is referred to \(present) times, the most that this image's refcounts can say: there is no "
          + "room for another snapshot")
    }
  }

  /// Visits every entry of a tree that is not empty.
  mutating func eachEntry(
    _ l1: [UInt64], _ body: (inout WriterCore, UInt64, Place) throws(ImageError) -> Void
  ) throws(ImageError) {
    for word in l1 {
      let table = L1Entry(rawValue: word).tableOffset
      if table != 0 { try eachEntry(ofTableAt: table, body) }
    }
  }

  private mutating func eachEntry(
    ofTableAt table: UInt64, _ body: (inout WriterCore, UInt64, Place) throws(ImageError) -> Void
  ) throws(ImageError) {
    for piece in stride(from: table, to: table + clusterByteCount, by: Int(geometry.sliceByteCount)) {
      let words = try l2.words(at: piece, count: Int(geometry.sliceByteCount / 8), store)
      for index in stride(from: 0, to: words.count, by: geometry.l2EntryWordCount) where words[index] != 0 {
        try body(&self, words[index], Place(piece: piece, word: index))
      }
    }
  }

  /// Visits every host cluster that a tree refers to, as often as it does; an L2 table after what it names.
  private mutating func eachReference(
    _ l1: [UInt64], _ body: (inout WriterCore, UInt64) throws(ImageError) -> Void
  ) throws(ImageError) {
    for word in l1 {
      let table = L1Entry(rawValue: word).tableOffset
      guard table != 0 else { continue }
      try eachEntry(ofTableAt: table) { core, word, _ throws(ImageError) in
        let entry = L2Entry(rawValue: word)
        if entry.isCompressed {
          for cluster in core.packedClusters(PackedLocation(entry, clusterBits: core.geometry.clusterBits)) {
            try body(&core, cluster)
          }
        } else if entry.hostOffset != 0 {
          try body(&core, entry.hostOffset / core.clusterByteCount)
        }
      }
      try body(&self, table / clusterByteCount)
    }
  }

  /// Raises the count of everything below a tree by one. Where that fails, what was raised is lowered again.
  mutating func raiseTree(_ l1: [UInt64], _ barrier: Barrier) throws(ImageError) {
    var done: UInt64 = 0
    do throws(ImageError) {
      try eachReference(l1) { core, cluster throws(ImageError) in
        try core.refcounts.increment(cluster, core.store)
        done += 1
        if core.refcounts.isLarge { try core.publishRefcounts(barrier) }
      }
    } catch  where !refcounts.isCopying {
      try lowerTree(l1, atMost: done, barrier)
      throw error
    }
  }

  /// Gives up a tree that nothing on disk names any more; its counts are lower on disk after the next publish, or where the
  /// copy of the counts is named.
  /// - Parameter limit: only so many references, in the order of `raiseTree`.
  mutating func lowerTree(_ l1: [UInt64], atMost limit: UInt64 = .max, _ barrier: Barrier) throws(ImageError) {
    var done: UInt64 = 0
    try eachReference(l1) { core, cluster throws(ImageError) in
      guard done < limit else { return }
      done += 1
      core.refcounts.drop(cluster)
      if core.refcounts.isLarge { try core.lowerDropped(barrier) }
    }
  }

  private mutating func lowerDropped(_ barrier: Barrier) throws(ImageError) {
    if refcounts.isCopying { try subtractDropped() } else { try publish(barrier) }
  }

  /// Takes the flag "copied" from every entry of a tree that another one shares.
  /// - Returns: the L1 entries without it.
  mutating func withoutFlags(_ l1: [UInt64], _ barrier: Barrier) throws(ImageError) -> [UInt64] {
    let pieceWordCount = Int(geometry.sliceByteCount / 8)
    try eachEntry(l1) { core, word, place throws(ImageError) in
      guard !L2Entry(rawValue: word).isCompressed, word & L2Entry.copied != 0 else { return }
      try core.l2.set(place.word, ofPieceAt: place.piece, to: word & ~L2Entry.copied, count: pieceWordCount, core.store)
      if core.isLarge { try core.publish(barrier) }
    }
    return l1.map { $0 & ~L1Entry.copied }
  }

  /// The present tree with the flag "copied" where the counts say exactly one. No table that is there changes: those with a
  /// wrong flag are copied, and given up with the next publish.
  mutating func rightL1() throws(ImageError) -> [UInt64] {
    var right = l1
    for index in l1.indices {
      let table = L1Entry(rawValue: l1[index]).tableOffset
      guard table != 0 else { continue }
      if let new = try copyWithRightFlags(table) {
        right[index] = new | L1Entry.copied
        refcounts.drop(table / clusterByteCount)
        overlaps.remove(clusterAt: table)
        overlaps.add(.l2Table, clusterAt: new)
      } else {
        let isAlone = try refcounts.count(of: table / clusterByteCount, store) == 1
        right[index] = isAlone ? table | L1Entry.copied : table
      }
      if refcounts.isLarge { try writeCounts() }
    }
    return right
  }

  /// - Returns: where the copy lies; nil where all flags are right.
  private mutating func copyWithRightFlags(_ table: UInt64) throws(ImageError) -> UInt64? {
    var new: UInt64?
    for offset in stride(from: 0, to: clusterByteCount, by: Int(geometry.sliceByteCount)) {
      let words = try l2.words(at: table + offset, count: Int(geometry.sliceByteCount / 8), store)
      let right = try withRightFlags(words)
      guard right != words else { continue }
      let place: UInt64
      if let new { place = new } else { place = try copyTable(table) }
      new = place
      try store.write(Words.encode(right).rawBytes, at: place + offset)
    }
    return new
  }

  private mutating func withRightFlags(_ words: [UInt64]) throws(ImageError) -> [UInt64] {
    var right = words
    for index in stride(from: 0, to: words.count, by: geometry.l2EntryWordCount) {
      let entry = L2Entry(rawValue: words[index])
      guard !entry.isCompressed, entry.hostOffset != 0 else { continue }
      let isAlone = try refcounts.count(of: entry.hostOffset / clusterByteCount, store) == 1
      right[index] = isAlone ? words[index] | L2Entry.copied : words[index] & ~L2Entry.copied
    }
    return right
  }

  private mutating func copyTable(_ table: UInt64) throws(ImageError) -> UInt64 {
    let new = try allocate(1, for: "L2 table").clusters.lowerBound * clusterByteCount
    l2.drop(new..<new + clusterByteCount)
    try copyTable(from: table, to: new)
    return new
  }
}
