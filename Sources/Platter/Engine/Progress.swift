import PlatterCore
import Synchronization

/// Told how far an operation is: bytes done and bytes in all. Returns false to cancel it. Called from any of the
/// operation's threads, one at a time.
public typealias ProgressHandler = @Sendable (_ done: UInt64, _ total: UInt64) -> Bool

/// Counts what workers have done and tells the caller.
final class ProgressCounter: Sendable {
  private let total: UInt64
  private let handler: ProgressHandler?
  private let done = Atomic<UInt64>(0)
  private let telling = Mutex(())

  init(total: UInt64, _ handler: ProgressHandler?) {
    self.total = total
    self.handler = handler
  }

  /// Bytes that nobody has counted yet.
  var rest: UInt64 { total - min(total, done.load(ordering: .relaxed)) }

  /// - Throws: `.cancelled` where the caller says so.
  func add(_ byteCount: UInt64) throws(ImageError) {
    let now = done.add(byteCount, ordering: .relaxed).newValue
    guard let handler else { return }
    // A worker that finds another one telling has nothing new to say.
    let goesOn = telling.withLockIfAvailable { _ in handler(now, total) } ?? true
    guard goesOn else { throw ImageError(.cancelled, "cancelled") }
  }
}
