import PlatterCore
import PlatterCrypto

/// Everything that a writer of one qcow2 image changes, behind the locks of `QCOW2Writer`.
///
/// What is on disk, and in which order it gets there:
///
///     stage A   data (written by the engine), changed refcounts, new refcount blocks, new L2 tables
///               -- barrier (one more before the refcount table where it names new blocks or has moved)
///     stage B   L2 entries of tables that were there, L1 entries
///               -- barrier, only where references were dropped
///     stage C   lower refcounts
///
/// So at every moment each cluster that something on disk refers to has a count on disk that is at least as high, and a
/// cut leaves leaks at the most.
struct WriterCore {
  /// L2 tables are cached to this size.
  private static let l2CacheByteCount: UInt64 = 8 << 20
  /// The file grows in steps of at least and at most this, so that not every cluster costs a system call.
  private static let growthByteCounts: ClosedRange<UInt64> = 4 << 20...64 << 20

  var header: Header
  var extensions: HeaderExtensions
  let geometry: Geometry
  let store: any ByteStore
  /// The external data file, where there is one.
  let dataFile: (any ByteStore)?
  let hasDataFile: Bool
  var isDataFileRaw: Bool
  var hasBacking: Bool
  let isEncrypted: Bool
  /// Key slots, where the encryption is LUKS.
  var luks: LUKSVolume?
  var refcounts: Refcounts
  var l1: [UInt64]
  var dirtyL1: Range<Int>?
  var l2: WordCache
  /// L2 tables that no L1 table on disk names yet: their words belong to stage A.
  var newTables: Set<UInt64> = []
  var overlaps: OverlapGuard
  /// The table of snapshots, as it is on disk.
  var snapshots: [SnapshotRecord]
  /// The directory of bitmaps, where it can be trusted.
  var bitmaps: [BitmapRecord]
  /// The same while the image is written; empty before `prepareToWrite`.
  var liveBitmaps: [LiveBitmap] = []
  var haveBitmapsChanged = false
  /// Clusters that the bitmaps' directory on disk still names, and the one in memory does not.
  var bitmapGarbage: [UInt64] = []
  /// Where the next packed units may go.
  var tails: PackedTails
  /// Physical length of the file, which always covers every cluster in use.
  var fileByteCount: UInt64
  /// The disk's size as the header on disk has it; `header` is ahead of it until the next publish.
  var byteCountOnDisk: UInt64
  var isPrepared = false
  /// Guest bytes released since the last publish.
  var releasedByteCount: UInt64 = 0
  /// Why no more writes are taken, once damage was found or a publish has failed.
  var damage: ImageError?

  init(_ volume: Volume) throws(ImageError) {
    header = volume.header
    byteCountOnDisk = volume.header.virtualByteCount
    extensions = volume.extensions
    geometry = volume.geometry
    store = volume.file
    hasDataFile = volume.header.hasDataFile
    dataFile = volume.stores.count > 1 ? volume.stores[1] : nil
    isDataFileRaw = volume.header.isDataFileRaw
    hasBacking = volume.backing != nil
    isEncrypted = volume.header.encryption != .none
    luks = volume.encryption.luks
    let length = try store.byteCount()
    let cluster = volume.geometry.clusterByteCount
    // The last cluster may have been cut inside itself; from now on it is whole.
    fileByteCount = length.dividedRoundingUp(by: cluster) * cluster
    refcounts = try Refcounts(volume.header, store, fileByteCount: fileByteCount)
    l1 = Words.decode(
      try store.readFully("L1 table", at: header.l1Offset, count: Int(header.l1EntryCount) * 8))
    l2 = WordCache(capacity: Int(Self.l2CacheByteCount / volume.geometry.sliceByteCount))
    overlaps = OverlapGuard(clusterByteCount: cluster)
    tails = PackedTails(clusterByteCount: cluster)
    snapshots = volume.snapshots
    bitmaps = volume.bitmaps
    addFixedMetadata()
    addSnapshotMetadata()
    for index in l1.indices { try addTable(index) }
    for block in refcounts.blockOffsets { overlaps.add(.refcountBlock, clusterAt: block) }
  }

  var clusterByteCount: UInt64 { geometry.clusterByteCount }

  private mutating func addFixedMetadata() {
    overlaps.add(.header, at: 0, byteCount: clusterByteCount)
    overlaps.add(.l1Table, at: header.l1Offset, byteCount: UInt64(l1.count) * 8)
    overlaps.add(.refcountTable, at: header.refcountTableOffset, byteCount: refcounts.tableByteCount)
  }

  private mutating func addTable(_ index: Int) throws(ImageError) {
    let entry = L1Entry(rawValue: l1[index])
    guard entry.tableOffset != 0 else { return }
    try check(entry, index)
    overlaps.add(.l2Table, clusterAt: entry.tableOffset)
  }

  func check(_ entry: L1Entry, _ index: Int) throws(ImageError) {
    guard entry.reservedBits == 0 else {
      throw .corrupt("L1 table, entry \(index): reserved bits are set (\(entry.rawValue.hex))")
    }
    guard entry.tableOffset % clusterByteCount == 0 else {
      throw .corrupt(
        "L1 table, entry \(index): L2 table \(entry.tableOffset.hex) is not aligned to the cluster size "
          + "(\(clusterByteCount.hex))")
    }
    guard entry.tableOffset + clusterByteCount <= fileByteCount else {
      throw .truncated(
        "L1 table, entry \(index): L2 table \(entry.tableOffset.hex) lies past the end of the file "
          + "(\(fileByteCount.hex))")
    }
  }

  // MARK: Space

  /// Takes up to `wanted` clusters in a row and makes the file reach behind them.
  /// - Parameter purpose: what they are for, in messages.
  /// - Returns: the clusters, and whether they read as zeros.
  mutating func allocate(_ wanted: UInt64, for purpose: String = "data cluster") throws(ImageError)
    -> (clusters: Range<UInt64>, isFresh: Bool)
  {
    let freshStart = refcounts.freshStart
    let row = try counting { counts, store throws(ImageError) in try counts.allocate(wanted, store) }
    // The header lies there, whatever its count says. Scripts know the sentence.
    if row.lowerBound == 0 { throw try marked("Preventing invalid allocation of \(purpose) at offset 0") }
    try claimOrDrop(row)
    return (row, row.lowerBound >= freshStart)
  }

  mutating func allocateRow(_ count: UInt64) throws(ImageError) -> Range<UInt64> {
    let row = try counting { counts, store throws(ImageError) in try counts.allocateRow(count, store) }
    try claimOrDrop(row)
    return row
  }

  /// Takes space; where the counts turn out to be damaged, the image is marked corrupt and takes no more writes.
  private mutating func counting<R>(
    _ body: (inout Refcounts, any ByteStore) throws(ImageError) -> R
  ) throws(ImageError) -> R {
    do throws(ImageError) {
      return try body(&refcounts, store)
    } catch {
      guard error.code == .corrupt else { throw error }
      throw try marked(error.message)
    }
  }

  /// `claim`; clusters that cannot be claimed are given back.
  private mutating func claimOrDrop(_ clusters: Range<UInt64>) throws(ImageError) {
    do throws(ImageError) {
      try claim(clusters)
    } catch {
      for cluster in clusters { refcounts.drop(cluster) }
      throw error
    }
  }

  /// Checks newly taken clusters against all metadata and grows the file over them.
  mutating func claim(_ clusters: Range<UInt64>) throws(ImageError) {
    let range = clusters.lowerBound * clusterByteCount..<clusters.upperBound * clusterByteCount
    guard range.upperBound <= L1Entry.offsetMask else {
      throw ImageError(.unsupported, "the file would grow past what an entry can name (\(range.upperBound.hex))")
    }
    try checkOverlap(range, "a newly allocated cluster")
    if range.upperBound > fileByteCount {
      // About a quarter of what is there, a power of two.
      let quarter: UInt64 = 1 << UInt64(61 - min(60, fileByteCount.leadingZeroBitCount))
      let bounds = Self.growthByteCounts
      let step = max(min(max(quarter, bounds.lowerBound), bounds.upperBound), clusterByteCount)
      let wanted = range.upperBound.dividedRoundingUp(by: step) * step
      // Refcount blocks may have made the file longer than this already.
      let present = try store.byteCount()
      fileByteCount = max(present, try grow(to: range.upperBound, orBetter: wanted, present))
    }
  }

  /// Makes the file longer in large steps, or only as long as it must be where there is no room for more.
  private func grow(to needed: UInt64, orBetter wanted: UInt64, _ present: UInt64) throws(ImageError) -> UInt64 {
    guard wanted > present else { return present }
    do throws(ImageError) {
      try store.resize(to: wanted)
      return wanted
    } catch {
      if needed > present { try store.resize(to: needed) }
      return needed
    }
  }

  /// Refuses to write over metadata: the image is then marked corrupt, and takes no more writes.
  mutating func checkOverlap(_ range: Range<UInt64>, _ what: String) throws(ImageError) {
    if let damage { throw damage }
    guard let kind = overlaps.metadata(in: range) else { return }
    throw try marked("\(what) at \(range.lowerBound.hex) overlaps \(kind.rawValue)")
  }

  /// Marks the image corrupt for everybody who opens it. Returns what is thrown from now on.
  private mutating func marked(_ finding: String) throws(ImageError) -> ImageError {
    let error = ImageError(.corrupt, finding + ImageError.markedCorrupt, file: store.name)
    damage = error
    if header.version >= 3 {
      header.incompatibleFeatures.insert(.corrupt)
      try store.write(Words.encode([header.incompatibleFeatures.rawValue]).rawBytes, at: 72)
      try store.flush()
    }
    return error
  }

  // MARK: Tables

  /// Where an L2 entry lies: the cached piece and the word in it.
  struct Place {
    var piece: UInt64
    var word: Int
  }

  func l1Index(of guest: UInt64) -> Int { Int(guest / geometry.l1EntryCoverage) }

  func place(of guest: UInt64, inTableAt table: UInt64) -> Place {
    let entry = guest % geometry.l1EntryCoverage / clusterByteCount
    let slice = entry / geometry.sliceEntryCount
    return Place(
      piece: table + slice * geometry.sliceByteCount,
      word: Int(entry % geometry.sliceEntryCount) * geometry.l2EntryWordCount)
  }

  private var wordsPerPiece: Int { Int(geometry.sliceByteCount / 8) }

  /// The L2 entry of a guest cluster, and its bitmap where entries are extended; 0 where there is no table.
  mutating func entry(of guest: UInt64) throws(ImageError) -> (word: UInt64, bitmap: UInt64) {
    let index = l1Index(of: guest)
    guard index < l1.count else { return (0, 0) }
    let table = L1Entry(rawValue: l1[index]).tableOffset
    guard table != 0 else { return (0, 0) }
    let place = place(of: guest, inTableAt: table)
    let word = try l2.word(place.word, ofPieceAt: place.piece, count: wordsPerPiece, store)
    guard geometry.hasExtendedL2 else { return (word, 0) }
    return (word, try l2.word(place.word + 1, ofPieceAt: place.piece, count: wordsPerPiece, store))
  }

  mutating func setEntry(of guest: UInt64, _ word: UInt64, bitmap: UInt64 = 0) throws(ImageError) {
    let table = try writableTable(l1Index(of: guest))
    let place = place(of: guest, inTableAt: table)
    try l2.set(place.word, ofPieceAt: place.piece, to: word, count: wordsPerPiece, store)
    if geometry.hasExtendedL2 {
      try l2.set(place.word + 1, ofPieceAt: place.piece, to: bitmap, count: wordsPerPiece, store)
    }
  }

  /// All words of the piece that holds a guest cluster's entry, and the index of its first word.
  mutating func piece(of guest: UInt64, inTableAt table: UInt64) throws(ImageError) -> (words: [UInt64], place: Place) {
    let place = place(of: guest, inTableAt: table)
    return (try l2.words(at: place.piece, count: wordsPerPiece, store), place)
  }

  /// The L2 table of an L1 entry, as one that this image alone refers to: made or copied where needed.
  @discardableResult mutating func writableTable(_ index: Int) throws(ImageError) -> UInt64 {
    let entry = L1Entry(rawValue: l1[index])
    if entry.tableOffset != 0, entry.rawValue & L1Entry.copied != 0 { return entry.tableOffset }
    let (row, isFresh) = try allocate(1, for: "L2 table")
    let table = row.lowerBound * clusterByteCount
    l2.drop(table..<table + clusterByteCount)
    if entry.tableOffset == 0 {
      if !isFresh { try fillOrDrop(table) { (core) throws(ImageError) in try core.clear(table) } }
    } else {
      try fillOrDrop(table) { (core) throws(ImageError) in try core.copyTable(from: entry.tableOffset, to: table) }
      refcounts.drop(entry.tableOffset / clusterByteCount)
      overlaps.remove(clusterAt: entry.tableOffset)
    }
    overlaps.add(.l2Table, clusterAt: table)
    newTables.insert(table)
    setL1(index, to: table | L1Entry.copied)
    return table
  }

  /// Fills the cluster of a new table; it is given back where that fails.
  private mutating func fillOrDrop(_ table: UInt64, _ fill: (inout WriterCore) throws(ImageError) -> Void)
    throws(ImageError)
  {
    do throws(ImageError) {
      try fill(&self)
    } catch {
      refcounts.drop(table / clusterByteCount)
      throw error
    }
  }

  private func clear(_ table: UInt64) throws(ImageError) { try store.zero(table..<table + clusterByteCount) }

  mutating func copyTable(from old: UInt64, to new: UInt64) throws(ImageError) {
    for offset in stride(from: 0, to: clusterByteCount, by: Int(geometry.sliceByteCount)) {
      let words = try l2.words(at: old + offset, count: wordsPerPiece, store)
      try store.write(Words.encode(words).rawBytes, at: new + offset)
    }
  }

  mutating func setL1(_ index: Int, to value: UInt64) {
    l1[index] = value
    dirtyL1 = min(dirtyL1?.lowerBound ?? index, index)..<max(dirtyL1?.upperBound ?? 0, index + 1)
  }

  // MARK: Publishing

  /// The guest has given back so much that it should soon be used again, rather than the file grow.
  private static let maximumReleasedByteCount: UInt64 = 8 << 20

  var isLarge: Bool { takesMuchMemory || releasedByteCount >= Self.maximumReleasedByteCount }

  /// What is not published yet has outgrown the caches.
  var takesMuchMemory: Bool { refcounts.isLarge || l2.dirtyCount >= l2.capacity / 2 }

  var isDirty: Bool {
    refcounts.isDirty || l2.dirtyCount > 0 || dirtyL1 != nil || !refcounts.dropped.isEmpty
      || header.virtualByteCount != byteCountOnDisk
  }

  /// Publishes and cuts the file behind the last cluster that is used.
  mutating func close(_ barrier: Barrier) throws(ImageError) {
    try publish(barrier)
    try closeBitmaps(barrier)
    try writeCounts()
    let end = refcounts.freshStart * clusterByteCount
    if end < (try store.byteCount()) { try store.resize(to: end) }
    try barrier()
  }
}

func withBigEndianBytes(_ value: UInt32) -> [UInt8] {
  (0..<4).map { UInt8(truncatingIfNeeded: value >> (24 - 8 * $0)) }
}
