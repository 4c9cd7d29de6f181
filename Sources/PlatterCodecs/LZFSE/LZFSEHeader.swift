import PlatterCore

/// The header of an LZFSE block, plain (`bvx1`) or packed (`bvx2`). Every field is sound once parsed.
struct LZFSEHeader {
  static let plainByteCount = 772
  static let packedFixedByteCount = 32
  static let frequencyCount = 360
  /// 360 frequencies of 14 bits at most.
  static let maximumPackedByteCount = packedFixedByteCount + 630

  /// Bytes of the header itself, magic included.
  var byteCount: Int
  var rawByteCount: Int
  /// A multiple of 4: the last group is padded.
  var literalCount: Int
  var matchCount: Int
  var literalPayloadByteCount: Int
  var matchPayloadByteCount: Int
  /// Bits at the top of each payload that are not used: 0 to 7.
  var literalSpareBits: Int
  var matchSpareBits: Int
  var literalStates: [4 of Int]
  var literalRunState: Int
  var matchLengthState: Int
  var distanceState: Int
  /// Literal runs 20, match lengths 20, distances 64, literals 256.
  var frequencies: [360 of UInt16]

  /// Bytes of the header from its first 32: what must be at hand before `init`.
  static func byteCount(of bytes: RawSpan) throws(ImageError) -> Int {
    guard let magic = bytes.littleEndian(at: 0, as: UInt32.self) else { throw LZFSE.cutShort }
    guard magic == LZFSE.packedMagic else { return plainByteCount }
    guard let size = bytes.littleEndian(at: 24, as: UInt32.self) else { throw LZFSE.cutShort }
    guard (packedFixedByteCount...maximumPackedByteCount).contains(Int(size)) else {
      throw LZFSE.damaged("header of \(size) bytes")
    }
    return Int(size)
  }

  /// - Parameter bytes: the block from its magic on.
  init(parsing bytes: RawSpan) throws(ImageError) {
    byteCount = try Self.byteCount(of: bytes)
    guard byteCount <= bytes.byteCount, let raw = bytes.littleEndian(at: 4, as: UInt32.self) else {
      throw LZFSE.cutShort
    }
    rawByteCount = Int(raw)
    frequencies = .init(repeating: 0)
    literalCount = 0
    matchCount = 0
    literalPayloadByteCount = 0
    matchPayloadByteCount = 0
    literalSpareBits = 0
    matchSpareBits = 0
    literalStates = .init(repeating: 0)
    literalRunState = 0
    matchLengthState = 0
    distanceState = 0
    if bytes.littleEndian(at: 0, as: UInt32.self) == LZFSE.packedMagic {
      try parsePacked(bytes.extracting(0..<byteCount))
    } else {
      try parsePlain(bytes.extracting(0..<byteCount))
    }
    try check()
  }

  private mutating func parsePlain(_ bytes: RawSpan) throws(ImageError) {
    literalCount = Int(bytes.field(12, UInt32.self))
    matchCount = Int(bytes.field(16, UInt32.self))
    literalPayloadByteCount = Int(bytes.field(20, UInt32.self))
    matchPayloadByteCount = Int(bytes.field(24, UInt32.self))
    literalSpareBits = -Int(bytes.field(28, Int32.self))
    for index in 0..<4 { literalStates[index] = Int(bytes.field(32 + 2 * index, UInt16.self)) }
    matchSpareBits = -Int(bytes.field(40, Int32.self))
    literalRunState = Int(bytes.field(44, UInt16.self))
    matchLengthState = Int(bytes.field(46, UInt16.self))
    distanceState = Int(bytes.field(48, UInt16.self))
    for index in frequencies.indices { frequencies[index] = bytes.field(50 + 2 * index, UInt16.self) }
  }

  private mutating func parsePacked(_ bytes: RawSpan) throws(ImageError) {
    let words = (0..<3).map { bytes.field(8 + 8 * $0, UInt64.self) }
    func bits(_ word: Int, _ first: UInt64, _ count: UInt64) -> Int { Int(words[word] >> first & (1 << count - 1)) }
    literalCount = bits(0, 0, 20)
    literalPayloadByteCount = bits(0, 20, 20)
    matchCount = bits(0, 40, 20)
    literalSpareBits = 7 - bits(0, 60, 3)
    for index in 0..<4 { literalStates[index] = bits(1, 10 * UInt64(index), 10) }
    matchPayloadByteCount = bits(1, 40, 20)
    matchSpareBits = 7 - bits(1, 60, 3)
    literalRunState = bits(2, 32, 10)
    matchLengthState = bits(2, 42, 10)
    distanceState = bits(2, 52, 10)
    guard bytes.byteCount > Self.packedFixedByteCount else { return }
    try parseFrequencies(bytes.extracting(Self.packedFixedByteCount..<bytes.byteCount))
  }

  private mutating func parseFrequencies(_ bytes: RawSpan) throws(ImageError) {
    var buffer: UInt64 = 0
    var bitCount = 0
    var position = 0
    for index in frequencies.indices {
      while bitCount <= 56, position < bytes.byteCount {
        buffer |= UInt64(bytes[position]) << UInt64(bitCount)
        bitCount += 8
        position += 1
      }
      let (value, length) = Self.frequency(lowBits: UInt16(truncatingIfNeeded: buffer))
      guard length <= bitCount else { throw LZFSE.damaged("frequencies end in the middle") }
      frequencies[index] = value
      buffer >>= UInt64(length)
      bitCount -= length
    }
    guard bitCount < 8, position == bytes.byteCount else {
      throw LZFSE.damaged("header is longer than its frequencies")
    }
  }

  /// A frequency and the length of its code, which is a prefix code from the low bits up.
  private static func frequency(lowBits bits: UInt16) -> (value: UInt16, length: Int) {
    switch bits & 15 {
    case 0, 4, 8, 12: (0, 2)
    case 2, 6, 10, 14: (1, 2)
    case 1, 9: (2, 3)
    case 5, 13: (3, 3)
    case 3, 11: (4 + bits >> 3 & 3, 5)
    case 7: (8 + bits >> 4 & 15, 8)
    default: (24 + bits >> 4 & 1023, 14)
    }
  }

  private func check() throws(ImageError) {
    guard literalCount <= LZFSE.maximumLiteralCount, literalCount % 4 == 0 else {
      throw LZFSE.damaged("block of \(literalCount) literals")
    }
    guard matchCount <= LZFSE.maximumMatchCount else { throw LZFSE.damaged("block of \(matchCount) matches") }
    guard literalPayloadByteCount <= LZFSE.maximumPayloadByteCount,
      matchPayloadByteCount <= LZFSE.maximumPayloadByteCount
    else { throw LZFSE.damaged("payload of \(max(literalPayloadByteCount, matchPayloadByteCount)) bytes") }
    guard (0...7).contains(literalSpareBits), (0...7).contains(matchSpareBits) else {
      throw LZFSE.damaged("more than 7 unused bits")
    }
    for index in literalStates.indices { try Self.check(state: literalStates[index], LZFSE.literalStateCount) }
    try Self.check(state: literalRunState, LZFSE.lengthStateCount)
    try Self.check(state: matchLengthState, LZFSE.lengthStateCount)
    try Self.check(state: distanceState, LZFSE.distanceStateCount)
    try check(frequencies: 0..<20, sum: LZFSE.lengthStateCount, isUsed: matchCount > 0)
    try check(frequencies: 20..<40, sum: LZFSE.lengthStateCount, isUsed: matchCount > 0)
    try check(frequencies: 40..<104, sum: LZFSE.distanceStateCount, isUsed: matchCount > 0)
    try check(frequencies: 104..<360, sum: LZFSE.literalStateCount, isUsed: literalCount > 0)
  }

  private static func check(state: Int, _ count: Int) throws(ImageError) {
    guard state < count else { throw LZFSE.damaged("state \(state) of a table of \(count)") }
  }

  /// Frequencies of a table must add up to its size: a smaller sum would leave states that lead nowhere.
  private func check(frequencies range: Range<Int>, sum: Int, isUsed: Bool) throws(ImageError) {
    var total = 0
    for index in range { total += Int(frequencies[index]) }
    guard total == sum || (total == 0 && !isUsed) else {
      throw LZFSE.damaged("frequencies add up to \(total) instead of \(sum)")
    }
  }
}

extension RawSpan {
  /// An integer at an offset that lies inside. Traps otherwise.
  fileprivate func field<T: FixedWidthInteger & BitwiseCopyable>(_ offset: Int, _ type: T.Type) -> T {
    guard let value = littleEndian(at: offset, as: type) else { preconditionFailure("field outside of its header") }
    return value
  }
}
