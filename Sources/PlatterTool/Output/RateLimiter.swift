import CPlatter
import Synchronization

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Holds a copy back to a number of bytes a second.
final class RateLimiter: Sendable {
  private let bytesPerSecond: UInt64
  /// Bytes that are not held back: what is only looked at.
  private let free: UInt64
  private let start: Mutex<ContinuousClock.Instant?>

  init(bytesPerSecond: UInt64, free: UInt64 = 0) {
    self.bytesPerSecond = bytesPerSecond
    self.free = free
    start = Mutex(free == 0 ? ContinuousClock.now : nil)
  }

  /// Sleeps until `done` bytes are due.
  func wait(_ done: UInt64) {
    guard bytesPerSecond > 0, done > free else { return }
    let start = start.withLock { start in
      let first = start ?? ContinuousClock.now
      start = first
      return first
    }
    let due = start + .seconds(Double(done - free) / Double(bytesPerSecond))
    var left = ContinuousClock.now.duration(to: due)
    while left > .zero, platter_stop_signal() == 0 {
      // In short naps, so that a signal for progress is answered.
      usleep(UInt32(min(max(left / .microseconds(1), 1), 100_000)))
      left = ContinuousClock.now.duration(to: due)
    }
  }
}
