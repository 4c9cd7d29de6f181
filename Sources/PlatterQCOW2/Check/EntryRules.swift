import PlatterCore

/// What is right and wrong about single entries of L1 and L2 tables.
struct EntryRules: Sendable {
  struct Faults: OptionSet, Sendable {
    let rawValue: UInt8
    static let reservedBits = Faults(rawValue: 1 << 0)
    static let misaligned = Faults(rawValue: 1 << 1)
    static let pastEnd = Faults(rawValue: 1 << 2)
    /// The copied flag on a packed entry.
    static let copiedPacked = Faults(rawValue: 1 << 3)
    /// Subclusters both allocated and zero, or a bitmap on a packed entry.
    static let bitmap = Faults(rawValue: 1 << 4)
    /// A packed entry in an image whose data lies in another file.
    static let packedElsewhere = Faults(rawValue: 1 << 5)
    /// The entry cannot be followed.
    static let fatal: Faults = [.misaligned, .pastEnd, .packedElsewhere]
  }

  /// An L2 entry, understood as far as that goes.
  struct Reading {
    var faults: Faults = []
    var isPacked = false
    /// Host bytes that it takes; nil for none.
    var host: (offset: UInt64, byteCount: UInt64)?
    /// Guest bytes depend on what lies there.
    var holdsData = false
  }

  let geometry: Geometry
  let isVersion3: Bool
  let hasDataFile: Bool
  let hasBacking: Bool
  let fileByteCount: UInt64

  /// Whether a range leaves the file by a cluster or more; the last cluster may be cut.
  func leavesFile(_ offset: UInt64, _ byteCount: UInt64) -> Bool {
    guard let end = offset.adding(byteCount) else { return true }
    return end > fileByteCount && end - fileByteCount >= geometry.clusterByteCount
  }

  func faults(ofL1 word: UInt64) -> Faults {
    let entry = L1Entry(rawValue: word)
    var faults: Faults = entry.reservedBits != 0 ? .reservedBits : []
    let table = entry.tableOffset
    guard table != 0 else {
      // qemu-img 7.2 follows such an entry to the header.
      if word & L1Entry.copied != 0 { faults.insert(.reservedBits) }
      return faults
    }
    if table % geometry.clusterByteCount != 0 { faults.insert(.misaligned) }
    // Offsets have 56 bits, so the sum cannot overflow.
    if table + geometry.clusterByteCount > fileByteCount { faults.insert(.pastEnd) }
    return faults
  }

  private var reservedMask: UInt64 {
    geometry.hasExtendedL2 || !isVersion3 ? L2Entry.reservedMask | L2Entry.zero : L2Entry.reservedMask
  }

  /// Bits that are 0 in the entry of an ordinary cluster: aligned, not packed, in the image's own file. Such an entry is
  /// sound where its cluster lies inside the file and its subclusters do not contradict each other.
  var uncommonMask: UInt64 {
    hasDataFile ? .max : L2Entry.compressed | reservedMask | (L2Entry.offsetMask & (geometry.clusterByteCount - 1))
  }

  func read(_ word: UInt64, _ bitmap: UInt64) -> Reading {
    let entry = L2Entry(rawValue: word)
    if entry.isCompressed { return readPacked(entry, bitmap) }
    var reading = Reading()
    if word & reservedMask != 0 { reading.faults.insert(.reservedBits) }
    let offset = entry.hostOffset
    if geometry.hasExtendedL2 {
      if bitmap & (bitmap >> 32) & L2Entry.allSubclustersAllocated != 0 { reading.faults.insert(.bitmap) }
      reading.holdsData = bitmap & L2Entry.allSubclustersAllocated != 0
      // Allocated subclusters of no cluster.
      if reading.holdsData, offset == 0, !hasDataFile { reading.faults.insert(.bitmap) }
    } else {
      reading.holdsData = offset != 0 && !entry.readsZero
    }
    let isPlaced = offset != 0 || (hasDataFile && word & L2Entry.copied != 0)
    guard isPlaced else { return reading }
    if offset % geometry.clusterByteCount != 0 { reading.faults.insert(.misaligned) }
    reading.host = (offset, geometry.clusterByteCount)
    if !hasDataFile, leavesFile(offset, geometry.clusterByteCount) { reading.faults.insert(.pastEnd) }
    return reading
  }

  private func readPacked(_ entry: L2Entry, _ bitmap: UInt64) -> Reading {
    var reading = Reading(isPacked: true, holdsData: true)
    let location = PackedLocation(entry, clusterBits: geometry.clusterBits)
    if entry.rawValue & L2Entry.copied != 0 { reading.faults.insert(.copiedPacked) }
    if hasDataFile { reading.faults.insert(.packedElsewhere) }
    if geometry.hasExtendedL2, bitmap != 0 { reading.faults.insert(.bitmap) }
    if location.reservedBits != 0 || leavesFile(location.offset, location.byteCount) { reading.faults.insert(.pastEnd) }
    reading.host = (location.offset, location.byteCount)
    return reading
  }

  /// What a faulty L2 entry becomes: kept where its place is sound, else zeros.
  func mended(_ word: UInt64, _ bitmap: UInt64, _ reading: Reading) -> (word: UInt64, bitmap: UInt64) {
    guard reading.faults.isDisjoint(with: .fatal), !(geometry.hasExtendedL2 && isUnplaced(word, bitmap)) else {
      return readingZero
    }
    if reading.isPacked { return (word & ~L2Entry.copied, 0) }
    // Where a subcluster is both, its bytes are there and are kept.
    let allocated = bitmap & L2Entry.allSubclustersAllocated
    return (word & ~reservedMask, geometry.hasExtendedL2 ? bitmap & ~(allocated << 32) : bitmap)
  }

  private func isUnplaced(_ word: UInt64, _ bitmap: UInt64) -> Bool {
    let entry = L2Entry(rawValue: word)
    return !entry.isCompressed && entry.hostOffset == 0 && !hasDataFile
      && bitmap & L2Entry.allSubclustersAllocated != 0
  }

  /// An entry that reads as zeros, or as the backing image where the format cannot say zeros.
  private var readingZero: (word: UInt64, bitmap: UInt64) {
    if geometry.hasExtendedL2 { return (0, L2Entry.allSubclustersAllocated << 32) }
    return (isVersion3 && hasBacking ? L2Entry.zero : 0, 0)
  }

  /// A sentence part about faults.
  func describe(_ faults: Faults, _ word: UInt64) -> String {
    var parts: [String] = []
    if faults.contains(.reservedBits) { parts.append("reserved bits are set") }
    if faults.contains(.misaligned) { parts.append("it points inside a cluster") }
    if faults.contains(.pastEnd) { parts.append("it points past the end of the file (\(fileByteCount.hex))") }
    if faults.contains(.copiedPacked) { parts.append("the copied flag is set on a packed cluster") }
    if faults.contains(.bitmap) { parts.append("the subclusters contradict each other") }
    if faults.contains(.packedElsewhere) { parts.append("a packed cluster cannot lie in a data file") }
    return parts.joined(separator: ", ") + " (\(word.hex))"
  }
}
