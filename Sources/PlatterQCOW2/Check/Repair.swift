package import PlatterCore

// A repair, step by step. Each begins with a scan of its own, so that no step relies on what an earlier one meant to do.
//
//   scan      nothing is written before the first one has ended
//   mark      dirty (version 3): cut here or later, the next writer repairs again
//   snapshots entries that cannot be read, or whose L1 table lies nowhere, go; metadata in others' clusters moves
//   conflicts clusters that two uses share are copied to the end of the file, and one use is moved there; so are references
//             that no width of refcounts can say
//   entries   bad ones are mended where their place is sound, else they read as zeros
//   bitmaps   damaged ones, and those in others' clusters, are dropped
//   counts    set to the references; rebuilt at the end of the file where table or blocks are broken, or where their width
//             cannot say them, in version 3
//   flags     copied flags follow the counts
//   marks     cleared where nothing is left
//
// Refcounts lose every conflict: they can be made anew, guest bytes cannot. A flush ends each step. While something of the
// metadata cannot be read, no count is lowered: what looks unused may not be.

extension QCOW2: RepairableFormat {
  package static func repair(
    _ store: any ByteStore, _ context: OpenContext, _ mode: RepairMode, workers: Int,
    progress: @escaping @Sendable (Double) -> Bool
  ) throws(ImageError) -> CheckReport {
    try naming(store.name) { () throws(ImageError) in
      var repair = Repair(store, context, workers: workers, progress: progress)
      return try repair.run(mode)
    }
  }

  /// Repairs an image that its last writer did not close, before it is written again.
  static func repairIfDirty(_ store: any ByteStore, _ context: OpenContext) throws(ImageError) {
    let features = try Opening(store, context).header.incompatibleFeatures
    guard features.contains(.dirty) else { return }
    let report = try repair(store, context, .all, workers: Workers.processorCount) { _ in true }
    guard report.corruptions == 0, report.checkErrors == 0 else {
      throw .corrupt("the image was not closed, and \(report.corruptions) errors in it could not be repaired")
    }
  }
}

/// One repair at work.
struct Repair {
  /// Copies may fill as much as the file has, and this: entries that all name one cluster must not fill a disk.
  private static let copyAllowance: UInt64 = 64 << 20

  let store: any ByteStore
  let context: OpenContext
  private let workers: Int
  private let progress: @Sendable (Double) -> Bool
  /// What the guest loses, and what could not be done.
  var notes: [String] = []
  /// Copied flags that were set or cleared.
  private var fixedFlagCount = 0
  /// Bytes that may still be copied; nil once a copy was refused.
  var copyBudget: UInt64? = 0
  /// The cipher of a LUKS image, once it was needed, and whether the passphrase was asked for.
  var unlocked: (any SectorCipher)?
  var didAsk = false

  init(
    _ store: any ByteStore, _ context: OpenContext, workers: Int, progress: @escaping @Sendable (Double) -> Bool
  ) {
    self.store = store
    var context = context
    // The data file is not needed, a key only for copies; a corrupt mark does not stop a repair.
    context.isWritable = false
    context.isForFactsOnly = true
    context.isForCheck = true
    context.warn = { _ in }
    self.context = context
    self.workers = workers
    self.progress = progress
  }

  mutating func note(_ text: String) {
    if notes.count < CheckReport.maximumMessageCount { notes.append(text) }
  }

  /// A scan of the image as it is now.
  func scan(skipsRefcounts: Bool = false, reserved: Range<UInt64> = 0..<0, workers: Int? = nil)
    throws(ImageError) -> ImageScan
  {
    var options = ImageScan.Options(workers: workers ?? self.workers, progress: progress)
    options.skipsRefcounts = skipsRefcounts
    options.reserved = reserved
    return try ImageScan(try Volume(opening: store, context), options)
  }

  private func survey() throws(ImageError) -> ImageScan {
    let scan = try scan()
    try scan.compare()
    return scan
  }

  mutating func run(_ mode: RepairMode) throws(ImageError) -> CheckReport {
    let first = try survey()
    copyBudget = first.fileByteCount.adding(Self.copyAllowance) ?? .max
    let before = first.report(first.header.incompatibleFeatures)
    // A wrong passphrase is told before anything is written.
    if mode == .all, first.header.encryption == .luks, first.log.fixes.contains(where: \.isForData) {
      _ = try cipher(first.header)
    }
    // What the bits that we do not know promise may not hold behind a repair.
    try setAutoclear(first.header.knownAutoclear, first.header)
    guard before.corruptions > 0 || before.leaks > 0 else { return before }
    switch mode {
    case .leaks: try repairLeaks(first)
    case .all: try repairAll(first)
    }
    let last = try survey()
    var features = last.header.incompatibleFeatures
    if mode == .all, last.log.tally.corruptions == 0 { features = try clearMarks(last.header) }
    var after = last.report(features)
    // Flags count by the counts that were set: many follow from a wrong count, or only come to light behind it.
    let others = (before.corruptions - first.log.tally.wrongFlags) - (after.corruptions - last.log.tally.wrongFlags)
    after.corruptionsFixed = max(0, others) + fixedFlagCount
    after.leaksFixed = max(0, before.leaks - after.leaks)
    let left = after.messages
    after.messages = []
    // What was lost comes first: findings may be many, and are cut.
    for message in notes + before.messages + left { after.say(message) }
    return after
  }

  private mutating func repairLeaks(_ first: ImageScan) throws(ImageError) {
    var now = first
    if first.log.tally.leaks > 0 {
      guard !first.log.tally.isTreeBroken, !first.log.tally.areRefcountsBroken else {
        return note("leaks are left alone: damaged metadata may refer to what looks unused (repair all first)")
      }
      try setCounts(try scan(), lowersOnly: true)
      try store.flush()
      now = try survey()
    }
    // Where nothing else is wrong, flags follow the counts, as in qemu-img's repair.
    let tally = now.log.tally
    if tally.wrongFlags == tally.corruptions, tally.leaks == 0 { try repairFlags(now) }
  }

  private mutating func repairFlags(_ now: ImageScan) throws(ImageError) {
    guard now.log.tally.wrongFlags > 0 else { return }
    try setFlags(now)
    try store.flush()
    fixedFlagCount = now.log.tally.wrongFlags
  }

  private mutating func repairAll(_ first: ImageScan) throws(ImageError) {
    guard first.log.tally.corruptions > 0 || first.log.tally.leaks > 0 else { return }
    try setFeatures(first.header, first.header.incompatibleFeatures.union(.dirty))
    try repairMetadata()
    try solveConflicts()
    if first.log.tally.badEntries > 0 {
      try mendEntries(try scan())
      try store.flush()
      // A mended entry may name a cluster that is somebody's already.
      try solveConflicts()
    }
    try repairBitmaps()
    try repairCounts()
    try repairFlags(try survey())
  }

  private mutating func repairCounts() throws(ImageError) {
    let now = try survey()
    let tally = now.log.tally
    let width = widthNeeded(now)
    if tally.areRefcountsBroken || width != nil {
      try rebuildCounts(keepsHigher: tally.isTreeBroken, order: width ?? now.header.refcountOrder)
    } else if tally.wrongCounts > 0 {
      try setCounts(try scan(), lowersOnly: false, keepsHigher: tally.isTreeBroken)
      try store.flush()
    }
  }

  /// The width of counts, as a power of two, that holds all references where the present one does not.
  private mutating func widthNeeded(_ scan: ImageScan) -> UInt32? {
    let (present, most) = (scan.header.refcountOrder, scan.log.tally.mostReferences)
    guard scan.header.version >= 3, most > scan.refcounts.geometry.maximum else { return nil }
    // From 16 bits on, which every writer knows, so that the next snapshot does not need another one.
    let width = most <= UInt64(UInt16.max) ? max(present, 4) : 5
    note(
      "refcounts have \(1 << width) bits now: a cluster is referred to \(most) times, more than "
        + "\(1 << present) bits can say")
    return width
  }

  // MARK: Marks

  private func clearMarks(_ header: Header) throws(ImageError) -> IncompatibleFeatures {
    let features = header.incompatibleFeatures.subtracting([.dirty, .corrupt])
    try setFeatures(header, features)
    return features
  }

  private func setFeatures(_ header: Header, _ features: IncompatibleFeatures) throws(ImageError) {
    guard header.version >= 3, features != header.incompatibleFeatures else { return }
    try store.flush()
    try write([features.rawValue], at: 72)
    try store.flush()
  }

  func write(_ words: [UInt64], at offset: UInt64) throws(ImageError) {
    let bytes = Words.encode(words)
    try store.write(bytes.rawBytes, at: offset)
  }
}
