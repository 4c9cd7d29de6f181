import PlatterCore

/// Runs blocking work for `async` callers on threads of its own, so that Swift's cooperative pool is never blocked.
enum IOExecutor {
  /// Threads that wait for work at most; more work waits in line.
  private static let threadLimit = 16

  private struct State: Sendable {
    var queue: [@Sendable () -> Void] = []
    var idleCount = 0
    var threadCount = 0
  }

  private static let state = Monitor(State())

  /// The result of `work`, computed on an I/O thread.
  static func run<R: Sendable>(_ work: @escaping @Sendable () throws(ImageError) -> R) async throws(ImageError) -> R {
    let result: Result<R, ImageError> = await withCheckedContinuation { continuation in
      submit {
        do throws(ImageError) {
          continuation.resume(returning: .success(try work()))
        } catch {
          continuation.resume(returning: .failure(error))
        }
      }
    }
    return try result.get()
  }

  private static func submit(_ job: @escaping @Sendable () -> Void) {
    let needsThread = state.withLock { state in
      state.queue.append(job)
      guard state.queue.count > state.idleCount, state.threadCount < threadLimit else { return false }
      state.threadCount += 1
      return true
    }
    guard needsThread, !Workers.startDetached(serve) else { return }
    // No thread to be had: the line is served here.
    serveUntilEmpty()
    state.withLock { $0.threadCount -= 1 }
  }

  private static func serve() {
    while true {
      state.withLock { $0.idleCount += 1 }
      let job = state.wait(until: { !$0.queue.isEmpty }) { state in
        state.idleCount -= 1
        return state.queue.removeFirst()
      }
      job()
    }
  }

  private static func serveUntilEmpty() {
    while let job = state.withLock({ $0.queue.isEmpty ? nil : $0.queue.removeFirst() }) { job() }
  }
}
