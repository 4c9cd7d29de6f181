import PlatterCore

/// The Huffman tables of a block: canonical codes, the shorter ones looked up at once. About 20 KB.
@safe final class BZip2Codes {
  /// Codes of up to so many bits are found by one look.
  static let lookupBitCount = 10

  /// Per table 1 << `lookupBitCount` entries: symbol << 5 | bits, or 0 where the code is longer or there is none.
  let lookup: UnsafeMutablePointer<UInt16>
  /// Per table and code length: one past the last code of that length, as the top of `maximumCodeBitCount` bits.
  private let ends: UnsafeMutablePointer<Int>
  /// Per table and code length: what leads from such a code to its place among the sorted symbols.
  private let places: UnsafeMutablePointer<Int>
  /// Per table: symbols by code.
  private let sorted: UnsafeMutablePointer<UInt16>
  private let lengths: UnsafeMutablePointer<UInt8>
  private static let lengthCount = BZip2.maximumCodeBitCount + 1

  init() {
    unsafe lookup = Self.zeros(BZip2.maximumTableCount << Self.lookupBitCount)
    unsafe ends = Self.zeros(BZip2.maximumTableCount * Self.lengthCount)
    unsafe places = Self.zeros(BZip2.maximumTableCount * Self.lengthCount)
    unsafe sorted = Self.zeros(BZip2.maximumTableCount * BZip2.maximumSymbolCount)
    unsafe lengths = Self.zeros(BZip2.maximumSymbolCount)
  }

  deinit {
    unsafe lookup.deallocate()
    unsafe ends.deallocate()
    unsafe places.deallocate()
    unsafe sorted.deallocate()
    unsafe lengths.deallocate()
  }

  private static func zeros<T: FixedWidthInteger>(_ count: Int) -> UnsafeMutablePointer<T> {
    let pointer = UnsafeMutablePointer<T>.allocate(capacity: count)
    unsafe pointer.initialize(repeating: 0, count: count)
    return unsafe pointer
  }

  /// Reads the code lengths of one table and builds it.
  func read(_ table: Int, symbolCount: Int, _ bits: inout BZip2Bits) throws(ImageError) {
    precondition(table < BZip2.maximumTableCount && symbolCount <= BZip2.maximumSymbolCount)
    var length = bits.take(5)
    for symbol in 0..<symbolCount {
      while true {
        guard (1...BZip2.maximumCodeBitCount).contains(length) else {
          throw BZip2.damaged("a code of \(length) bits")
        }
        guard bits.take(1) == 1 else { break }
        length += bits.take(1) == 0 ? 1 : -1
        guard !bits.isOverrun else { throw BZip2.cutShort }
      }
      unsafe lengths[symbol] = UInt8(length)
    }
    build(table, symbolCount)
  }

  /// Codes that are too many for their length are never met, as in libbz2; so tables need not be complete either.
  private func build(_ table: Int, _ symbolCount: Int) {
    let sorted = unsafe sorted + table * BZip2.maximumSymbolCount
    let lookup = unsafe lookup + table << Self.lookupBitCount
    var count = 0
    var filled = 0
    var code = 0
    for length in 1...BZip2.maximumCodeBitCount {
      code <<= 1
      let place = table * Self.lengthCount + length
      unsafe places[place] = count - code
      for symbol in 0..<symbolCount where unsafe Int(lengths[symbol]) == length {
        unsafe sorted[count] = UInt16(symbol)
        count += 1
        if length <= Self.lookupBitCount, code < 1 << length {
          let same = 1 << (Self.lookupBitCount - length)
          unsafe (lookup + filled).update(repeating: UInt16(symbol << 5 | length), count: same)
          filled += same
        }
        code += 1
      }
      unsafe ends[place] = code << (BZip2.maximumCodeBitCount - length)
    }
    unsafe (lookup + filled).update(repeating: 0, count: 1 << Self.lookupBitCount - filled)
  }

  /// The entry of a code that `lookup` does not have; 0 where the bits are no code at all.
  @inline(never)
  func longEntry(_ table: Int, _ bits: BZip2Bits) -> Int {
    let next = bits.peek(BZip2.maximumCodeBitCount)
    for length in Self.lookupBitCount + 1...BZip2.maximumCodeBitCount {
      let place = table * Self.lengthCount + length
      guard unsafe next < ends[place] else { continue }
      let code = next >> (BZip2.maximumCodeBitCount - length)
      let symbol = unsafe sorted[table * BZip2.maximumSymbolCount + code + places[place]]
      return Int(symbol) << 5 | length
    }
    return 0
  }
}
