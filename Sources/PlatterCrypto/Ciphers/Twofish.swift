import PlatterCore

/// Twofish [Schneier, Kelsey, Whiting, Wagner, Hall, Ferguson: "Twofish: A 128-Bit Block Cipher", 1998], keys of 128, 192
/// and 256 bits. The sections named below are the paper's.
///
/// The function g depends on the key alone, so it stands in four tables of 256 words: g(x) is the XOR of one word from
/// each, found by one byte of x ("full keying", section 5.2).
///
///     schedule, in 32-bit words:   0  K0 ... K39, the round keys     40  four tables of 256 words
struct Twofish: BlockTransform {
  static let blockByteCount = 16
  private static let roundKeyCount = 40
  private static let rounds = 16

  private let schedule: SecretBytes
  private let isEncrypting: Bool

  init(key: RawSpan, isEncrypting: Bool) throws(ImageError) {
    self.isEncrypting = isEncrypting
    let wordCount = Self.roundKeyCount + 4 * 256
    schedule = try SecretBytes(count: wordCount * 4) { schedule in
      unsafe schedule.withUnsafeMutableBytes { schedule in
        unsafe TwofishKeys(key).fill(schedule.bindMemory(to: UInt32.self))
      }
    }
  }

  func run(_ blocks: inout MutableRawSpan) {
    unsafe blocks.withUnsafeMutableBytes { blocks in
      unsafe schedule.bytes.withUnsafeBytes { schedule in
        guard let words = unsafe schedule.baseAddress?.assumingMemoryBound(to: UInt32.self) else { return }
        for start in stride(from: 0, through: blocks.count - Self.blockByteCount, by: Self.blockByteCount) {
          var block = unsafe (
            Self.load(blocks, start), Self.load(blocks, start + 4), Self.load(blocks, start + 8),
            Self.load(blocks, start + 12)
          )
          unsafe isEncrypting ? Self.encrypt(&block, words) : Self.decrypt(&block, words)
          unsafe Self.store(block.0, blocks, start)
          unsafe Self.store(block.1, blocks, start + 4)
          unsafe Self.store(block.2, blocks, start + 8)
          unsafe Self.store(block.3, blocks, start + 12)
        }
      }
    }
  }

  private typealias Block = (UInt32, UInt32, UInt32, UInt32)

  @inline(__always)
  private static func load(_ bytes: UnsafeMutableRawBufferPointer, _ offset: Int) -> UInt32 {
    UInt32(littleEndian: unsafe bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
  }

  @inline(__always)
  private static func store(_ word: UInt32, _ bytes: UnsafeMutableRawBufferPointer, _ offset: Int) {
    unsafe bytes.storeBytes(of: word.littleEndian, toByteOffset: offset, as: UInt32.self)
  }

  /// The key-dependent function g (section 4.3.1).
  @inline(__always)
  private static func g(_ x: UInt32, _ words: UnsafePointer<UInt32>) -> UInt32 {
    let tables = unsafe words + roundKeyCount
    return unsafe tables[Int(x & 0xff)] ^ tables[256 + Int(x >> 8 & 0xff)] ^ tables[512 + Int(x >> 16 & 0xff)]
      ^ tables[768 + Int(x >> 24)]
  }

  /// Section 4: whitening, sixteen rounds of which every second has its halves swapped, whitening.
  @inline(__always)
  private static func encrypt(_ block: inout Block, _ words: UnsafePointer<UInt32>) {
    var (a, b, c, d) = unsafe (
      block.0 ^ words[0], block.1 ^ words[1], block.2 ^ words[2], block.3 ^ words[3]
    )
    for round in stride(from: 0, to: rounds, by: 2) {
      unsafe encryptRound(a, b, &c, &d, words, 8 + 2 * round)
      unsafe encryptRound(c, d, &a, &b, words, 10 + 2 * round)
    }
    block = unsafe (c ^ words[4], d ^ words[5], a ^ words[6], b ^ words[7])
  }

  @inline(__always)
  private static func encryptRound(
    _ a: UInt32, _ b: UInt32, _ c: inout UInt32, _ d: inout UInt32, _ words: UnsafePointer<UInt32>, _ key: Int
  ) {
    let t0 = unsafe g(a, words)
    let t1 = unsafe g(b.rotated(by: 8), words)
    c = unsafe (c ^ (t0 &+ t1 &+ words[key])).rotated(by: 31)
    d = unsafe d.rotated(by: 1) ^ (t0 &+ t1 &+ t1 &+ words[key + 1])
  }

  @inline(__always)
  private static func decrypt(_ block: inout Block, _ words: UnsafePointer<UInt32>) {
    var (c, d, a, b) = unsafe (
      block.0 ^ words[4], block.1 ^ words[5], block.2 ^ words[6], block.3 ^ words[7]
    )
    for round in stride(from: rounds - 2, through: 0, by: -2) {
      unsafe decryptRound(c, d, &a, &b, words, 10 + 2 * round)
      unsafe decryptRound(a, b, &c, &d, words, 8 + 2 * round)
    }
    block = unsafe (a ^ words[0], b ^ words[1], c ^ words[2], d ^ words[3])
  }

  @inline(__always)
  private static func decryptRound(
    _ a: UInt32, _ b: UInt32, _ c: inout UInt32, _ d: inout UInt32, _ words: UnsafePointer<UInt32>, _ key: Int
  ) {
    let t0 = unsafe g(a, words)
    let t1 = unsafe g(b.rotated(by: 8), words)
    c = unsafe c.rotated(by: 1) ^ (t0 &+ t1 &+ words[key])
    d = unsafe (d ^ (t0 &+ t1 &+ t1 &+ words[key + 1])).rotated(by: 31)
  }
}

extension UInt32 {
  /// Rotated to the left.
  @inline(__always)
  func rotated(by count: UInt32) -> UInt32 { self &<< count | self &>> (32 &- count) }
}
