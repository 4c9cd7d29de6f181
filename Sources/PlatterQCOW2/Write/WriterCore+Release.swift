import PlatterCore

extension WriterCore {
  /// Makes whole map units read as zeros or as the backing image again.
  mutating func release(_ range: Range<UInt64>, as result: Release) throws(ImageError) -> ReleaseAnswer {
    guard header.version >= 3 || result == .absent else { return try releaseWithoutZeroFlag(range, result) }
    // A raw data file is a disk of its own: what the table says, its bytes must say too.
    guard !isDataFileRaw else { return .cannot }
    return try releaseUnits(range, as: result)
  }

  mutating func releaseUnits(_ range: Range<UInt64>, as result: Release) throws(ImageError) -> ReleaseAnswer {
    if let damage { throw damage }
    var answer = ReleaseAnswer.done
    var guest = range.lowerBound
    while guest < range.upperBound {
      let start = guest / clusterByteCount * clusterByteCount
      let end = min(start + clusterByteCount, range.upperBound)
      if result == .absent || (result == .discard && !hasBacking), l1[l1Index(of: start)] == 0 {
        // Nothing there in all of the table's range.
        guest = (start / geometry.l1EntryCoverage + 1) * geometry.l1EntryCoverage
        continue
      }
      if geometry.hasExtendedL2 {
        if try !releaseSubclusters(guest..<end, of: start, as: result) { answer = .cannot }
      } else {
        try releaseCluster(start, as: result)
      }
      guest = end
    }
    return answer
  }

  /// Version 2 cannot say zero. Without a backing image what is absent already is zero, and anything can be made absent.
  private mutating func releaseWithoutZeroFlag(_ range: Range<UInt64>, _ result: Release) throws(ImageError)
    -> ReleaseAnswer
  {
    guard !hasBacking, result != .zeroKeepingSpace else { return .cannot }
    return try release(range, as: .absent)
  }

  private mutating func releaseCluster(_ guest: UInt64, as result: Release) throws(ImageError) {
    let word = try entry(of: guest).word
    let entry = L2Entry(rawValue: word)
    let isOwned = !entry.isCompressed && entry.hostOffset != 0 && word & L2Entry.copied != 0
    let isDataFileCluster = hasDataFile && word & L2Entry.copied != 0
    let isAllocated = entry.isCompressed || entry.hostOffset != 0 || isDataFileCluster
    let new: UInt64
    switch result {
    case .zero: new = hasDataFile && isAllocated ? word | L2Entry.zero : L2Entry.zero
    case .zeroKeepingSpace: new = isOwned || isDataFileCluster ? word | L2Entry.zero : L2Entry.zero
    case .discard: new = isAllocated || hasBacking || entry.readsZero ? L2Entry.zero : 0
    case .absent: new = 0
    }
    guard new != word else { return }
    try setEntry(of: guest, new)
    dropReferences(word, replacedBy: L2Entry(rawValue: new).hostOffset)
    if isAllocated { releasedByteCount += clusterByteCount }
  }

  /// False for a part of a packed cluster, which can only go as a whole: the engine then writes zeros.
  private mutating func releaseSubclusters(_ range: Range<UInt64>, of start: UInt64, as result: Release)
    throws(ImageError) -> Bool
  {
    let unit = geometry.subclusterByteCount
    let (word, bitmap) = try entry(of: start)
    let entry = L2Entry(rawValue: word)
    let first = (range.lowerBound - start) / unit
    let count = (range.upperBound - range.lowerBound + unit - 1) / unit
    let bits = (count >= 32 ? 0xffff_ffff : (UInt64(1) << count) - 1) << first
    let isWhole = bits == 0xffff_ffff
    if entry.isCompressed, !isWhole { return false }
    let old = entry.isCompressed ? 0 : bitmap
    var newBitmap = old & ~bits & ~(bits << 32)
    if result != .absent { newBitmap |= bits << 32 }
    let keepsHost =
      !entry.isCompressed && (newBitmap & L2Entry.allSubclustersAllocated != 0 || result == .zeroKeepingSpace)
      && (word & L2Entry.copied != 0 || !isWhole)
    let newWord = keepsHost || hasDataFile ? word : 0
    guard newWord != word || newBitmap != bitmap else { return true }
    try setEntry(of: start, newWord, bitmap: newBitmap)
    if newWord == 0 {
      dropReferences(word, replacedBy: nil)
      if word != 0 { releasedByteCount += clusterByteCount }
    }
    return true
  }
}
