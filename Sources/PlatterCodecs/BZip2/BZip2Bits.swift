/// Reads bits from the top of each byte. Past the end it gives zeros, and says so when asked.
@safe struct BZip2Bits {
  private let base: UnsafeRawPointer
  private let byteCount: Int
  /// The byte that is loaded next; counts on past the end.
  private var next: Int
  /// The next bits, from the top; those below the first `count` are of the bytes at `next`, or zero.
  private var word: UInt64 = 0
  private var count = 0

  init(_ bytes: UnsafeRawBufferPointer, bitPosition: Int) {
    // A buffer without an address has no bytes, so the made-up one is never used.
    unsafe base = UnsafeRawPointer(bytes.baseAddress ?? UnsafeRawPointer(bitPattern: 16).unsafelyUnwrapped)
    byteCount = bytes.count
    next = bitPosition >> 3
    refill()
    skip(bitPosition & 7)
  }

  /// Bits taken so far, from the start of the buffer.
  var position: Int { next &* 8 &- count }

  /// More bits were taken than there are.
  var isOverrun: Bool { position > byteCount &* 8 }

  /// Afterwards at least 56 bits are at hand.
  @inline(__always)
  mutating func refill() {
    guard next &+ 8 <= byteCount else { return refillAtEnd() }
    let more = unsafe UInt64(bigEndian: base.loadUnaligned(fromByteOffset: next, as: UInt64.self))
    word |= more &>> UInt64(truncatingIfNeeded: count)
    next &+= (63 &- count) &>> 3
    count |= 56
  }

  @inline(never)
  private mutating func refillAtEnd() {
    while count <= 56 {
      if next < byteCount {
        let byte = unsafe base.load(fromByteOffset: next, as: UInt8.self)
        word |= UInt64(byte) &<< UInt64(truncatingIfNeeded: 56 &- count)
      }
      next &+= 1
      count &+= 8
    }
  }

  /// The next `count` bits, 1 to 32, which must be at hand, without taking them.
  @inline(__always)
  func peek(_ count: Int) -> Int { Int(truncatingIfNeeded: word &>> UInt64(truncatingIfNeeded: 64 &- count)) }

  /// Takes bits that are at hand, at most 56.
  @inline(__always)
  mutating func skip(_ count: Int) {
    word &<<= UInt64(truncatingIfNeeded: count)
    self.count &-= count
  }

  /// Takes 1 to 32 bits.
  mutating func take(_ count: Int) -> Int {
    refill()
    let value = peek(count)
    skip(count)
    return value
  }
}
