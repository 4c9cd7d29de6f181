import PlatterCore

/// Keeps writers of the same guest bytes apart: in-place writes share a range, allocations have it alone.
///
/// Waiting is fair enough: whoever comes later and overlaps an exclusive waiter waits behind it.
final class RangeLock: Sendable {
  struct Hold: Sendable {
    fileprivate var number: UInt64
    fileprivate var range: Range<UInt64>
    fileprivate var isExclusive: Bool
  }

  private struct State: Sendable {
    var next: UInt64 = 0
    /// Everybody who holds or waits, in the order of coming.
    var line: [Hold] = []
  }

  private let state = Monitor(State())

  /// Waits until nobody who came before stands against it.
  func acquire(_ range: Range<UInt64>, exclusive: Bool) -> Hold {
    let hold = state.withLock { state in
      let hold = Hold(number: state.next, range: range, isExclusive: exclusive)
      state.next += 1
      state.line.append(hold)
      return hold
    }
    state.wait(
      until: { state in
        !state.line.contains { other in
          other.number < hold.number && (other.isExclusive || exclusive) && other.range.overlaps(range)
        }
      }, then: { _ in })
    return hold
  }

  func release(_ hold: Hold) {
    state.withLock { state in state.line.removeAll { $0.number == hold.number } }
  }
}
