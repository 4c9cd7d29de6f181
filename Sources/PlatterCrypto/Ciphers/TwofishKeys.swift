import PlatterCore

/// The key schedule of Twofish (section 4.3 of its paper): round keys, and the tables of g.
struct TwofishKeys {
  /// Words of the key at even and odd places, first to last.
  private let even: [UInt32]
  private let odd: [UInt32]
  /// What a Reed-Solomon code makes of each eight bytes of the key, last to first.
  private let boxes: [UInt32]

  init(_ key: RawSpan) {
    let count = key.byteCount / 8
    even = (0..<count).map { key.littleEndian(at: $0 * 8) ?? 0 }
    odd = (0..<count).map { key.littleEndian(at: $0 * 8 + 4) ?? 0 }
    boxes = (0..<count).reversed().map { Self.reedSolomon(key.bytes(at: $0 * 8, count: 8) ?? []) }
  }

  /// Writes the schedule that `Twofish` draws.
  func fill(_ words: UnsafeMutableBufferPointer<UInt32>) {
    for index in 0..<20 {
      let number = UInt32(index) &* 2
      let a = Self.h(number &* 0x0101_0101, even)
      let b = Self.h((number &+ 1) &* 0x0101_0101, odd).rotated(by: 8)
      unsafe words[2 * index] = a &+ b
      unsafe words[2 * index + 1] = (a &+ b &+ b).rotated(by: 9)
    }
    for byte in 0..<4 {
      for value in 0..<256 {
        // Byte n of h's result before the matrix depends on byte n of its argument alone.
        let substituted = Self.substituted(UInt8(value), byte, boxes)
        unsafe words[40 + 256 * byte + value] = Self.column(byte, substituted)
      }
    }
  }

  /// The function h (section 4.3.2).
  private static func h(_ x: UInt32, _ list: [UInt32]) -> UInt32 {
    (0..<4).reduce(0) { $0 ^ column($1, substituted(UInt8(truncatingIfNeeded: x >> (8 * UInt32($1))), $1, list)) }
  }

  /// Which of q0 and q1 stands in front of each list word, the last applied first (figure 2): by byte, then for the words
  /// 0, 1, 2, 3; at the end the one behind all words.
  private static let order: [[Int]] = [[0, 0, 1, 1], [0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 1]]
  private static let last: [Int] = [1, 0, 1, 0]

  private static func substituted(_ value: UInt8, _ byte: Int, _ list: [UInt32]) -> UInt8 {
    var value = value
    for index in list.indices.reversed() {
      value = q[order[byte][index]][Int(value)] ^ UInt8(truncatingIfNeeded: list[index] >> (8 * UInt32(byte)))
    }
    return q[last[byte]][Int(value)]
  }

  // MARK: Fixed tables

  /// The permutations q0 and q1 (section 4.3.5), each built from four of 4 bits.
  private static let q: [[UInt8]] = [
    permutation([
      [0x8, 0x1, 0x7, 0xd, 0x6, 0xf, 0x3, 0x2, 0x0, 0xb, 0x5, 0x9, 0xe, 0xc, 0xa, 0x4],
      [0xe, 0xc, 0xb, 0x8, 0x1, 0x2, 0x3, 0x5, 0xf, 0x4, 0xa, 0x6, 0x7, 0x0, 0x9, 0xd],
      [0xb, 0xa, 0x5, 0xe, 0x6, 0xd, 0x9, 0x0, 0xc, 0x8, 0xf, 0x3, 0x2, 0x4, 0x7, 0x1],
      [0xd, 0x7, 0xf, 0x4, 0x1, 0x2, 0x6, 0xe, 0x9, 0xb, 0x3, 0x0, 0x8, 0x5, 0xc, 0xa],
    ]),
    permutation([
      [0x2, 0x8, 0xb, 0xd, 0xf, 0x7, 0x6, 0xe, 0x3, 0x1, 0x9, 0x4, 0x0, 0xa, 0xc, 0x5],
      [0x1, 0xe, 0x2, 0xb, 0x4, 0xc, 0x3, 0x7, 0x6, 0xd, 0xa, 0x5, 0xf, 0x9, 0x0, 0x8],
      [0x4, 0xc, 0x7, 0x5, 0x1, 0x6, 0x9, 0xa, 0x0, 0xe, 0xd, 0x8, 0x2, 0xb, 0x3, 0xf],
      [0xb, 0x9, 0x5, 0x1, 0xc, 0x3, 0xd, 0xe, 0x6, 0x4, 0x7, 0xf, 0x2, 0x0, 0x8, 0xa],
    ]),
  ]

  private static func permutation(_ t: [[UInt8]]) -> [UInt8] {
    (0..<256).map { value in
      var (a, b) = (UInt8(value >> 4), UInt8(value & 15))
      for half in 0..<2 {
        let mixed = a ^ (b >> 1 | (b & 1) << 3) ^ (a << 3 & 15)
        (a, b) = (t[2 * half][Int(a ^ b)], t[2 * half + 1][Int(mixed)])
      }
      return b << 4 | a
    }
  }

  /// The MDS matrix by columns (section 4.3.2), first row first.
  private static let matrix: [[UInt8]] = [
    [0x01, 0x5b, 0xef, 0xef], [0xef, 0xef, 0x5b, 0x01], [0x5b, 0xef, 0x01, 0xef], [0x5b, 0x01, 0xef, 0x5b],
  ]

  /// The column of the matrix times a byte, as a word.
  private static func column(_ byte: Int, _ value: UInt8) -> UInt32 {
    let factors = matrix[byte]
    return (0..<4).reduce(0) { $0 | UInt32(product(factors[$1], value, 0x169)) << (8 * UInt32($1)) }
  }

  /// The RS matrix by rows (section 4.3.1).
  private static let code: [[UInt8]] = [
    [0x01, 0xa4, 0x55, 0x87, 0x5a, 0x58, 0xdb, 0x9e], [0xa4, 0x56, 0x82, 0xf3, 0x1e, 0xc6, 0x68, 0xe5],
    [0x02, 0xa1, 0xfc, 0xc1, 0x47, 0xae, 0x3d, 0x19], [0xa4, 0x55, 0x87, 0x5a, 0x58, 0xdb, 0x9e, 0x03],
  ]

  private static func reedSolomon(_ bytes: [UInt8]) -> UInt32 {
    (0..<4).reduce(0) { word, row in
      let sum = zip(code[row], bytes).reduce(0 as UInt8) { $0 ^ product($1.0, $1.1, 0x14d) }
      return word | UInt32(sum) << (8 * UInt32(row))
    }
  }

  /// Multiplication of bytes as polynomials, modulo another of degree 8.
  private static func product(_ a: UInt8, _ b: UInt8, _ modulus: UInt16) -> UInt8 {
    var (sum, shifted) = (0 as UInt16, UInt16(a))
    for bit in 0..<8 {
      if b >> UInt8(bit) & 1 == 1 { sum ^= shifted }
      shifted <<= 1
      if shifted & 0x100 != 0 { shifted ^= modulus }
    }
    return UInt8(sum)
  }
}
