package import PlatterCore
import Synchronization

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// A store whose flushes are watched: each calls a closure after it has done its work and before it returns. A closure that
/// waits stands for a slow disk, one that throws for a disk that has lost something.
package final class WatchedStore: ByteStore {
  private let base: any ByteStore
  private let afterFlush: @Sendable (_ number: Int) throws(ImageError) -> Void
  private let flushCount = Atomic<Int>(0)

  /// - Parameter afterFlush: told the number of the flush; the first is 1.
  package init(_ base: any ByteStore, afterFlush: @escaping @Sendable (_ number: Int) throws(ImageError) -> Void) {
    self.base = base
    self.afterFlush = afterFlush
  }

  package var name: String { base.name }
  package var isWritable: Bool { base.isWritable }
  package var alignment: Int { base.alignment }
  package var identity: StoreIdentity? { base.identity }
  package func byteCount() throws(ImageError) -> UInt64 { try base.byteCount() }
  package func allocatedByteCount() throws(ImageError) -> UInt64 { try base.allocatedByteCount() }
  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) throws(ImageError) -> Int {
    try base.read(into: &buffer, at: offset)
  }
  package func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) { try base.write(bytes, at: offset) }
  package func segment(at offset: UInt64, limit: UInt64) throws(ImageError) -> StoreSegment {
    try base.segment(at: offset, limit: limit)
  }
  package func punch(_ range: Range<UInt64>) throws(ImageError) { try base.punch(range) }
  package func zero(_ range: Range<UInt64>) throws(ImageError) { try base.zero(range) }
  package func allocate(_ range: Range<UInt64>) throws(ImageError) { try base.allocate(range) }
  package func resize(to byteCount: UInt64) throws(ImageError) { try base.resize(to: byteCount) }
  package func expectFlush() { base.expectFlush() }

  package func flush() throws(ImageError) {
    try base.flush()
    try afterFlush(flushCount.add(1, ordering: .relaxed).newValue)
  }
}

/// Lets other threads run.
package enum Pause {
  package static func moment() { _ = usleep(100) }
}
