import CPlatter

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Holds a copy back to a number of bytes a second.
struct RateLimiter: Sendable {
  private let bytesPerSecond: UInt64
  private let start = ContinuousClock.now

  init(bytesPerSecond: UInt64) { self.bytesPerSecond = bytesPerSecond }

  /// Sleeps until `done` bytes are due.
  func wait(_ done: UInt64) {
    guard bytesPerSecond > 0 else { return }
    let due = start + .seconds(Double(done) / Double(bytesPerSecond))
    var left = ContinuousClock.now.duration(to: due)
    while left > .zero, platter_stop_signal() == 0 {
      // In short naps, so that a signal for progress is answered.
      usleep(UInt32(min(max(left / .microseconds(1), 1), 100_000)))
      left = ContinuousClock.now.duration(to: due)
    }
  }
}
