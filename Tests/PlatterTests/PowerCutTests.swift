import Platter
import PlatterCore
import PlatterQCOW2
import SystemPackage
import TestSupport
import Testing
import WriterProof

/// What a guest may find after the writer was stopped in the middle: the disk as it was when it was last flushed, with
/// each byte that was changed since old or new.
private struct History {
  private struct Entry {
    /// Operations of the journal before the step began, and after it ended.
    var start: Int
    var end: Int
    var bytes: [UInt8]
    /// Everything so far is on stable storage at its end.
    var isFlushed: Bool
  }

  private var entries: [Entry]

  init(_ bytes: [UInt8]) { entries = [Entry(start: 0, end: 0, bytes: bytes, isFlushed: true)] }

  mutating func add(_ bytes: [UInt8], start: Int, end: Int, isFlushed: Bool) {
    entries.append(Entry(start: start, end: end, bytes: bytes, isFlushed: isFlushed))
  }

  var stepCount: Int { entries.count - 1 }

  /// Compares what is left after a cut behind `count` operations.
  func check(_ left: PagedBytes, afterOperations count: Int, _ model: WriterModel) throws {
    let first = entries.lastIndex { $0.isFlushed && $0.end <= count } ?? 0
    let last = entries.lastIndex { $0.start < count } ?? first
    try check(left, entries[first...max(first, last)].map(\.bytes), model)
  }

  /// Compares what is left when the step behind `count` steps failed.
  func check(_ left: PagedBytes, afterSteps count: Int, _ model: WriterModel) throws {
    let first = entries[...count].lastIndex { $0.isFlushed } ?? 0
    try check(left, entries[first...min(count + 1, stepCount)].map(\.bytes), model)
  }

  private func check(_ left: PagedBytes, _ states: [[UInt8]], _ model: WriterModel) throws {
    let check = QCOW2Checker(left, countsLeaks: false)
    guard check.damages.isEmpty else { throw WriterFault("damaged: \(check.damages.joined(separator: "; "))") }
    let disk = try WriterModel.open(PagedStore(left, name: "left"), model.built, model.subject)
    let found = try disk.read(Int(disk.byteCount), at: 0)
    guard states.contains(where: { $0.count == found.count }) else {
      throw WriterFault("the disk has \(found.count) bytes")
    }
    let shortest = states.map(\.count).min() ?? 0
    for start in stride(from: 0, to: found.count, by: 512) {
      let part = start..<min(start + 512, found.count)
      let isKnown = states.contains { $0.count >= part.upperBound && found.isEqual($0, part) }
      guard !isKnown else { continue }
      for index in part
      where !states.contains(where: { index < $0.count ? $0[index] == found[index] : found[index] == 0 }) {
        // The end that a resize was about to cut off may show the backing image already.
        if index >= shortest, index < model.below.count, model.below[index] == found[index] { continue }
        let values = states.map { index < $0.count ? Int($0[index]) : -1 }
        throw WriterFault("byte \(index) reads \(found[index]), and was \(values)")
      }
    }
  }
}

extension [UInt8] {
  fileprivate func isEqual(_ other: [UInt8], _ range: Range<Int>) -> Bool {
    let theirs = other.rawBytes.extracting(range)
    return rawBytes.extracting(range).firstDifference(from: theirs) == nil
  }
}

/// At every moment the power may go: the image then checks clean but for leaks, holds what was flushed, and each byte
/// changed since is old or new. The same where the disk below fails.
///
/// `PLATTER_CUT_COUNT` sets about how many cuts are tried; `PLATTER_CUT_SEED` runs one sequence alone.
@Suite("A writer that is stopped") struct PowerCutTests {
  static let cutCount = environmentValue("PLATTER_CUT_COUNT").flatMap(Int.init) ?? 3000
  static let chosenSeed = environmentValue("PLATTER_CUT_SEED").flatMap(UInt64.init)

  @Test("the power goes", arguments: Seeds.shares)
  func powerCuts(share: UInt64) {
    Seeds.run(share: share, amount: Self.cutCount, chosen: Self.chosenSeed) { seed in
      var random = SeededGenerator(seed: seed)
      let subject = WriterSubject.random(&random)
      do { return try Self.powerCuts(subject, &random) } catch { throw WriterFault("\(error)\n\(subject)") }
    }
  }

  /// - Returns: how many cuts there were.
  private static func powerCuts(_ subject: WriterSubject, _ random: inout SeededGenerator) throws -> Int {
    var cuts = 0
    let built = try subject.build(seed: random.next())
    let journal = ChangeJournal()
    var model = try WriterModel(subject, built, journal: journal)
    var history = History(model.bytes)
    try Self.run(&model, &random, &history, journal)
    try PowerCut([built.image], journal).forEachCut(&random) { count, left in
      cuts += 1
      do { try history.check(left[0], afterOperations: count, model) } catch {
        throw WriterFault("cut after \(count): \(error)\n\(model.history.joined(separator: "\n"))")
      }
    }
    return cuts
  }

  /// Some steps, flushed often.
  private static func run(
    _ model: inout WriterModel, _ random: inout SeededGenerator, _ history: inout History,
    _ journal: ChangeJournal? = nil
  ) throws {
    for _ in 0..<Int.random(in: 4...15, using: &random) {
      let start = journal?.count ?? 0
      if random.chance(3) { try model.flush() } else { try model.step(&random) }
      let isFlushed = ["flush", "reopen", "resize"].contains { model.history.last?.hasPrefix($0) == true }
      history.add(model.bytes, start: start, end: journal?.count ?? 0, isFlushed: isFlushed)
    }
  }

  @Test(
    "the disk below fails", arguments: ["read", "write", "flush"], 0..<UInt64(cutCount / 300 + 1))
  func faults(kind: String, seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let subject = WriterSubject.random(&random)
    let built = try subject.build(seed: random.next())
    // Once without faults, to know what each step does.
    let base = random
    var whole = try WriterModel(subject, built)
    var history = History(whole.bytes)
    try Self.run(&whole, &random, &history)
    for nth in 1... {
      let fault: FaultyStore.Fault =
        kind == "read" ? .failRead(nth: nth) : kind == "write" ? .failWrite(nth: nth) : .failFlush(nth: nth)
      random = base
      var steps = History(built.guest)
      var model: WriterModel?
      do {
        var opened = try WriterModel(subject, built, front: { FaultyStore($0, fault) })
        model = opened
        defer { model = opened }
        try Self.run(&opened, &random, &steps)
        return
      } catch is ImageError {
        guard let model else { continue }
        // Closing may fail too, and must not make it worse.
        try? model.writer.close()
        do { try history.check(model.store.bytes, afterSteps: steps.stepCount, model) } catch {
          Issue.record("\(kind) \(nth), seed \(seed): \(error)\n\(subject)\n\(model.history.joined(separator: "\n"))")
          return
        }
      }
    }
  }
}
