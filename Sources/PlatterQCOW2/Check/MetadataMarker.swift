import PlatterCore

/// Marks what belongs to one structure alone.
struct MetadataMarker {
  /// A structure that can be written anew, at the end of the file, where it lies in another one's clusters.
  enum Part: Hashable, Sendable {
    /// Cannot be moved.
    case fixed
    /// What the header extension gives the crypto header beyond its end.
    case cryptoSurplus
    case activeL1
    case snapshotTable
    /// By number in the table.
    case snapshotL1(Int)
    case refcounts
    case bitmapDirectory
    /// By number in the directory.
    case bitmap(Int)
  }

  let scan: ImageScan
  let ledger: ClusterLedger
  /// Faults are counted in the first window only: the same structures pass by in each.
  let isFirst: Bool

  /// Everything but bitmaps.
  func markAll() throws(ImageError) {
    let size = scan.geometry.clusterByteCount
    try mark("header", .fixed, at: 0, byteCount: size)
    if isFirst, scan.header.autoclearFeatures.contains(.rawDataFile), !scan.header.hasDataFile {
      scan.log.corruption(.header, 88, "the header calls a data file raw, but the image has none")
    }
    try markCryptoHeader()
    if let fault = scan.activeTreeFault { unreadable(fault) }
    let active = scan.trees[0]
    if active.entryCount > 0 { try mark(active.name, .activeL1, at: active.offset, byteCount: active.entryCount * 8) }
    try markSnapshots()
    if !scan.options.skipsRefcounts { try markRefcounts() }
    for cluster in scan.options.reserved where ledger.window.contains(cluster) {
      try mark("new refcounts", .refcounts, at: cluster * size, byteCount: size)
    }
  }

  /// What the LUKS header takes by its own word; what the header extension gives it beyond that comes last.
  private func markCryptoHeader() throws(ImageError) {
    let own = scan.volume.encryption.ownRange
    try mark("crypto header", .fixed, at: own.lowerBound, byteCount: UInt64(own.count))
  }

  func markCryptoSurplus() throws(ImageError) {
    guard let place = scan.volume.encryption.place else { return }
    let size = scan.geometry.clusterByteCount
    let start = scan.volume.encryption.ownRange.upperBound.dividedRoundingUp(by: size) * size
    guard let byteCount = (place.offset + place.byteCount).subtracting(start), byteCount > 0 else { return }
    try mark("end of the crypto header", .cryptoSurplus, at: start, byteCount: byteCount)
  }

  private func markSnapshots() throws(ImageError) {
    let snapshots = scan.snapshots
    for fault in snapshots.faults { unreadable(fault) }
    for item in snapshots.items where item.fault != nil { unreadable(item.fault ?? "") }
    for (index, item) in snapshots.items.enumerated() where item.isIncomplete && isFirst {
      scan.log.corruption(.metadata, 0, "snapshot table entry \(index) is incomplete")
    }
    if snapshots.byteCount > 0 {
      try mark("snapshot table", .snapshotTable, at: scan.header.snapshotTableOffset, byteCount: snapshots.byteCount)
    }
    for (index, item) in snapshots.items.enumerated() {
      guard let tree = item.tree, tree.entryCount > 0 else { continue }
      try mark(tree.name, .snapshotL1(index), at: tree.offset, byteCount: tree.entryCount * 8)
    }
  }

  private func markRefcounts() throws(ImageError) {
    let refcounts = scan.refcounts
    if let damage = refcounts.tableDamage { return broken(damage) }
    let size = scan.geometry.clusterByteCount
    try mark(
      "refcount table", .refcounts, at: scan.header.refcountTableOffset,
      byteCount: UInt64(scan.header.refcountTableClusterCount) * size)
    for bad in refcounts.badBlocks { broken("refcount table, entry \(bad.index): \(bad.why)") }
    for (index, block) in refcounts.blocks.enumerated() where block != 0 {
      try mark("refcount block \(index)", .refcounts, at: block, byteCount: size)
    }
  }

  /// - Returns: whether the structure lies inside the file.
  @discardableResult
  func mark(_ what: @autoclosure () -> String, _ part: Part, at offset: UInt64, byteCount: UInt64) throws(ImageError)
    -> Bool
  {
    let size = scan.geometry.clusterByteCount
    guard byteCount > 0 else { return true }
    let isReserved = scan.options.reserved.contains(offset / size)
    guard offset % size == 0, isReserved || !scan.rules.leavesFile(offset, byteCount) else {
      unreadable("the \(what()) (\(byteCount) bytes at \(offset.hex)) is not aligned or lies past the end of the file")
      return false
    }
    let clusters = offset / size..<(offset + byteCount).dividedRoundingUp(by: size)
    if scan.hasManyWindows, isFirst { for cluster in clusters { scan.reach(cluster: cluster) } }
    let manner = ClusterLedger.Manner(use: part == .refcounts ? [.metadata, .refcounts] : .metadata)
    for cluster in clusters.clamped(to: ledger.window) {
      guard case .conflict(let earlier)? = try ledger.add([.init(cluster: cluster)], manner).first?.problem else {
        continue
      }
      scan.log.corruption(
        .metadata, cluster, "the \(what()) overlaps another structure at \((cluster * size).hex)")
      note(part, earlier)
    }
    return true
  }

  private func note(_ part: Part, _ earlier: ClusterLedger.Use) {
    var tally = CheckLog.Tally()
    // Refcounts can be made anew, and bits can be done without.
    tally.areRefcountsBroken = part == .refcounts || earlier.contains(.refcounts)
    // The place where it should be only looks unused.
    tally.isTreeBroken = !tally.areRefcountsBroken
    switch part {
    case .refcounts, .fixed: break
    case .bitmapDirectory, .bitmap, .cryptoSurplus: scan.log.note(misplaced: part)
    case .activeL1, .snapshotTable, .snapshotL1:
      if !tally.areRefcountsBroken { scan.log.note(misplaced: part) }
    }
    scan.log.add(tally)
  }

  /// A structure that cannot be followed, so that what it refers to only looks unused.
  func unreadable(_ text: String) {
    guard isFirst else { return }
    scan.log.corruption(.metadata, 0, text)
    scan.log.add(CheckLog.Tally(isTreeBroken: true))
  }

  private func broken(_ text: String) {
    guard isFirst else { return }
    scan.log.corruption(.metadata, 0, text)
    scan.log.add(CheckLog.Tally(areRefcountsBroken: true))
  }
}
