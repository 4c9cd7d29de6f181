import PlatterCore
import Synchronization

/// What a scan found, gathered from all its threads.
final class CheckLog: Sendable {
  /// A change that takes a cluster out of a conflict, for a repair. Offsets are those of table entries in the file.
  enum Fix: Sendable {
    case copyData(entry: UInt64, word: UInt64)
    case copyPacked(entry: UInt64, word: UInt64)
    case copyTable(entry: UInt64, word: UInt64)
    case dropTable(entry: UInt64)
  }

  /// Fixes that one round of a repair takes; the next round finds the rest.
  static let maximumFixCount = 1 << 16

  /// Messages come out in this order, and by position inside it, however many threads found them.
  enum Phase: Int, Comparable {
    case header, metadata, tables, entries, refcounts
    static func < (left: Phase, right: Phase) -> Bool { left.rawValue < right.rawValue }
  }

  /// What was counted. Small values that threads add up for themselves first.
  struct Tally: Sendable {
    var corruptions = 0
    var leaks = 0
    var allocated: UInt64 = 0
    var fragmented: UInt64 = 0
    var compressed: UInt64 = 0
    /// First cluster behind everything in use.
    var endCluster: UInt64 = 0
    /// Entries that a repair changes in place: bad ones.
    var badEntries = 0
    /// Copied flags that contradict the refcounts.
    var wrongFlags = 0
    /// Something could not be followed: what lies behind it only looks unused.
    var isTreeBroken = false
    /// Blocks or table cannot be used as they are.
    var areRefcountsBroken = false
    /// Counts that differ from the references.
    var wrongCounts = 0
    /// Most references to one cluster among those whose count differs.
    var mostReferences: UInt64 = 0

    mutating func add(_ other: Tally) {
      corruptions += other.corruptions
      leaks += other.leaks
      allocated += other.allocated
      fragmented += other.fragmented
      compressed += other.compressed
      endCluster = max(endCluster, other.endCluster)
      badEntries += other.badEntries
      wrongFlags += other.wrongFlags
      isTreeBroken = isTreeBroken || other.isTreeBroken
      areRefcountsBroken = areRefcountsBroken || other.areRefcountsBroken
      wrongCounts += other.wrongCounts
      mostReferences = max(mostReferences, other.mostReferences)
    }
  }

  private struct State {
    var tally = Tally()
    var fixes: [Fix] = []
    var misplaced: Set<MetadataMarker.Part> = []
    var messages: [(phase: Phase, position: UInt64, text: String)] = []
  }

  private let state = Mutex(State())

  var tally: Tally { state.withLock { $0.tally } }
  var fixes: [Fix] { state.withLock { $0.fixes } }
  /// Structures that lie in somebody else's clusters, or bitmaps that cannot be read.
  var misplaced: Set<MetadataMarker.Part> { state.withLock { $0.misplaced } }

  func add(_ tally: Tally) { state.withLock { $0.tally.add(tally) } }

  /// Whether another message would be kept.
  var hasRoom: Bool { state.withLock { $0.messages.count < CheckReport.maximumMessageCount } }

  /// A message; the caller counts what it stands for.
  func say(_ phase: Phase, _ position: UInt64, _ text: @autoclosure () -> String) {
    guard hasRoom else { return }
    let text = text()
    state.withLock { $0.messages.append((phase, position, text)) }
  }

  /// A message about one corruption.
  func corruption(_ phase: Phase, _ position: UInt64, _ text: @autoclosure () -> String) {
    state.withLock { $0.tally.corruptions += 1 }
    say(phase, position, "ERROR \(text())")
  }

  func note(misplaced part: MetadataMarker.Part) { state.withLock { _ = $0.misplaced.insert(part) } }

  func propose(_ fix: Fix) {
    state.withLock { state in
      if state.fixes.count < Self.maximumFixCount { state.fixes.append(fix) }
    }
  }

  /// Messages in order, cut at the report's limit.
  var messages: [String] {
    let found = state.withLock { $0.messages }
    let sorted = found.sorted { ($0.phase, $0.position) < ($1.phase, $1.position) }
    return sorted.prefix(CheckReport.maximumMessageCount).map(\.text)
  }
}
