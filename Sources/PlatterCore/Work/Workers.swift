import Synchronization

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Plain threads for work that is cut in pieces. Neither Dispatch nor the concurrency runtime is loaded for it.
package enum Workers {
  /// Most threads that one piece of work may use.
  package static let maximumCount = 64
  /// Deep enough for every codec and for a chain of the greatest depth.
  private static let stackByteCount = 1 << 20

  /// Processors that this process may use; at least 1.
  package static var processorCount: Int { max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))) }

  /// Runs `body` on `count` threads at once, the caller's among them, and waits for all.
  ///
  /// - Parameter body: told its worker's number, 0..<count. Workers should look at `stop` now and then: it is raised
  ///   when another worker has failed.
  /// - Throws: the first error that a worker threw.
  package static func run(_ count: Int, _ body: @escaping @Sendable (Int, StopFlag) throws(ImageError) -> Void)
    throws(ImageError)
  {
    precondition((1...maximumCount).contains(count))
    let stop = StopFlag()
    let failure = FirstFailure()
    let work: @Sendable (Int) -> Void = { number in
      do throws(ImageError) {
        try body(number, stop)
      } catch {
        failure.note(error)
        stop.raise()
      }
    }
    var threads: [pthread_t] = []
    for number in stride(from: 1, to: count, by: 1) {
      // A system out of threads leaves fewer workers, which does the work all the same.
      guard let thread = start(Job { work(number) }) else { break }
      threads.append(thread)
    }
    work(0)
    for thread in threads { pthread_join(thread, nil) }
    if let error = failure.error { throw error }
  }

  /// Runs `body` on a thread that nobody waits for; false where the system has no thread.
  package static func startDetached(_ body: @escaping @Sendable () -> Void) -> Bool {
    guard let thread = start(Job(body)) else { return false }
    pthread_detach(thread)
    return true
  }

  private final class Job: Sendable {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }

  private static func start(_ job: Job) -> pthread_t? {
    var attributes = pthread_attr_t()
    guard unsafe pthread_attr_init(&attributes) == 0 else { return nil }
    defer { unsafe pthread_attr_destroy(&attributes) }
    unsafe pthread_attr_setstacksize(&attributes, stackByteCount)
    // The thread takes over this reference.
    let context = unsafe Unmanaged.passRetained(job).toOpaque()
    #if canImport(Glibc)
      var thread = pthread_t()
    #else
      var thread: pthread_t?
    #endif
    let status = unsafe pthread_create(
      &thread, &attributes,
      { context in
        #if canImport(Glibc)
          guard let context = unsafe context else { return nil }
        #endif
        unsafe Unmanaged<Job>.fromOpaque(context).takeRetainedValue().body()
        return nil
      }, context)
    guard status == 0 else {
      unsafe Unmanaged<Job>.fromOpaque(context).release()
      return nil
    }
    return thread
  }
}

/// Raised once, seen by all workers of a run.
package final class StopFlag: Sendable {
  private let flag = Atomic<Bool>(false)
  package init() {}
  package var isRaised: Bool { flag.load(ordering: .relaxed) }
  package func raise() { flag.store(true, ordering: .relaxed) }
}

private final class FirstFailure: Sendable {
  private let first = Mutex<ImageError?>(nil)
  func note(_ error: ImageError) { first.withLock { if $0 == nil { $0 = error } } }
  var error: ImageError? { first.withLock { $0 } }
}

/// A value behind a lock that threads can wait on: what `Synchronization` has no part for.
@safe package final class Monitor<State: ~Copyable>: @unchecked Sendable {
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
  /// Not a field: the thread sanitizer takes a change of a field for a write to the object's first word, which everybody
  /// reads to find the fields, also before the lock is theirs.
  private let state = UnsafeMutablePointer<State>.allocate(capacity: 1)

  package init(_ state: consuming State) {
    unsafe self.state.initialize(to: state)
    unsafe mutex.initialize(to: pthread_mutex_t())
    unsafe condition.initialize(to: pthread_cond_t())
    unsafe pthread_mutex_init(mutex, nil)
    unsafe pthread_cond_init(condition, nil)
  }

  deinit {
    unsafe pthread_cond_destroy(condition)
    unsafe pthread_mutex_destroy(mutex)
    unsafe state.deinitialize(count: 1)
    unsafe state.deallocate()
    unsafe condition.deallocate()
    unsafe mutex.deallocate()
  }

  /// Runs `body` under the lock and wakes all who wait.
  package func withLock<R, E>(_ body: (inout State) throws(E) -> R) throws(E) -> R {
    unsafe pthread_mutex_lock(mutex)
    defer {
      unsafe pthread_cond_broadcast(condition)
      unsafe pthread_mutex_unlock(mutex)
    }
    return try unsafe body(&state.pointee)
  }

  /// Waits until `condition` holds, then runs `body` under the same lock and wakes all who wait.
  package func wait<R, E>(until holds: (borrowing State) -> Bool, then body: (inout State) throws(E) -> R) throws(E)
    -> R
  {
    unsafe pthread_mutex_lock(mutex)
    defer {
      unsafe pthread_cond_broadcast(condition)
      unsafe pthread_mutex_unlock(mutex)
    }
    while unsafe !holds(state.pointee) { unsafe pthread_cond_wait(condition, mutex) }
    return try unsafe body(&state.pointee)
  }
}
