import PlatterCore
import Synchronization

// A scan follows everything that occupies clusters of the file and counts the references to each:
//
//   metadata   header, crypto header, L1 tables, snapshot table, refcount table and blocks
//   tables     L2 tables, named by the entries of all L1 tables
//   entries    data and packed clusters, named by the L2 tables; each table is read once, however many name it
//   bitmaps    directory, tables, bits
//
// in this order, so that a conflict is found at the use that should move, or go. A file of more clusters than a window has
// is scanned in windows, each a pass over the tables; passes skip tables that name nothing in their window, and windows that
// nothing lies in are skipped too. Memory is that of one window (32 MiB) and of the list of tables (16 MiB), whatever the
// image says.

/// One scan of an image's metadata.
final class ImageScan: Sendable {
  struct Options: Sendable {
    var workers = 1
    /// Leave the present refcount table and blocks out: they are about to be replaced.
    var skipsRefcounts = false
    /// Clusters that new structures are going to take.
    var reserved: Range<UInt64> = 0..<0
    var progress: @Sendable (Double) -> Bool = { _ in true }
  }

  /// Entries have 56 bits: nothing behind that can be named.
  private static let maximumFileByteCount: UInt64 = 1 << 56

  let store: any ByteStore
  let header: Header
  let geometry: Geometry
  let volume: Volume
  let rules: EntryRules
  let refcounts: RefcountReader
  let fileByteCount: UInt64
  /// Clusters that the file has, a cut one at its end included, and one more: an upper bound of packed bytes may reach it.
  let clusterCount: UInt64
  /// Clusters of the file.
  let fileClusterCount: UInt64
  /// References that a cluster may have. Those that a repair could make the refcounts wide enough for are below it.
  private let referenceLimit: UInt32
  /// The present disk's tree, then those of the sound snapshots.
  let trees: [Volume.Tree]
  /// Why the present disk's L1 table is taken for empty: it does not lie inside the file, or in a header.
  let activeTreeFault: String?
  let snapshots: SnapshotScan
  let bitmaps: BitmapScan
  let log = CheckLog()
  let options: Options
  /// Windows that something lies in.
  private let reachedWindows = Mutex<Set<UInt32>>([])

  init(_ volume: Volume, _ options: Options) throws(ImageError) {
    self.volume = volume
    self.options = options
    store = volume.file
    header = volume.header
    referenceLimit = header.version >= 3 ? ClusterLedger.maximumCount - 1 : UInt32(UInt16.max)
    geometry = volume.geometry
    // Not the length at opening time: a repair grows the file.
    fileByteCount = min(try store.byteCount(), Self.maximumFileByteCount)
    fileClusterCount = fileByteCount.dividedRoundingUp(by: geometry.clusterByteCount)
    clusterCount = max(fileClusterCount + 1, options.reserved.upperBound)
    rules = EntryRules(
      geometry: geometry, isVersion3: header.version >= 3, hasDataFile: header.hasDataFile,
      hasBacking: volume.backing != nil, fileByteCount: fileByteCount)
    refcounts = try RefcountReader(store, header, fileByteCount: fileByteCount)
    snapshots = try SnapshotScan(volume, fileByteCount: fileByteCount)
    bitmaps = try BitmapScan(volume, fileByteCount: fileByteCount)
    var active = volume.activeTree
    activeTreeFault = Self.fault(active, volume, fileByteCount)
    if activeTreeFault != nil { active.entryCount = 0 }
    trees = [active] + snapshots.items.compactMap(\.tree)
  }

  private static func fault(_ active: Volume.Tree, _ volume: Volume, _ fileByteCount: UInt64) -> String? {
    guard active.entryCount > 0 else { return nil }
    let range = active.offset..<active.offset + active.entryCount * 8
    guard active.offset >= volume.geometry.clusterByteCount, range.upperBound <= fileByteCount else {
      return Opening.outside(volume.header, fileByteCount)
    }
    // What lies there is no table, and must not be mended like one.
    return range.overlaps(volume.encryption.ownRange)
      ? "the L1 table (\(range.count) bytes at \(active.offset.hex)) lies in the crypto header" : nil
  }

  // MARK: Windows

  var windowClusterCount: UInt64 {
    ClusterLedger.windowClusterCount(knowsGuests: trees.count > 1)
  }

  private var windowCount: UInt64 { clusterCount.dividedRoundingUp(by: windowClusterCount) }
  var hasManyWindows: Bool { windowCount > 1 }

  /// Notes that something lies in a cluster.
  func reach(cluster: UInt64) {
    guard hasManyWindows else { return }
    reach(windows: [UInt32(truncatingIfNeeded: cluster / windowClusterCount)])
  }

  func reach(windows: Set<UInt32>) {
    guard !windows.isEmpty else { return }
    reachedWindows.withLock { $0.formUnion(windows) }
  }

  /// Scans the image and gives each window's counts to `visit`, in order.
  func run(_ visit: (ClusterLedger) throws(ImageError) -> Void) throws(ImageError) {
    var walk = TableWalk(self)
    var number: UInt32? = 0
    while let present = number {
      let start = UInt64(present) * windowClusterCount
      let ledger = ClusterLedger(
        start..<min(start + windowClusterCount, clusterCount), refcounts, knowsGuests: trees.count > 1,
        limit: referenceLimit)
      let isFirst = present == 0
      let marker = MetadataMarker(scan: self, ledger: ledger, isFirst: isFirst)
      try marker.markAll()
      try walk.markTables(ledger, isFirst: isFirst)
      try walk.followTables(ledger, windowIndex: Int(present))
      try bitmaps.mark(marker)
      try marker.markCryptoSurplus()
      if isFirst, hasManyWindows { reachCounted() }
      try visit(ledger)
      try report(window: Int(present), share: 1)
      number = reachedWindows.withLock { $0.filter { $0 > present && UInt64($0) < windowCount }.min() }
    }
  }

  /// Windows that refcount blocks count clusters of, and those of new structures.
  private func reachCounted() {
    var windows: Set<UInt32> = []
    for cluster in options.reserved { windows.insert(UInt32(truncatingIfNeeded: cluster / windowClusterCount)) }
    for (index, block) in refcounts.blocks.enumerated() where block != 0 {
      let first = UInt64(index) * refcounts.geometry.countsPerBlock
      guard first < clusterCount else { break }
      let last = min(first + refcounts.geometry.countsPerBlock, clusterCount) - 1
      for window in first / windowClusterCount...last / windowClusterCount {
        windows.insert(UInt32(truncatingIfNeeded: window))
      }
    }
    reach(windows: windows)
  }

  /// Threads that work on a pass at once.
  var workerCount: Int { min(max(options.workers, 1), Workers.maximumCount) }

  func report(window: Int, share: Double) throws(ImageError) {
    guard options.progress((Double(window) + share) / Double(windowCount)) else {
      throw ImageError(.cancelled, "cancelled", file: store.name)
    }
  }

  /// Reads a table of 64-bit words that lies inside the file, 64 KiB at a time. Words of 0 are left out.
  func forEachWord(
    _ what: String, at offset: UInt64, count: UInt64, _ body: (UInt64, UInt64) throws(ImageError) -> Void
  ) throws(ImageError) {
    var index: UInt64 = 0
    while index < count {
      let part = min(count - index, 8192)
      let bytes = try store.readPrefix(at: offset + index * 8, count: Int(part * 8))
      let raw = bytes.rawBytes
      for word in 0..<Int(part) {
        // What a cut last cluster lacks reads as zeros.
        if let value = raw.bigEndian(at: word * 8, as: UInt64.self), value != 0 {
          try body(index + UInt64(word), value)
        }
      }
      index += part
    }
  }
}
