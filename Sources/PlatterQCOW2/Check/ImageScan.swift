import PlatterCore
import Synchronization

// A scan follows everything that occupies clusters of the file and counts the references to each:
//
//   metadata   header, L1 tables, snapshot table, refcount table and blocks, bitmaps, crypto header
//   tables     L2 tables, named by the entries of all L1 tables
//   entries    data and packed clusters, named by the L2 tables; each table is read once, however many name it
//
// in this order, so that a conflict is found at the use that should move. A file of more than 2^23 clusters is scanned
// in windows of so many, each a pass over the tables; passes skip tables that name nothing in their window. Memory is that
// of one window (32 MiB) and of the list of tables (12 MiB), whatever the image says.

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
  let trees: [Volume.Tree]
  let log = CheckLog()
  let options: Options

  init(_ volume: Volume, _ options: Options) throws(ImageError) {
    self.volume = volume
    self.options = options
    store = volume.file
    header = volume.header
    geometry = volume.geometry
    // Not the length at opening time: a repair grows the file.
    fileByteCount = try store.byteCount()
    fileClusterCount = fileByteCount.dividedRoundingUp(by: geometry.clusterByteCount)
    clusterCount = max(fileClusterCount + 1, options.reserved.upperBound)
    rules = EntryRules(
      geometry: geometry, isVersion3: header.version >= 3, hasDataFile: header.hasDataFile,
      hasBacking: volume.backing != nil, fileByteCount: fileByteCount)
    refcounts = try RefcountReader(store, header, fileByteCount: fileByteCount)
    var trees = [volume.activeTree]
    for snapshot in volume.snapshots {
      do throws(ImageError) {
        trees.append(try volume.tree(of: snapshot))
      } catch {
        log.corruption(.header, 0, error.message)
        log.add(CheckLog.Tally(isTreeBroken: true))
      }
    }
    self.trees = trees
  }

  private var windows: [Range<UInt64>] {
    stride(from: 0, to: clusterCount, by: Int(ClusterLedger.windowClusterCount)).map { start in
      start..<min(start + ClusterLedger.windowClusterCount, clusterCount)
    }
  }

  /// Scans the image and gives each window's counts to `visit`, in order.
  func run(_ visit: (ClusterLedger) throws(ImageError) -> Void) throws(ImageError) {
    let windows = windows
    var walk = TableWalk(self, windowCount: windows.count)
    for (index, window) in windows.enumerated() {
      let ledger = ClusterLedger(window)
      try markMetadata(ledger, isFirst: index == 0)
      try walk.markTables(ledger, isFirst: index == 0)
      try walk.followTables(ledger, windowIndex: index)
      try visit(ledger)
      try report(progress: Double(index + 1) / Double(windows.count))
    }
  }

  /// Threads that work on a pass at once.
  var workerCount: Int { min(max(options.workers, 1), Workers.maximumCount) }

  func report(progress: Double) throws(ImageError) {
    guard options.progress(progress) else { throw ImageError(.cancelled, "cancelled", file: store.name) }
  }

  // MARK: Metadata

  private func markMetadata(_ ledger: ClusterLedger, isFirst: Bool) throws(ImageError) {
    let marker = MetadataMarker(scan: self, ledger: ledger, isFirst: isFirst)
    marker.mark("header", at: 0, byteCount: geometry.clusterByteCount)
    for tree in trees where tree.entryCount > 0 {
      marker.mark(tree.name, at: tree.offset, byteCount: tree.entryCount * 8)
    }
    if !volume.snapshots.isEmpty {
      marker.mark(
        "snapshot table", at: header.snapshotTableOffset,
        byteCount: try SnapshotRecord.tableByteCount(store, header))
    }
    if !options.skipsRefcounts { markRefcounts(marker) }
    for cluster in options.reserved where ledger.window.contains(cluster) {
      marker.mark("new refcounts", at: cluster * geometry.clusterByteCount, byteCount: geometry.clusterByteCount)
    }
    if let bytes = volume.extensions.bytes(of: HeaderExtensions.Kind.crypto) {
      let place = try CryptoExtension(parsing: bytes, header, fileByteCount: fileByteCount)
      marker.mark("crypto header", at: place.offset, byteCount: place.byteCount)
    }
    try markBitmaps(marker)
  }

  private func markRefcounts(_ marker: MetadataMarker) {
    if let damage = refcounts.tableDamage {
      marker.broken(damage)
      return
    }
    let cluster = geometry.clusterByteCount
    marker.mark(
      "refcount table", at: header.refcountTableOffset, byteCount: UInt64(header.refcountTableClusterCount) * cluster,
      isRefcounts: true)
    for bad in refcounts.badBlocks { marker.broken("refcount table, entry \(bad.index): \(bad.why)") }
    for (index, block) in refcounts.blocks.enumerated() where block != 0 {
      marker.mark("refcount block \(index)", at: block, byteCount: cluster, isRefcounts: true)
    }
  }

  private func markBitmaps(_ marker: MetadataMarker) throws(ImageError) {
    guard let bytes = volume.extensions.bytes(of: HeaderExtensions.Kind.bitmaps) else { return }
    let records: [BitmapRecord]
    let place: BitmapsExtension
    do throws(ImageError) {
      place = try BitmapsExtension(parsing: bytes, header)
      records = try BitmapRecord.directory(store, place, header)
    } catch {
      // Without the consistency bit the bitmaps are dead anyway.
      if header.autoclearFeatures.contains(.bitmaps) { marker.unreadable(error.message) }
      return
    }
    marker.mark("bitmap directory", at: place.directoryOffset, byteCount: place.directoryByteCount)
    var room = fileByteCount
    for (index, record) in records.enumerated() where record.tableEntryCount > 0 {
      let byteCount = UInt64(record.tableEntryCount) * 8
      // Tables that name each other's place again and again would cost time without end.
      guard let rest = room.subtracting(byteCount) else {
        return marker.unreadable("the tables of the bitmaps are larger than the file (\(fileByteCount.hex))")
      }
      room = rest
      guard marker.mark("table of bitmap \(index)", at: record.tableOffset, byteCount: byteCount) else { continue }
      try forEachWord("bitmap table", at: record.tableOffset, count: UInt64(record.tableEntryCount)) { entry, word in
        let offset = word & L1Entry.offsetMask
        if word & ~(L1Entry.offsetMask | 1) != 0 || (offset != 0 && word & 1 != 0) {
          marker.unreadable("table of bitmap \(index), entry \(entry): reserved bits are set (\(word.hex))")
        }
        guard offset != 0 else { return }
        marker.mark("bitmap \(index)", at: offset, byteCount: geometry.clusterByteCount)
      }
    }
  }

  /// Reads a table of 64-bit words that lies inside the file, 64 KiB at a time.
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

/// Marks what belongs to one structure alone.
private struct MetadataMarker {
  let scan: ImageScan
  let ledger: ClusterLedger
  /// Faults are counted in the first window only: the same structures pass by in each.
  let isFirst: Bool

  /// - Returns: whether the structure lies inside the file.
  @discardableResult
  func mark(_ what: String, at offset: UInt64, byteCount: UInt64, isRefcounts: Bool = false) -> Bool {
    let size = scan.geometry.clusterByteCount
    guard byteCount > 0 else { return true }
    let isReserved = scan.options.reserved.contains(offset / size)
    guard offset % size == 0, isReserved || !scan.rules.leavesFile(offset, byteCount) else {
      unreadable("the \(what) (\(byteCount) bytes at \(offset.hex)) is not aligned or lies past the end of the file")
      return false
    }
    let clusters = (offset / size..<(offset + byteCount).dividedRoundingUp(by: size)).clamped(to: ledger.window)
    for cluster in clusters {
      let use: ClusterLedger.Use = isRefcounts ? [.metadata, .refcounts] : .metadata
      let conflicts = ledger.add([.init(cluster: cluster, use: use, token: 0)], weight: 1)
      guard let conflict = conflicts.first else { continue }
      scan.log.corruption(
        .metadata, cluster, "the \(what) overlaps another structure at \((cluster * size).hex)")
      // Refcounts can be made anew; two others stay entangled.
      let isMendable = isRefcounts || conflict.earlier.contains(.refcounts)
      scan.log.add(CheckLog.Tally(isTreeBroken: !isMendable, areRefcountsBroken: isMendable))
    }
    return true
  }

  func unreadable(_ text: String) {
    guard isFirst else { return }
    scan.log.corruption(.metadata, 0, text)
    scan.log.add(CheckLog.Tally(isTreeBroken: true))
  }

  func broken(_ text: String) {
    guard isFirst else { return }
    scan.log.corruption(.metadata, 0, text)
    scan.log.add(CheckLog.Tally(areRefcountsBroken: true))
  }
}
