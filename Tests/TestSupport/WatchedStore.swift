package import PlatterCore
import Synchronization

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// A store whose flushes are watched: each calls a closure after it has done its work and before it returns. A closure that
/// waits stands for a slow disk, one that throws for a disk that has lost something.
package final class WatchedStore: StoreDecorator {
  package let base: any ByteStore
  private let afterFlush: @Sendable (_ number: Int) throws(ImageError) -> Void
  private let flushCount = Atomic<Int>(0)

  /// - Parameter afterFlush: told the number of the flush; the first is 1.
  package init(_ base: any ByteStore, afterFlush: @escaping @Sendable (_ number: Int) throws(ImageError) -> Void) {
    self.base = base
    self.afterFlush = afterFlush
  }

  package func flush() throws(ImageError) {
    try base.flush()
    try afterFlush(flushCount.add(1, ordering: .relaxed).newValue)
  }
}

/// Lets other threads run.
package enum Pause {
  package static func moment() { _ = usleep(100) }
}
