import PlatterCore
import PlatterCrypto

extension WriterCore {
  mutating func amend(_ request: AmendRequest, _ barrier: Barrier) throws(ImageError) {
    if let damage { throw damage }
    let wanted = try Amendment(request, self)
    if wanted.version == 2, header.compression != .deflate, try hasPackedClusters() {
      throw .unsupported("an image with clusters that zstd has packed cannot be made compat=0.10")
    }
    // Worked out before anything is written: it may be refused.
    let slots = try wanted.keySlots.map { change throws(ImageError) in try luks?.plan(change) }
    try publish(barrier)
    if wanted.version == 3, header.version == 2 { try upgrade(barrier) }
    if let order = wanted.refcountOrder, order != header.refcountOrder {
      try changeRefcounts(to: order, request, barrier)
    }
    try setFlags(wanted, barrier)
    if let plan = slots ?? nil { try luks?.carryOut(plan, barrier) }
    if wanted.version == 2, header.version == 3 { try downgrade(request, barrier) }
  }

  private mutating func setFlags(_ wanted: Amendment, _ barrier: Barrier) throws(ImageError) {
    var (new, items) = (header, extensions)
    if let isLazy = wanted.hasLazyRefcounts, header.version >= 3 {
      if isLazy {
        new.compatibleFeatures.insert(.lazyRefcounts)
      } else {
        new.compatibleFeatures.remove(.lazyRefcounts)
      }
    }
    if wanted.dropsRawDataFile { new.autoclearFeatures.remove(.rawDataFile) }
    if let name = wanted.dataFileName { items = items.replacing(HeaderExtensions.Kind.dataFile, with: name) }
    guard new != header || items != extensions else { return }
    try rewriteHeader(new, items, barrier)
    isDataFileRaw = new.autoclearFeatures.contains(.rawDataFile)
  }

  // MARK: Version

  private mutating func upgrade(_ barrier: Barrier) throws(ImageError) {
    // Version 3 wants the disk's size in every entry of the snapshot table.
    let complete = snapshots.map { $0.withUsualExtra(presentByteCount: header.virtualByteCount) }
    if complete != snapshots { try switchSnapshots(to: complete, barrier) }
    var new = header
    new.version = 3
    new.headerByteCount = Header.version3ByteCount
    new.unknownBytes = [UInt8](repeating: 0, count: 7)
    var items = extensions
    if clusterByteCount > 4096 {
      items = items.replacing(HeaderExtensions.Kind.featureNames, with: FeatureNames.standard)
    }
    try rewriteHeader(new, items, barrier)
  }

  /// Version 2 cannot say that a cluster reads as zeros: such entries become data or nothing first, in every tree.
  private mutating func downgrade(_ request: AmendRequest, _ barrier: Barrier) throws(ImageError) {
    let total = UInt64(l1.count) + snapshots.reduce(0) { $0 + UInt64($1.l1EntryCount) }
    var done: UInt64 = 0
    func step() {
      done += 1
      request.progress(done, total)
    }
    try expandZeros(l1, barrier, step)
    for snapshot in snapshots { try expandZeros(try l1Table(of: snapshot), barrier, step) }
    try publish(barrier)
    var new = header
    new.version = 2
    new.headerByteCount = UInt32(Header.version2ByteCount)
    new.incompatibleFeatures = []
    new.compression = .deflate
    new.compatibleFeatures = []
    new.autoclearFeatures = []
    new.unknownBytes = []
    try rewriteHeader(new, extensions.replacing(HeaderExtensions.Kind.featureNames, with: []), barrier)
  }

  /// Whether the disk or a snapshot has one.
  private mutating func hasPackedClusters() throws(ImageError) -> Bool {
    var isFound = false
    var trees = [l1]
    for snapshot in snapshots { trees.append(try l1Table(of: snapshot)) }
    for tree in trees {
      try checkTree(tree, "an L1 table", isRaised: false)
      try eachEntry(tree) { _, word, _ throws(ImageError) in
        if L2Entry(rawValue: word).isCompressed { isFound = true }
      }
    }
    return isFound
  }

  /// A table that several trees share changes for all of them at once, and what it names is counted for each.
  /// - Parameter step: called after each entry of the L1 table.
  private mutating func expandZeros(_ l1: [UInt64], _ barrier: Barrier, _ step: () -> Void) throws(ImageError) {
    try checkTree(l1, "an L1 table", isRaised: false)
    for word in l1 {
      defer { step() }
      guard word != 0 else { continue }
      let table = L1Entry(rawValue: word).tableOffset
      let owners = try refcounts.count(of: table / clusterByteCount, store)
      try eachEntry([word]) { core, word, place throws(ImageError) in
        let entry = L2Entry(rawValue: word)
        guard !entry.isCompressed, entry.readsZero else { return }
        let new = try core.expanded(entry, owners: owners)
        try core.l2.set(
          place.word, ofPieceAt: place.piece, to: new, count: Int(core.geometry.sliceByteCount / 8), core.store)
        if core.isLarge { try core.publish(barrier) }
      }
    }
  }

  private mutating func expanded(_ entry: L2Entry, owners: UInt64) throws(ImageError) -> UInt64 {
    var host = entry.hostOffset
    let count = try refcounts.count(of: host / clusterByteCount, store)
    let isAlone = host != 0 && count == owners
    if host != 0, !hasBacking || !isAlone {
      // The space may hold somebody else's bytes.
      for _ in 0..<owners { refcounts.drop(host / clusterByteCount) }
      host = 0
    }
    guard hasBacking else { return 0 }
    if host == 0 {
      host = try allocate(1).clusters.lowerBound * clusterByteCount
      try refcounts.increment(host / clusterByteCount, by: owners - 1, store)
    }
    try store.zero(host..<host + clusterByteCount)
    return owners == 1 ? host | L2Entry.copied : host
  }
}
