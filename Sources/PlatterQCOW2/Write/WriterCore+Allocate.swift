import PlatterCore

extension WriterCore {
  /// Most clusters that one allocation takes.
  private static let maximumRowCount: UInt64 = 4096

  /// Autoclear bits that this writer does not keep up: their owners must not trust what they guard any longer.
  mutating func prepareToWrite(_ barrier: Barrier) throws(ImageError) {
    // Disk and machine state are written through writers of their own.
    guard !isPrepared else { return }
    try mark(barrier)
    isPrepared = true
  }

  private mutating func mark(_ barrier: Barrier) throws(ImageError) {
    guard !header.incompatibleFeatures.contains(.dirty) else {
      throw ImageError(
        .forbidden, "the image was not closed after its last use: its refcounts must be repaired before it is written")
    }
    if try store.byteCount() < fileByteCount { try store.resize(to: fileByteCount) }
    guard header.version >= 3 else { return }
    let kept = bitmaps.isEmpty ? header.knownAutoclear.subtracting(.bitmaps) : header.knownAutoclear
    if kept != header.autoclearFeatures {
      try store.write(Words.encode([kept.rawValue]).rawBytes, at: 88)
      try barrier()
      header.autoclearFeatures = kept
    }
    try openBitmaps(barrier)
  }

  mutating func allocate(_ range: Range<UInt64>) throws(ImageError) -> Allocation {
    if let damage { throw damage }
    return geometry.hasExtendedL2 ? try allocateSubclusters(range) : try allocateClusters(range)
  }

  private func clusterStart(_ guest: UInt64) -> UInt64 { guest / clusterByteCount * clusterByteCount }

  /// What the new space must be filled with, for a cluster whose entry was `word`.
  private func fill(_ word: UInt64, isFresh: Bool) -> Allocation.Fill {
    let entry = L2Entry(rawValue: word)
    let isZero = entry.readsZero && !entry.isCompressed && !geometry.hasExtendedL2
    let isAbsent = word & ~L2Entry.copied == 0 && !(hasDataFile && word & L2Entry.copied != 0)
    if isZero || (isAbsent && !hasBacking) { return isFresh && !isEncrypted ? .readsZero : .writeZeros }
    return .guestBytes
  }

  /// Space of the image's own that an entry holds without using it: a preallocated zero cluster.
  private func ownSpace(_ word: UInt64) -> UInt64? {
    let entry = L2Entry(rawValue: word)
    guard !entry.isCompressed, entry.readsZero, entry.hostOffset != 0, word & L2Entry.copied != 0 else { return nil }
    return entry.hostOffset
  }

  private mutating func isTableShared(_ guest: UInt64) -> Bool {
    let index = l1Index(of: guest)
    return index < l1.count && l1[index] != 0 && l1[index] & L1Entry.copied == 0
  }

  private mutating func allocateClusters(_ range: Range<UInt64>) throws(ImageError) -> Allocation {
    let cluster = clusterByteCount
    let start = clusterStart(range.lowerBound)
    // Entries of one L2 table at most.
    let tableEnd = (start / geometry.l1EntryCoverage + 1) * geometry.l1EntryCoverage
    let end = min(clusterStart(range.upperBound - 1) + cluster, tableEnd, start + Self.maximumRowCount * cluster)
    let first = try entry(of: start).word
    if hasDataFile { return try allocateInDataFile(start..<end) }
    let isShared = isTableShared(start)
    if !isShared, let host = ownSpace(first) {
      var rowEnd = start + cluster
      while rowEnd < end, try ownSpace(entry(of: rowEnd).word) == host + (rowEnd - start) { rowEnd += cluster }
      try checkOverlap(host..<host + (rowEnd - start), "a data cluster")
      return Allocation(
        start: start, byteCount: rowEnd - start, store: 0, offset: host, cipher: isEncrypted ? 1 : 0, fill: .writeZeros,
        token: Token.owned)
    }
    var wantedEnd = start + cluster
    while wantedEnd < end {
      let word = try entry(of: wantedEnd).word
      if !isShared, ownSpace(word) != nil { break }
      wantedEnd += cluster
    }
    try makeTable(for: start)
    let (row, isFresh) = try allocate((wantedEnd - start) / cluster)
    let count = row.upperBound - row.lowerBound
    let last = try entry(of: start + (count - 1) * cluster).word
    let fills = [fill(first, isFresh: isFresh), fill(last, isFresh: isFresh)]
    return Allocation(
      start: start, byteCount: count * cluster, store: 0, offset: row.lowerBound * cluster, cipher: isEncrypted ? 1 : 0,
      fill: fills.contains(.guestBytes) ? .guestBytes : fills[0], token: Token.new)
  }

  /// The table that will name new space comes before it in the file, so that data that belongs together lies together.
  private mutating func makeTable(for guest: UInt64) throws(ImageError) { try writableTable(l1Index(of: guest)) }

  /// With an external data file every guest byte has its place there already; it may hold anything.
  private mutating func allocateInDataFile(_ range: Range<UInt64>) throws(ImageError) -> Allocation {
    Allocation(
      start: range.lowerBound, byteCount: range.upperBound - range.lowerBound, store: 1, offset: range.lowerBound,
      cipher: isEncrypted ? 1 : 0, fill: .guestBytes, token: Token.owned)
  }

  /// Extended entries: the subclusters of one cluster.
  private mutating func allocateSubclusters(_ range: Range<UInt64>) throws(ImageError) -> Allocation {
    let start = clusterStart(range.lowerBound)
    let unit = geometry.subclusterByteCount
    let (word, bitmap) = try entry(of: start)
    let host = L2Entry(rawValue: word).hostOffset
    let isCompressed = L2Entry(rawValue: word).isCompressed
    let isOwned = (host != 0 || hasDataFile) && word & L2Entry.copied != 0 && !isTableShared(start) && !isCompressed
    let from = range.lowerBound / unit * unit
    var to = min((range.upperBound + unit - 1) / unit * unit, start + clusterByteCount)
    if isOwned || hasDataFile {
      // As far as the subclusters are not allocated; the others are written in place.
      var next = from
      while next < to, bitmap >> ((next - start) / unit) & 1 == 0 { next += unit }
      to = max(next, from + unit)
      let place = hasDataFile ? start : host
      if !hasDataFile { try checkOverlap(place..<place + clusterByteCount, "a data cluster") }
      return Allocation(
        start: from, byteCount: to - from, store: hasDataFile ? 1 : 0, offset: place + (from - start),
        cipher: isEncrypted ? 1 : 0, fill: .guestBytes, token: Token.owned)
    }
    try makeTable(for: start)
    let (row, _) = try allocate(1)
    let offset = row.lowerBound * clusterByteCount
    // What a snapshot shares, or what was packed, is copied whole; else only what is written takes space.
    guard bitmap & L2Entry.allSubclustersAllocated == 0, !isCompressed else {
      return Allocation(
        start: start, byteCount: clusterByteCount, store: 0, offset: offset, cipher: isEncrypted ? 1 : 0,
        fill: .guestBytes, token: Token.new)
    }
    return Allocation(
      start: from, byteCount: to - from, store: 0, offset: offset + (from - start), cipher: isEncrypted ? 1 : 0,
      fill: .guestBytes, token: Token.new)
  }

  /// What `link` and `abandon` must know of an allocation.
  enum Token {
    /// Clusters taken for it.
    static let new: UInt64 = 0
    /// Space that the entries had already.
    static let owned: UInt64 = 1
    /// A packed unit of (token >> 2) bytes.
    static let packed: UInt64 = 2
  }

  // MARK: Packed clusters

  mutating func allocatePacked(unitStart: UInt64, byteCount: UInt64) throws(ImageError) -> Allocation? {
    if let damage { throw damage }
    guard !hasDataFile, !isEncrypted else { return nil }
    precondition(byteCount > 0 && byteCount < clusterByteCount)
    try makeTable(for: unitStart)
    let offset = try packedPlace(byteCount)
    guard offset + byteCount <= 1 << (70 - geometry.clusterBits), (offset + byteCount) >> 56 == 0 else {
      throw ImageError(.unsupported, "the file would grow past what a compressed entry can name (\(offset.hex))")
    }
    tails.fill(offset, byteCount: byteCount)
    return Allocation(
      start: unitStart, byteCount: clusterByteCount, store: 0, offset: offset, fill: .readsZero,
      token: byteCount << 2 | Token.packed)
  }

  /// Finds the place: in a cluster with room for it, behind the last packed unit, or at the start of a new cluster. Counts
  /// every cluster that the sectors touch.
  private mutating func packedPlace(_ byteCount: UInt64) throws(ImageError) -> UInt64 {
    let cluster = clusterByteCount
    while let start = tails.tightest(for: byteCount) {
      if try takesReference(start / cluster) {
        try refcounts.increment(start / cluster, store)
        return start
      }
      tails.forget(start)
    }
    if let start = tails.newest, try takesReference(start / cluster) {
      let last = (start + byteCount - 1) / cluster
      if try refcounts.allocate(exactly: last, store) {
        try claim(last..<last + 1)
        try refcounts.increment(start / cluster, store)
        return start
      }
    }
    let (row, _) = try allocate(1)
    return row.lowerBound * cluster
  }

  /// Whether one more packed unit can lie in a cluster that holds some.
  private mutating func takesReference(_ cluster: UInt64) throws(ImageError) -> Bool {
    let present = try refcounts.count(of: cluster, store)
    return present > 0 && present < refcounts.geometry.maximum
  }

  func packedClusters(_ location: PackedLocation) -> ClosedRange<UInt64> {
    location.offset / clusterByteCount...(location.offset + location.byteCount - 1) / clusterByteCount
  }

  private func packedWord(offset: UInt64, byteCount: UInt64) -> UInt64 {
    PackedLocation.word(offset: offset, byteCount: byteCount, clusterBits: geometry.clusterBits)
  }

  // MARK: Linking

  mutating func link(_ allocation: Allocation) throws(ImageError) {
    if let damage { throw damage }
    var rest = allocation
    do throws(ImageError) {
      if allocation.token & 3 == Token.packed {
        try linkPacked(allocation)
      } else if geometry.hasExtendedL2 {
        try linkSubclusters(allocation)
      } else {
        while rest.byteCount > 0 { try linkCluster(of: &rest) }
      }
    } catch {
      abandon(rest)
      throw error
    }
  }

  /// Links the first cluster of an allocation, and takes it off.
  private mutating func linkCluster(of rest: inout Allocation) throws(ImageError) {
    let old = try entry(of: rest.start).word
    try setEntry(of: rest.start, rest.offset | L2Entry.copied)
    dropReferences(old, replacedBy: rest.offset)
    rest.start += clusterByteCount
    rest.offset += clusterByteCount
    rest.byteCount -= clusterByteCount
  }

  private mutating func linkPacked(_ allocation: Allocation) throws(ImageError) {
    let old = try entry(of: allocation.start).word
    try setEntry(
      of: allocation.start, packedWord(offset: allocation.offset, byteCount: allocation.token >> 2))
    dropReferences(old, replacedBy: nil)
  }

  private mutating func linkSubclusters(_ allocation: Allocation) throws(ImageError) {
    let start = clusterStart(allocation.start)
    let host = allocation.offset - (allocation.start - start)
    let (word, bitmap) = try entry(of: start)
    let first = (allocation.start - start) / geometry.subclusterByteCount
    let count = allocation.byteCount / geometry.subclusterByteCount
    let bits = (count == 32 ? 0xffff_ffff : (UInt64(1) << count) - 1) << first
    let isReplaced = allocation.token & 3 == Token.new && allocation.byteCount == clusterByteCount
    let kept = isReplaced || L2Entry(rawValue: word).isCompressed ? 0 : bitmap
    try setEntry(of: start, host | L2Entry.copied, bitmap: kept & ~(bits << 32) | bits)
    dropReferences(word, replacedBy: host)
  }

  /// Notes that an entry no longer refers to what it did.
  mutating func dropReferences(_ word: UInt64, replacedBy host: UInt64?) {
    let entry = L2Entry(rawValue: word)
    if entry.isCompressed {
      for cluster in packedClusters(PackedLocation(entry, clusterBits: geometry.clusterBits)) {
        refcounts.drop(cluster)
      }
    } else if entry.hostOffset != 0, entry.hostOffset != host, !hasDataFile {
      refcounts.drop(entry.hostOffset / clusterByteCount)
    }
  }

  mutating func abandon(_ allocation: Allocation) {
    switch allocation.token & 3 {
    case Token.new:
      let first = clusterStart(allocation.offset) / clusterByteCount
      let last = (allocation.offset + allocation.byteCount - 1) / clusterByteCount
      for cluster in first...last { refcounts.drop(cluster) }
    case Token.packed:
      let word = L2Entry(rawValue: packedWord(offset: allocation.offset, byteCount: allocation.token >> 2))
      for cluster in packedClusters(PackedLocation(word, clusterBits: geometry.clusterBits)) { refcounts.drop(cluster) }
    default: break
    }
  }
}
