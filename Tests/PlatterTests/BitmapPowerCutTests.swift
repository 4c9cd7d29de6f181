import Platter
import PlatterCore
import PlatterQCOW2
import TestSupport
import Testing
import WriterProof

/// A disk and its bitmaps at one moment.
private struct Moment {
  var bytes: [UInt8]
  var bitmaps: [FlagBitmap]
  /// Operations of the journal at its end.
  var end = 0

  init(_ model: BitmapModel) {
    bytes = model.disk.bytes
    bitmaps = model.bitmaps
    end = model.disk.store.journal?.count ?? 0
  }

  func bitmap(_ name: String) -> FlagBitmap? { bitmaps.first { $0.name == name } }
}

/// What was found in a file that nobody closed.
private struct Remains {
  let disk: DiskImage
  let source: any BitmapSource
  let bytes: [UInt8]
  var trusted: [BitmapFacts] { source.bitmaps.filter { !$0.isInconsistent } }

  init(_ left: PagedBytes, _ model: WriterModel) throws {
    let check = QCOW2Checker(left, countsLeaks: false)
    guard check.damages.isEmpty else { throw WriterFault("damaged: \(check.damages.joined(separator: "; "))") }
    disk = try WriterModel.open(PagedStore(left, name: "left"), model.built, model.subject)
    guard let map = disk.layers[0].map as? any BitmapSource else { throw WriterFault("no bitmaps") }
    source = map
    bytes = try disk.read(Int(disk.byteCount), at: 0)
  }

  /// Bitmaps that claim to be right say what they said when the image was closed last, and nothing was written since.
  func check(_ moments: [Moment]) throws {
    guard !trusted.isEmpty else { return }
    guard moments.contains(where: { moment in moment.bytes == bytes && isRight(moment) }) else {
      throw WriterFault("trusted: \(trusted.map(\.name)), but the disk or its bitmaps have changed since")
    }
  }

  private func isRight(_ moment: Moment) -> Bool {
    trusted.allSatisfy { facts in
      guard let bitmap = moment.bitmap(facts.name), bitmap.isEnabled == facts.isEnabled,
        bitmap.granularity == facts.granularity, let found = try? source.joinedRanges(facts.name)
      else { return false }
      return found == bitmap.ranges(UInt64(bytes.count))
    }
  }

  /// Bitmaps that claim to be right miss nothing, whether or not the step that failed was done.
  func check(before: Moment, after: Moment?) throws {
    for facts in trusted {
      var found = FlagBitmap(name: facts.name, granularity: facts.granularity, isEnabled: facts.isEnabled, flags: [])
      found = found.resized(to: UInt64(bytes.count))
      for range in try source.joinedRanges(facts.name) { found.mark(range) }
      let candidates = [before.bitmap(facts.name), after?.bitmap(facts.name)].compactMap { $0 }
      guard !candidates.isEmpty else { throw WriterFault("where does \(facts.name) come from?") }
      let covers = candidates.contains { $0.resized(to: UInt64(bytes.count)).flags.isSubset(of: found.flags) }
      guard covers else { throw WriterFault("\(facts.name) has lost bits") }
      guard facts.isEnabled, before.bitmap(facts.name)?.isEnabled == true else { continue }
      for index in 0..<min(bytes.count, before.bytes.count) where bytes[index] != before.bytes[index] {
        guard found.isMarked(UInt64(index)) else { throw WriterFault("byte \(index) changed behind \(facts.name)") }
      }
    }
  }

  /// The image can be used again: what was not saved is removed, and a new bitmap is added.
  static func goOn(_ left: PagedBytes, _ model: WriterModel) throws {
    let store = PagedStore(left, name: "left")
    let disk = try WriterModel.open(store, model.built, model.subject, isWritable: true)
    let writer = try DiskWriter(disk)
    try writer.restructure { (map, _) throws(ImageError) in
      guard let map = map as? any BitmapMap else { return }
      for bitmap in map.bitmaps where bitmap.isInconsistent { try map.removeBitmap(named: bitmap.name) }
      try map.addBitmap(named: "new", granularity: nil, isEnabled: true)
    }
    if disk.byteCount > 0 { try writer.write([1].rawBytes, at: 0) }
    try writer.close()
    let again = try Remains(store.bytes, model)
    guard again.source.bitmaps.allSatisfy({ !$0.isInconsistent }), again.trusted.last?.name == "new",
      try again.source.joinedRanges("new").isEmpty == (disk.byteCount == 0)
    else { throw WriterFault("the image cannot be used on: \(again.source.bitmaps)") }
  }
}

extension [Bool] {
  fileprivate func isSubset(of other: [Bool]) -> Bool { zip(self, other).allSatisfy { !$0 || $1 } }
}

/// A bitmap that says it was saved is right, whenever the power goes and whatever the disk below does. Else it says that
/// it was not, can only be removed, and the image goes on without it.
///
/// `PLATTER_CUT_COUNT` sets about how many cuts are tried; `PLATTER_CUT_SEED` runs one sequence alone.
@Suite("Bitmaps of a writer that is stopped") struct BitmapPowerCutTests {
  static let cutCount = PowerCutTests.cutCount / 2
  static let chosenSeed = PowerCutTests.chosenSeed

  @Test("the power goes", arguments: Seeds.shares)
  func powerCuts(share: UInt64) {
    Seeds.run(share: share, amount: Self.cutCount, chosen: Self.chosenSeed) { seed in
      var random = SeededGenerator(seed: seed)
      let subject = BitmapModel.subject(&random)
      do { return try Self.powerCuts(subject, &random) } catch { throw WriterFault("\(error)\n\(subject)") }
    }
  }

  /// - Returns: how many cuts there were.
  private static func powerCuts(_ subject: WriterSubject, _ random: inout SeededGenerator) throws -> Int {
    var cuts = 0
    let built = try subject.build(seed: random.next())
    let journal = ChangeJournal()
    var model = BitmapModel(try WriterModel(subject, built, journal: journal))
    var moments = [Moment(model)]
    try Self.run(&model, &random) { moments.append($0) }
    try PowerCut([built.image], journal).forEachCut(&random) { count, files in
      cuts += 1
      let left = files[0]
      do {
        let remains = try Remains(left, model.disk)
        try remains.check(moments)
        if let moment = moments.last(where: { $0.end == count }) {
          try BitmapModel.compare(moment.bitmaps, with: remains.source, UInt64(remains.bytes.count))
        }
        if cuts % 8 == 0 { try Remains.goOn(left, model.disk) }
      } catch {
        throw WriterFault("cut after \(count): \(error)\n\(model.history.joined(separator: "\n"))")
      }
    }
    return cuts
  }

  /// Some steps; the image is closed and opened again often.
  /// - Parameter closed: told each moment at which it was closed.
  private static func run(
    _ model: inout BitmapModel, _ random: inout SeededGenerator, closed: (Moment) throws -> Void
  ) throws {
    try model.add(&random)
    for _ in 0..<Int.random(in: 4...15, using: &random) {
      if random.chance(4) { try model.reopen() } else { try model.step(&random) }
      if model.history.last == "reopen" { try closed(Moment(model)) }
    }
    try model.reopen()
    try closed(Moment(model))
  }

  @Test(
    "the disk below fails, once or for good", arguments: ["read", "write", "flush", "one read", "one write"],
    0..<UInt64(cutCount / 300 + 1))
  func faults(kind: String, seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let subject = BitmapModel.subject(&random)
    let built = try subject.build(seed: random.next())
    // Once without faults, to know what each step does.
    var moments: [Moment] = []
    try Self.steps(try WriterModel(subject, built), random) { moments.append(Moment($0)) }
    for nth in 1... {
      var done: [BitmapModel] = []
      do {
        let model = try WriterModel(subject, built, front: { FaultyStore($0, Self.fault(kind, nth)) })
        try Self.steps(model, random) { done.append($0) }
        return
      } catch is ImageError {
        guard let model = done.last else { continue }
        // Closing may fail too, and must not make it worse.
        try? model.disk.writer.close()
        do {
          let after = done.count < moments.count ? moments[done.count] : nil
          try Remains(model.disk.store.bytes, model.disk).check(before: Moment(model), after: after)
        } catch {
          Issue.record("\(kind) \(nth), seed \(seed): \(error)\n\(subject)\n\(model.history.joined(separator: "\n"))")
          return
        }
      }
    }
  }

  private static func fault(_ kind: String, _ nth: Int) -> FaultyStore.Fault {
    switch kind {
    case "read": .failRead(nth: nth)
    case "write": .failWrite(nth: nth)
    case "flush": .failFlush(nth: nth)
    case "one read": .failOnce(.read, nth: nth)
    default: .failOnce(.write, nth: nth)
    }
  }

  /// - Parameter done: told the state at first and after each step.
  private static func steps(_ disk: WriterModel, _ random: SeededGenerator, done: (BitmapModel) -> Void) throws {
    var (model, random) = (BitmapModel(disk), random)
    done(model)
    try model.add(&random)
    done(model)
    for _ in 0..<Int.random(in: 4...15, using: &random) {
      try model.step(&random)
      done(model)
    }
    try model.reopen()
    done(model)
  }
}
