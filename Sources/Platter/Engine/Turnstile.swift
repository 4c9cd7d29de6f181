import PlatterCore

/// Lets workers pass in the order of the pieces that they took. Pieces are handed out in order, so the worker whose turn it
/// is never waits for one that has yet to come.
final class Turnstile: Sendable {
  private struct Turn {
    var number: UInt64 = 0
    var isOver = false
  }

  private let turn = Monitor(Turn())

  /// Runs `body` on so many workers, and opens the way for all of them when one has failed.
  func run(
    _ workerCount: Int, _ body: @escaping @Sendable (_ number: Int, _ stop: StopFlag) throws(ImageError) -> Void
  ) throws(ImageError) {
    try Workers.run(workerCount) { [self] number, stop throws(ImageError) in
      do throws(ImageError) {
        try body(number, stop)
      } catch {
        close()
        throw error
      }
    }
  }

  /// Waits until every piece before this one has passed; false when the copy has failed.
  func wait(for number: UInt64) -> Bool {
    turn.wait(until: { $0.number == number || $0.isOver }, then: { !$0.isOver })
  }

  /// The piece whose turn it is has passed.
  func pass() { turn.withLock { $0.number += 1 } }

  /// The copy has failed: nobody waits any longer.
  private func close() { turn.withLock { $0.isOver = true } }
}
