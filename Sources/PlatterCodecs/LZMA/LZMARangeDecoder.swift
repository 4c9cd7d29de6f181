/// The range decoder of LZMA: bits with adaptive probabilities of 11 bits.
///
/// Reads without a test of bounds: the caller makes sure that `maximumSymbolByteCount` bytes follow.
@safe struct LZMARangeDecoder {
  typealias Probability = UInt16
  static let evenProbability: Probability = 1 << 10
  /// Most that the bits of one symbol take: 22 of them 6 bits each, and 26 plain ones.
  static let maximumSymbolByteCount = 21

  private var range: UInt32 = .max
  private var code: UInt32
  private(set) var next: UnsafePointer<UInt8>

  /// - Parameter start: four bytes of code, then the rest.
  @inline(__always)
  init(_ start: UnsafePointer<UInt8>) {
    code = unsafe UInt32(bigEndian: UnsafeRawPointer(start).loadUnaligned(as: UInt32.self))
    unsafe next = start + 4
  }

  /// The encoder leaves a code of 0.
  var isFinished: Bool { code == 0 }

  @inline(__always)
  mutating func normalise() {
    guard range < 1 << 24 else { return }
    range &<<= 8
    code = unsafe code &<< 8 | UInt32(next.pointee)
    unsafe next += 1
  }

  /// A bit that is used for a branch.
  @inline(__always)
  mutating func flag(_ probability: UnsafeMutablePointer<Probability>) -> Bool {
    normalise()
    let value = unsafe UInt32(probability.pointee)
    let bound = (range &>> 11) &* value
    if code < bound {
      range = bound
      unsafe probability.pointee = Probability(truncatingIfNeeded: value &+ (2048 &- value) &>> 5)
      return false
    }
    range &-= bound
    code &-= bound
    unsafe probability.pointee = Probability(truncatingIfNeeded: value &- value &>> 5)
    return true
  }

  /// A bit that nobody can guess, without a branch: all ones for 0, and 0 for 1.
  @inline(__always)
  mutating func mask(_ probability: UnsafeMutablePointer<Probability>) -> UInt32 {
    normalise()
    let value = unsafe UInt32(probability.pointee)
    let bound = (range &>> 11) &* value
    let isZero = UInt32(truncatingIfNeeded: (Int64(code) &- Int64(bound)) &>> 63)
    range = range &- bound &+ (isZero & (bound &+ bound &- range))
    code &-= bound & ~isZero
    // Towards 2048 for 0, towards 0 for 1: the shift rounds down.
    let target = Int32(bitPattern: value &- (isZero & 2017)) &>> 5
    unsafe probability.pointee = Probability(truncatingIfNeeded: value &- UInt32(bitPattern: target))
    return isZero
  }

  /// One more bit of a symbol that began as 1.
  @inline(__always)
  mutating func grow(_ symbol: inout Int, _ tree: UnsafeMutablePointer<Probability>) {
    let isZero = unsafe mask(tree + symbol)
    symbol = symbol &+ symbol &+ 1 &+ Int(Int32(bitPattern: isZero))
  }

  /// Bits of even probability, highest first.
  @inline(__always)
  mutating func plainBits(_ count: Int) -> UInt32 {
    var value: UInt32 = 0
    for _ in 0..<count {
      normalise()
      range &>>= 1
      code &-= range
      let isZero = 0 &- code &>> 31
      code &+= range & isZero
      value = value &+ value &+ 1 &+ isZero
    }
    return value
  }
}
