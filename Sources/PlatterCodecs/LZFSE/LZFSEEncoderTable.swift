/// Symbol counts of one of a block's four codes, and what encoding needs of them.
struct LZFSEEncoderTable {
  var counts: [Int]
  private let stateCount: Int

  init(symbolCount: Int, stateCount: Int) {
    counts = [Int](repeating: 0, count: symbolCount)
    self.stateCount = stateCount
  }

  /// Scales the counts so that they add up to the number of states; none that occurs vanishes.
  mutating func normalise() {
    let total = counts.reduce(0, +)
    guard total > 0 else {
      // Apple's encoder fills the table of a block without literals too, and 7-Zip wants it full.
      counts[0] = stateCount
      return
    }
    var left = stateCount
    for index in counts.indices where counts[index] > 0 {
      counts[index] = max(1, (counts[index] * stateCount + total / 2) / total)
      left -= counts[index]
    }
    // Rounding is settled with the most frequent symbols, to whom it matters least.
    while left != 0 {
      var largest = 0
      for index in counts.indices where counts[index] > counts[largest] { largest = index }
      let change = left > 0 ? left : -min(-left, max(1, counts[largest] / 8))
      counts[largest] += change
      left -= change
    }
  }

  /// For each symbol, how it changes the state. Valid once normalised.
  var entries: [Entry] {
    var sum = 0
    return counts.map { count in
      guard count > 0 else { return Entry(bits: 0, threshold: 0, highBase: 0, lowBase: 0) }
      let bits = count.leadingZeroBitCount - stateCount.leadingZeroBitCount
      defer { sum += count }
      return Entry(
        bits: bits, threshold: count << bits - stateCount, highBase: sum - count + stateCount >> bits,
        lowBase: bits > 0 ? sum - count + stateCount >> (bits - 1) : 0)
    }
  }

  struct Entry {
    /// Low bits of the state that are written from `threshold` on; one less below.
    var bits: Int
    var threshold: Int
    /// New state: the rest of the old one and this.
    var highBase: Int
    var lowBase: Int

    @inline(__always)
    func encode(_ state: inout Int, _ output: BitString) {
      if state >= threshold {
        output.push(state & (1 &<< bits &- 1), bits)
        state = highBase + state &>> bits
      } else {
        output.push(state & (1 &<< (bits &- 1) &- 1), bits &- 1)
        state = lowBase + state &>> (bits &- 1)
      }
    }
  }
}

/// A number as symbol and extra bits.
struct LZFSEValue {
  var symbol: Int
  var extra: Int
  var extraBits: Int

  private static func table(_ extraBits: [UInt8], count: Int) -> [LZFSEValue] {
    let bases = LZFSE.bases(extraBits)
    var symbol = 0
    return (0..<count).map { value in
      while symbol + 1 < bases.count, value >= Int(bases[symbol + 1]) { symbol += 1 }
      return LZFSEValue(symbol: symbol, extra: value - Int(bases[symbol]), extraBits: Int(extraBits[symbol]))
    }
  }

  private static let literalRuns = table(LZFSE.literalRunExtraBits, count: 316)
  private static let matchLengths = table(LZFSE.matchLengthExtraBits, count: 2360)

  /// - Parameter value: 0 to 315.
  static func literalRun(_ value: Int) -> LZFSEValue { literalRuns[value] }

  /// - Parameter value: 0 to 2359.
  static func matchLength(_ value: Int) -> LZFSEValue { matchLengths[value] }

  /// Four symbols share each number of extra bits, g; those begin at 4 * (2^g - 1).
  ///
  /// - Parameter value: 0 to 262139.
  static func distance(_ value: Int) -> LZFSEValue {
    let group = 61 - (value + 4).leadingZeroBitCount
    let offset = value - (4 << group - 4)
    return LZFSEValue(symbol: 4 * group + offset >> group, extra: offset & (1 << group - 1), extraBits: group)
  }
}

/// Bits, the first ones lowest. Holds what one block needs at most: 10000 matches of 54 bits.
@safe final class BitString {
  private static let capacity = 1 << 17

  private let bytes: UnsafeMutableRawPointer
  private(set) var byteCount = 0
  private var buffer: UInt64 = 0
  private var bufferedBitCount = 0
  /// Bits of the last byte that are not used, once finished.
  private(set) var spareBitCount = 0

  init() { unsafe bytes = .allocate(byteCount: Self.capacity, alignment: 8) }

  deinit { unsafe bytes.deallocate() }

  func removeAll() {
    byteCount = 0
    buffer = 0
    bufferedBitCount = 0
    spareBitCount = 0
  }

  /// - Parameter count: at most 32; `value` has no bits above.
  @inline(__always)
  func push(_ value: Int, _ count: Int) {
    buffer |= UInt64(truncatingIfNeeded: value) &<< UInt64(truncatingIfNeeded: bufferedBitCount)
    bufferedBitCount &+= count
    guard bufferedBitCount >= 32 else { return }
    precondition(byteCount <= Self.capacity - 16)
    unsafe bytes.storeBytes(
      of: UInt32(truncatingIfNeeded: buffer).littleEndian, toByteOffset: byteCount, as: UInt32.self)
    byteCount &+= 4
    buffer &>>= 32
    bufferedBitCount &-= 32
  }

  /// Fills up to whole bytes with zeros.
  func finish() {
    // At most four bytes, for which `push` has kept room.
    while bufferedBitCount > 0 {
      unsafe bytes.storeBytes(of: UInt8(truncatingIfNeeded: buffer), toByteOffset: byteCount, as: UInt8.self)
      byteCount += 1
      buffer >>= 8
      bufferedBitCount -= 8
    }
    spareBitCount = -bufferedBitCount
    bufferedBitCount = 0
  }

  func append(to writer: inout ByteWriter) { unsafe writer.append(UnsafeRawPointer(bytes), byteCount) }
}
