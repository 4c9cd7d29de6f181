import PlatterCore

/// Packed bytes that were pulled and not yet used.
@safe final class InputBuffer {
  typealias Source = (inout MutableRawSpan) throws(ImageError) -> Int

  // Invariant: 0 <= used <= filled <= capacity, and `base` owns `capacity` bytes.
  private let base: UnsafeMutableRawPointer
  private let capacity: Int
  private var used = 0
  private var filled = 0
  private var isAtEnd = false

  /// - Parameter capacity: most bytes that `need` can be asked for.
  init(capacity: Int) {
    self.capacity = capacity
    unsafe base = .allocate(byteCount: capacity, alignment: 64)
  }

  deinit { unsafe base.deallocate() }

  var count: Int { filled - used }

  /// Lends the bytes at hand.
  func withBytes<R, E>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
    let bytes = unsafe RawSpan(_unsafeStart: base + used, byteCount: filled - used)
    return try body(bytes)
  }

  func consume(_ count: Int) {
    precondition(count >= 0 && count <= filled - used)
    used += count
  }

  /// Pulls until at least `count` bytes are at hand; false where the source ends before.
  func need(_ count: Int, from source: Source) throws(ImageError) -> Bool {
    while self.count < count {
      guard try refill(from: source) else { return false }
    }
    return true
  }

  /// Pulls one piece; false where nothing is left, or no room.
  func refill(from source: Source) throws(ImageError) -> Bool {
    guard !isAtEnd, count < capacity else { return false }
    if used > 0 { unsafe base.copyMemory(from: base + used, byteCount: count) }
    filled = count
    used = 0
    var room = unsafe MutableRawSpan(_unsafeStart: base + filled, byteCount: capacity - filled)
    let got = try source(&room)
    precondition(got >= 0 && got <= capacity - filled)
    filled += got
    isAtEnd = got == 0
    return got > 0
  }
}
