import PlatterCore

/// The LZMA coder of one LZMA2 stream: states, probabilities, and the four last distances. About 30 KB.
///
/// Returns false for anything that is not as a sound encoder leaves it; whose fault it is, liblzma then says.
@safe final class LZMADecoder {
  typealias Probability = LZMARangeDecoder.Probability

  // Where the probabilities lie. Literals come last, since their number varies.
  private static let isMatch = 0
  private static let isRepeat = isMatch + 12 * 16
  private static let isOlder1 = isRepeat + 12
  private static let isOlder2 = isOlder1 + 12
  private static let isOlder3 = isOlder2 + 12
  private static let isLong = isOlder3 + 12
  private static let distanceSlots = isLong + 12 * 16
  private static let distances = distanceSlots + 4 * 64
  private static let alignment = distances + 128
  private static let matchLengths = alignment + 16
  private static let repeatLengths = matchLengths + lengthCount
  private static let literals = repeatLengths + lengthCount
  private static let maximumLiteralBits = 4
  private static let probabilityCount = literals + 0x300 << maximumLiteralBits

  // A length coder: two choices, then 16 trees of 8, 16 of 8, and one of 256.
  private static let lowLengths = 2
  private static let middleLengths = lowLengths + 16 * 8
  private static let highLengths = middleLengths + 16 * 8
  private static let lengthCount = highLengths + 256

  private let probabilities: UnsafeMutablePointer<Probability>
  private var state = 0
  private var distance0 = 0
  private var distance1 = 0
  private var distance2 = 0
  private var distance3 = 0
  private var literalContextBits = 0
  private var literalPositionMask = 0
  private var positionMask = 0

  init() {
    unsafe probabilities = .allocate(capacity: Self.probabilityCount)
    unsafe probabilities.initialize(
      repeating: LZMARangeDecoder.evenProbability, count: Self.probabilityCount)
  }

  deinit { unsafe probabilities.deallocate() }

  /// Takes the properties: literal context bits, literal position bits, position bits.
  func setProperties(_ byte: UInt8) -> Bool {
    let value = Int(byte)
    guard value < 9 * 5 * 5 else { return false }
    let positionBits = value / 45
    let literalPositionBits = value / 9 % 5
    literalContextBits = value % 9
    guard literalContextBits + literalPositionBits <= Self.maximumLiteralBits else { return false }
    literalPositionMask = 1 << literalPositionBits - 1
    positionMask = 1 << positionBits - 1
    return true
  }

  /// Starts anew; the properties stay.
  func reset() {
    unsafe probabilities.update(repeating: LZMARangeDecoder.evenProbability, count: Self.probabilityCount)
    state = 0
    (distance0, distance1, distance2, distance3) = (0, 0, 0, 0)
  }

  /// Decodes one chunk.
  ///
  /// - Parameters:
  ///   - packed: the chunk's bytes; `LZMARangeDecoder.maximumSymbolByteCount` more can be read after them.
  ///   - target: has room for `byteCount` more.
  ///   - historyStart: copies may not reach before it.
  func decode(
    _ packed: UnsafeBufferPointer<UInt8>, _ byteCount: Int, into target: inout OutputTarget, historyStart: Int
  ) -> Bool {
    guard packed.count >= 5, let start = packed.baseAddress, unsafe start.pointee == 0 else { return false }
    precondition(byteCount <= target.capacity - target.written)
    var range = unsafe LZMARangeDecoder(start + 1)
    let end = unsafe start + packed.count
    let base = unsafe target.base
    let probabilities = unsafe probabilities
    let capacity = target.capacity
    var written = target.written
    let limit = written + byteCount
    var state = self.state
    var (distance0, distance1, distance2, distance3) = (distance0, distance1, distance2, distance3)
    let (literalContextBits, literalPositionMask, positionMask) = (
      literalContextBits, literalPositionMask, positionMask
    )
    while written < limit {
      guard unsafe range.next <= end else { return false }
      // Positions count from the last reset of the history, which is where liblzma counts from.
      let position = written &- historyStart
      let positionState = position & positionMask
      if unsafe !range.flag(probabilities + (Self.isMatch &+ state &* 16 &+ positionState)) {
        let before = position > 0 ? unsafe Int(base.load(fromByteOffset: written &- 1, as: UInt8.self)) : 0
        let context =
          (position & literalPositionMask) &<< literalContextBits &+ before &>> (8 &- literalContextBits)
        let tree = unsafe probabilities + (Self.literals &+ context &* 0x300)
        var symbol = 1
        if state < 7 {
          unsafe range.grow(&symbol, tree)
          unsafe range.grow(&symbol, tree)
          unsafe range.grow(&symbol, tree)
          unsafe range.grow(&symbol, tree)
          unsafe range.grow(&symbol, tree)
          unsafe range.grow(&symbol, tree)
          unsafe range.grow(&symbol, tree)
          unsafe range.grow(&symbol, tree)
          state = state < 4 ? 0 : state &- 3
        } else {
          guard distance0 < position else { return false }
          var match = unsafe Int(base.load(fromByteOffset: written &- distance0 &- 1, as: UInt8.self))
          var offset = 0x100
          for _ in 0..<8 {
            match &<<= 1
            let bit = match & offset
            let isZero = unsafe Int(Int32(bitPattern: range.mask(tree + (offset &+ bit &+ symbol))))
            symbol = symbol &+ symbol &+ 1 &+ isZero
            offset &= bit ^ isZero
          }
          state = state < 10 ? state &- 3 : state &- 6
        }
        unsafe base.storeBytes(of: UInt8(truncatingIfNeeded: symbol), toByteOffset: written, as: UInt8.self)
        written &+= 1
        continue
      }
      var length = 0
      if unsafe !range.flag(probabilities + (Self.isRepeat &+ state)) {
        (distance1, distance2, distance3) = (distance0, distance1, distance2)
        length = unsafe Self.length(&range, probabilities + Self.matchLengths, positionState)
        distance0 = unsafe Self.distance(&range, probabilities, length)
        state = state < 7 ? 7 : 10
      } else {
        if unsafe !range.flag(probabilities + (Self.isOlder1 &+ state)) {
          if unsafe !range.flag(probabilities + (Self.isLong &+ state &* 16 &+ positionState)) {
            guard distance0 < position else { return false }
            let byte = unsafe base.load(fromByteOffset: written &- distance0 &- 1, as: UInt8.self)
            unsafe base.storeBytes(of: byte, toByteOffset: written, as: UInt8.self)
            written &+= 1
            state = state < 7 ? 9 : 11
            continue
          }
        } else if unsafe !range.flag(probabilities + (Self.isOlder2 &+ state)) {
          (distance0, distance1) = (distance1, distance0)
        } else if unsafe !range.flag(probabilities + (Self.isOlder3 &+ state)) {
          (distance0, distance1, distance2) = (distance2, distance0, distance1)
        } else {
          (distance0, distance1, distance2, distance3) = (distance3, distance0, distance1, distance2)
        }
        length = unsafe Self.length(&range, probabilities + Self.repeatLengths, positionState)
        state = state < 7 ? 8 : 11
      }
      guard distance0 < position, length <= limit &- written else { return false }
      let place = unsafe base + written
      if capacity &- written &- length >= wideCopySlack {
        unsafe copyBackWide(place, distance0 &+ 1, length)
      } else {
        unsafe copyBack(place, distance0 &+ 1, length)
      }
      written &+= length
    }
    range.normalise()
    self.state = state
    (self.distance0, self.distance1, self.distance2, self.distance3) = (distance0, distance1, distance2, distance3)
    target.written = written
    return unsafe range.next == end && range.isFinished
  }

  /// 2 to 273.
  @inline(__always)
  private static func length(
    _ range: inout LZMARangeDecoder, _ coder: UnsafeMutablePointer<Probability>, _ positionState: Int
  ) -> Int {
    var symbol = 1
    if unsafe !range.flag(coder) {
      let tree = unsafe coder + (lowLengths &+ positionState &* 8)
      for _ in 0..<3 { unsafe range.grow(&symbol, tree) }
      return symbol &- 8 &+ 2
    }
    if unsafe !range.flag(coder + 1) {
      let tree = unsafe coder + (middleLengths &+ positionState &* 8)
      for _ in 0..<3 { unsafe range.grow(&symbol, tree) }
      return symbol &- 8 &+ 10
    }
    let tree = unsafe coder + highLengths
    for _ in 0..<8 { unsafe range.grow(&symbol, tree) }
    return symbol &- 256 &+ 18
  }

  /// The distance less one.
  @inline(__always)
  private static func distance(
    _ range: inout LZMARangeDecoder, _ probabilities: UnsafeMutablePointer<Probability>, _ length: Int
  ) -> Int {
    let slots = unsafe probabilities + (distanceSlots &+ min(length &- 2, 3) &* 64)
    var slot = 1
    for _ in 0..<6 { unsafe range.grow(&slot, slots) }
    slot &-= 64
    guard slot >= 4 else { return slot }
    let bitCount = slot &>> 1 &- 1
    let base = (2 | slot & 1) &<< bitCount
    if slot < 14 {
      return unsafe base &+ reversed(&range, probabilities + (distances &+ base &- slot), bitCount)
    }
    let high = Int(range.plainBits(bitCount &- 4)) &<< 4
    return unsafe base &+ high &+ reversed(&range, probabilities + alignment, 4)
  }

  /// A number from a tree, lowest bit first.
  @inline(__always)
  private static func reversed(
    _ range: inout LZMARangeDecoder, _ tree: UnsafeMutablePointer<Probability>, _ bitCount: Int
  ) -> Int {
    var symbol = 1
    var value = 0
    for bit in 0..<bitCount {
      let isZero = unsafe Int(Int32(bitPattern: range.mask(tree + symbol)))
      symbol = symbol &+ symbol &+ 1 &+ isZero
      value |= (1 &+ isZero) &<< bit
    }
    return value
  }
}
