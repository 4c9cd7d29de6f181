#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// A block of memory with one owner, aligned for direct I/O. Freed when its owner goes.
///
/// The bytes are not initialised to anything in particular after `init(byteCount:)` unless `zeroed` is asked for.
@safe package struct AlignedBuffer: ~Copyable, @unchecked Sendable {
  package static let alignment = 4096

  package let byteCount: Int
  private let base: UnsafeMutableRawPointer

  /// - Parameter byteCount: at least 0. Traps where the system has no memory.
  package init(byteCount: Int, zeroed: Bool = false) {
    precondition(byteCount >= 0)
    var pointer: UnsafeMutableRawPointer?
    let status = unsafe posix_memalign(&pointer, Self.alignment, Swift.max(byteCount, 1))
    guard status == 0, let pointer = unsafe pointer else { fatalError("out of memory: \(byteCount) bytes") }
    unsafe base = pointer
    self.byteCount = byteCount
    if zeroed { unsafe memset(base, 0, byteCount) }
  }

  deinit { unsafe free(base) }

  /// All bytes.
  package var bytes: RawSpan {
    @_lifetime(borrow self) get {
      let span = unsafe RawSpan(_unsafeStart: base, byteCount: byteCount)
      return unsafe _overrideLifetime(span, borrowing: self)
    }
  }

  /// Lends the bytes for writing.
  @inline(always)
  package mutating func withMutableBytes<R: ~Copyable, E>(_ body: (inout MutableRawSpan) throws(E) -> R) throws(E) -> R
  {
    var span = unsafe MutableRawSpan(_unsafeStart: base, byteCount: byteCount)
    return try body(&span)
  }
}
