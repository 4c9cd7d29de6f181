import PlatterCore

/// Keeps all workers of a copy but the first waiting until there is something for them to do.
///
/// Bytes that need no decoding, packing or encryption are copied into a regular file as fast by one worker, and with less
/// processor time: the kernel lets one writer into a file at a time.
final class WorkerCall: Sendable {
  private struct State: Sendable {
    var isRaised: Bool
    var isOver = false
  }

  private let state: Monitor<State>

  /// With `isRaised` nobody waits at all.
  init(isRaised: Bool) { state = Monitor(State(isRaised: isRaised)) }

  /// Waits for the call; false when the copy ended without one.
  func wait() -> Bool { state.wait(until: { $0.isRaised || $0.isOver }, then: { $0.isRaised }) }

  func raise() { state.withLock { $0.isRaised = true } }

  /// The copy has ended, or failed: nobody need come any more.
  func end() { state.withLock { $0.isOver = true } }
}
