package import PlatterCore

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// A buffer for keys, passphrases and what is derived from them: kept out of swap and core dumps where the system
/// allows, wiped when its last owner goes, never shown by a description.
///
/// Immutable once made, so every thread may read it.
@safe package final class SecretBytes: @unchecked Sendable, CustomStringConvertible, CustomReflectable {
  package let count: Int
  private let base: UnsafeMutableRawPointer
  private let mappedByteCount: Int

  /// Makes `count` bytes, zero at first, that `fill` sets.
  package init(count: Int, _ fill: (inout MutableRawSpan) throws(ImageError) -> Void) throws(ImageError) {
    precondition(count >= 0)
    let page = Int(sysconf(Int32(_SC_PAGESIZE)))
    let mappedByteCount = max(1, (count + page - 1) / page) * page
    let pages = unsafe mmap(nil, mappedByteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let pages = unsafe pages, unsafe pages != MAP_FAILED else {
      throw ImageError(.io, "no memory for \(count) bytes of key material")
    }
    // Both are favours: a limit on locked memory must not stop anybody from opening an image.
    _ = unsafe mlock(pages, mappedByteCount)
    #if canImport(Glibc)
      _ = unsafe madvise(pages, mappedByteCount, Int32(MADV_DONTDUMP))
    #endif
    self.count = count
    self.mappedByteCount = mappedByteCount
    unsafe base = pages
    var span = unsafe MutableRawSpan(_unsafeStart: pages, byteCount: count)
    try fill(&span)
  }

  /// A copy of some bytes.
  package convenience init(copying bytes: RawSpan) throws(ImageError) {
    try self.init(count: bytes.byteCount) { $0.copy(bytes) }
  }

  deinit {
    unsafe LibCrypto.wipe(base, mappedByteCount)
    unsafe munmap(base, mappedByteCount)
  }

  /// The bytes.
  package var bytes: RawSpan {
    @_lifetime(borrow self) borrowing get {
      let span = unsafe RawSpan(_unsafeStart: base, byteCount: count)
      return unsafe _overrideLifetime(span, borrowing: self)
    }
  }

  /// Random bytes of the operating system.
  package static func random(count: Int) throws(ImageError) -> SecretBytes {
    try SecretBytes(count: count) { bytes throws(ImageError) in try Random.fill(&bytes) }
  }

  package var description: String { "\(count) secret bytes" }
  package var customMirror: Mirror { Mirror(self, children: []) }
}

extension MutableRawSpan {
  /// Overwrites everything with zeros, in a way that the compiler does not leave out.
  mutating func wipe() {
    unsafe withUnsafeMutableBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      unsafe LibCrypto.wipe(base, bytes.count)
    }
  }
}
