import Platter
import PlatterCore
import TestSupport

/// The proofs that the writer loses nothing, each a number of seeded runs.
package enum Proof {
  /// What a run has come to, for its count and for messages.
  private final class Progress {
    var model: ProofModel?
    var count = 0
  }

  /// Runs a proof; what goes wrong is told with the seed that does it again.
  private static func naming(
    _ seed: UInt64, _ body: (UInt64, ProofRow, Progress) throws -> Void
  ) throws -> Int {
    let row = row(seed)
    let progress = Progress()
    do { try body(seed, row, progress) } catch {
      throw WriterFault("seed \(seed): \(error)\n\(row)\n\(progress.model?.history.joined(separator: "\n") ?? "")")
    }
    return progress.count
  }

  /// The row of a seed: all of them in turn.
  private static func row(_ seed: UInt64) -> ProofRow { ProofRow.all[Int(seed % UInt64(ProofRow.all.count))] }

  // MARK: Model

  /// One random sequence against the arrays.
  package static func sequence(seed: UInt64) throws { _ = try naming(seed, sequence) }

  private static func sequence(_ seed: UInt64, _ row: ProofRow, _ progress: Progress) throws {
    var random = SeededGenerator(seed: seed)
    let files = try ProofFiles(row, &random)
    let model = try ProofModel(row, files, files.firstState(row))
    progress.model = model
    let withBitmaps = random.chance(2)
    for _ in 0..<Int.random(in: 5...30, using: &random) { try model.step(&random, withBitmaps: withBitmaps) }
    try model.finish()
  }

  // MARK: Power cuts

  /// One random sequence, cut at every moment.
  /// - Parameter hasBarriers: false where only the last flush of a step counts, as for a writer that orders nothing.
  /// - Returns: the crash images that were looked at.
  package static func powerCuts(seed: UInt64, limit: Int = .max, hasBarriers: Bool = true) throws -> Int {
    try naming(seed) { seed, row, progress in try powerCuts(seed, row, progress, limit, hasBarriers) }
  }

  private static func powerCuts(
    _ seed: UInt64, _ row: ProofRow, _ progress: Progress, _ limit: Int, _ hasBarriers: Bool
  ) throws {
    var random = SeededGenerator(seed: seed &+ 0x1_0000_0000)
    let files = try ProofFiles(row, &random)
    let journal = ChangeJournal()
    let model = try ProofModel(row, files, files.firstState(row), journal)
    progress.model = model
    let history = ProofHistory(model.state)
    try run(model, &random, journal, history)
    let ignored = hasBarriers ? [] : history.flushesInside(journal)
    try PowerCut(files.contents, journal, ignoring: ignored).forEachCut(&random, variants: 3) { count, left in
      guard progress.count < limit else { return }
      progress.count += 1
      let audit = ProofAudit(left, model.chain)
      do {
        try audit.check(against: history.states(afterOperations: count), isThorough: progress.count % 4 == 0)
      } catch {
        throw WriterFault("cut after \(count): \(error)")
      }
    }
  }

  /// Some steps, flushed often. What was done before a step fails stays in `history`.
  private static func run(
    _ model: ProofModel, _ random: inout SeededGenerator, _ journal: ChangeJournal?, _ history: ProofHistory
  ) throws {
    let stepCount = Int.random(in: 4...15, using: &random)
    let withBitmaps = random.chance(3)
    for _ in 0..<stepCount {
      let start = journal?.count ?? 0
      let length = model.history.count
      if random.chance(4) { try model.flush() } else { try model.step(&random, withBitmaps: withBitmaps) }
      let isFlushed = model.history[length...].contains { line in
        ProofHistory.flushing.contains { line.hasPrefix($0) }
      }
      history.add(model.between, model.state, start: start, end: journal?.count ?? 0, isFlushed: isFlushed)
    }
  }

  // MARK: Faults

  package enum FaultKind: String, CaseIterable, Sendable {
    case read, write, flush, space, readOnce, writeOnce, flushOnce

    /// The disk works again after the fault.
    var isOver: Bool { self == .readOnce || self == .writeOnce || self == .flushOnce }

    func fault(_ nth: Int) -> FaultyStore.Fault {
      switch self {
      case .read: .failRead(nth: nth)
      case .write: .failWrite(nth: nth)
      case .flush: .failFlush(nth: nth)
      case .space: .fillUp(nth: nth)
      case .readOnce: .failOnce(.read, nth: nth)
      case .writeOnce: .failOnce(.write, nth: nth)
      case .flushOnce: .failOnce(.flush, nth: nth)
      }
    }
  }

  /// One random sequence, again and again, with a fault a little later each time.
  /// - Returns: the faults that were met.
  package static func faults(_ kind: FaultKind, seed: UInt64, limit: Int = .max) throws -> Int {
    try naming(seed) { seed, row, progress in try faults(seed, row, progress, kind, limit) }
  }

  private static func faults(
    _ seed: UInt64, _ row: ProofRow, _ progress: Progress, _ kind: FaultKind, _ limit: Int
  ) throws {
    var random = SeededGenerator(seed: seed &+ 0x2_0000_0000)
    let files = try ProofFiles(row, &random)
    let first = try files.firstState(row)
    let base = random
    // Once without faults, to know what each step does.
    let whole = try ProofModel(row, files, first)
    progress.model = whole
    let history = ProofHistory(first)
    try run(whole, &random, nil, history)
    // The image, its data file, or the file below.
    let place = seed % 4 == 3 ? 2 : seed % 4 == 2 && row.hasDataFile ? 1 : 0
    while progress.count < limit {
      let nth = progress.count + 1
      random = base
      let steps = ProofHistory(first)
      guard let error = try meet(kind.fault(nth), place, row, files, first, steps, progress, &random) else { return }
      progress.count += 1
      // Opening for the first time promises nothing yet.
      guard let model = progress.model else { continue }
      do {
        try afterFault(model, error, kind, history, steps.stepCount, &random)
      } catch {
        throw WriterFault("\(kind) \(nth) of \(ProofFiles.names[place]): \(error)")
      }
    }
  }

  /// Runs a sequence on a disk that fails; nil where nothing has.
  private static func meet(
    _ fault: FaultyStore.Fault, _ place: Int, _ row: ProofRow, _ files: ProofFiles, _ first: ProofState,
    _ steps: ProofHistory, _ progress: Progress, _ random: inout SeededGenerator
  ) throws -> ImageError? {
    progress.model = nil
    do {
      let model = try ProofModel(row, files, first, front: (place, fault))
      progress.model = model
      try run(model, &random, nil, steps)
      return nil
    } catch let error as ImageError {
      return error
    }
  }

  private static func afterFault(
    _ model: ProofModel, _ error: ImageError, _ kind: FaultKind, _ history: ProofHistory, _ stepCount: Int,
    _ random: inout SeededGenerator
  ) throws {
    guard !error.description.contains("\n"), error.code == .io else {
      throw WriterFault("the failure is told as \"\(error)\"")
    }
    let states = history.states(afterSteps: stepCount)
    if kind.isOver, !model.isClosed, model.isStillWriting {
      // The request alone has failed: the disk goes on, with its bytes old or new.
      try model.adopt(states)
      for _ in 0..<4 { try model.write(model.randomRange(&random), &random) }
      model.mayLeak = true
      return try model.finish()
    }
    // Closing may fail too, and must not make it worse; nor must trying again.
    if !model.isClosed {
      let payload = Array(model.state.bytes.prefix(1))
      try? model.writer.write(payload.rawBytes, at: 0)
      try? model.writer.flush()
      try? model.close()
    }
    try ProofAudit(model.stores.map(\.bytes), model.chain).check(against: states, isThorough: true)
  }
}

/// What a guest may find after the writer was stopped in the middle: the disk as it was when it was last flushed, with
/// each byte that was changed since old or new.
final class ProofHistory {
  /// Steps that leave everything on stable storage.
  static let flushing = ["flush", "reopen", "resize", "create", "apply", "delete", "commit", "rebase", "amend"]

  private struct Entry {
    /// Operations of the journal before the step began, and after it ended.
    var step: Int
    var start: Int
    var end: Int
    var state: ProofState
    /// Everything so far is on stable storage at its end.
    var isFlushed: Bool
  }

  private var entries: [Entry]

  init(_ state: ProofState) { entries = [Entry(step: 0, start: 0, end: 0, state: state, isFlushed: true)] }

  /// - Parameter between: states that are on the disk for a while during the step.
  func add(_ between: [ProofState], _ state: ProofState, start: Int, end: Int, isFlushed: Bool) {
    let step = stepCount + 1
    for state in between {
      entries.append(Entry(step: step, start: start, end: end, state: state, isFlushed: false))
    }
    entries.append(Entry(step: step, start: start, end: end, state: state, isFlushed: isFlushed))
  }

  /// Flushes that are not the end of a step: the barriers.
  func flushesInside(_ journal: ChangeJournal) -> Set<Int> {
    let changes = journal.changes
    var inside = Set(changes.indices.filter { changes[$0].operation == .flush })
    for entry in entries {
      for index in (0..<entry.end).reversed() {
        guard changes[index].operation == .flush else { break }
        inside.remove(index)
      }
    }
    return inside
  }

  var stepCount: Int { entries.last?.step ?? 0 }

  /// What may be left by a cut behind `count` operations.
  func states(afterOperations count: Int) -> [ProofState] {
    let first = entries.lastIndex { $0.isFlushed && $0.end <= count } ?? 0
    let last = entries.lastIndex { $0.start < count } ?? first
    return entries[first...max(first, last)].map(\.state)
  }

  /// What may be left when the step behind `count` steps failed.
  func states(afterSteps count: Int) -> [ProofState] {
    let first = entries.lastIndex { $0.isFlushed && $0.step <= count } ?? 0
    let last = entries.lastIndex { $0.step <= count + 1 } ?? 0
    return entries[first...max(first, last)].map(\.state)
  }
}

extension ProofModel {
  /// Whether the writer takes more requests: what it has in memory reaches the disk.
  var isStillWriting: Bool {
    do {
      try writer.flush()
      return true
    } catch { return false }
  }

  /// Takes over what the disk reads as after a request that failed.
  func adopt(_ states: [ProofState]) throws {
    let found = try disk.read(Int(disk.byteCount), at: 0)
    for start in stride(from: 0, to: found.count, by: 512) {
      let part = start..<min(start + 512, found.count)
      guard !states.contains(where: { found.isEqual($0.bytes, part) }) else { continue }
      for index in part
      where !states.contains(where: { ($0.bytes.count > index ? $0.bytes[index] : 0) == found[index] }) {
        throw WriterFault("byte \(index) reads \(found[index]) after a request that failed")
      }
    }
    state.bytes = found
    let names = try chain.topMap().facts.snapshots.map(\.name)
    guard let state = states.first(where: { $0.snapshots.map(\.name) == names }) else {
      throw WriterFault("the snapshots are \(names) after a request that failed")
    }
    self.state.snapshots = state.snapshots
  }
}
