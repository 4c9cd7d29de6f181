import PlatterCore

/// Serpent [Anderson, Biham, Knudsen: "Serpent: A Proposal for the Advanced Encryption Standard", 1998], keys of 128, 192
/// and 256 bits.
///
/// The bitslice form of the paper: four words hold a block, and the bits n of all four are the input of one S-box, so that
/// an S-box is a row of logical operations on whole words, and neither of the paper's permutations is needed. Four blocks
/// are worked on at once, one in each lane. Takes the same time whatever the bytes are.
struct Serpent: BlockTransform {
  typealias Word = SerpentBoxes.Word
  static let blockByteCount = 16
  private static let rounds = 32
  private static let laneCount = 4

  /// 33 round keys of four words.
  private let schedule: SecretBytes
  private let isEncrypting: Bool

  init(key: RawSpan, isEncrypting: Bool) throws(ImageError) {
    precondition([16, 24, 32].contains(key.byteCount))
    self.isEncrypting = isEncrypting
    schedule = try SecretBytes(count: (Self.rounds + 1) * Self.blockByteCount) { schedule in
      Self.expand(key, into: &schedule)
    }
  }

  /// The paper's key schedule: a recurrence over words, then the S-boxes over each four.
  private static func expand(_ key: RawSpan, into schedule: inout MutableRawSpan) {
    var words = (0..<8).map { index -> UInt32 in
      let word: UInt32? = index * 4 < key.byteCount ? key.littleEndian(at: index * 4) : nil
      // A short key is made longer by a one and zeros.
      return word ?? (index * 4 == key.byteCount ? 1 : 0)
    }
    for index in 0..<132 {
      let mixed = words[index] ^ words[index + 3] ^ words[index + 5] ^ words[index + 7] ^ 0x9e37_79b9 ^ UInt32(index)
      words.append(mixed.rotated(by: 11))
    }
    for round in 0...rounds {
      var quad = Quad(words[8 + round * 4..<12 + round * 4])
      quad.substitute(box: (35 - round) % 8)
      for (place, word) in [quad.a, quad.b, quad.c, quad.d].enumerated() {
        schedule.storeLittleEndian(word[0], at: round * blockByteCount + place * 4)
      }
    }
  }

  func run(_ blocks: inout MutableRawSpan) {
    unsafe blocks.withUnsafeMutableBytes { blocks in
      unsafe schedule.bytes.withUnsafeBytes { schedule in
        guard let keys = unsafe schedule.baseAddress?.assumingMemoryBound(to: UInt32.self) else { return }
        let step = Self.laneCount * Self.blockByteCount
        var start = 0
        while start < blocks.count {
          let count = min(step, blocks.count - start) / Self.blockByteCount
          var quad = unsafe Quad(loading: blocks, at: start, count: count)
          unsafe isEncrypting ? Self.encrypt(&quad, keys) : Self.decrypt(&quad, keys)
          unsafe quad.store(in: blocks, at: start, count: count)
          start += step
        }
      }
    }
  }

  @inline(__always)
  private static func encrypt(_ quad: inout Quad, _ keys: UnsafePointer<UInt32>) {
    for round in stride(from: 0, to: rounds, by: 8) {
      for index in 0..<8 {
        unsafe quad.exclusiveOr(keys + (round + index) * 4)
        quad.substitute(box: index)
        if round + index < rounds - 1 { quad.transform() }
      }
    }
    unsafe quad.exclusiveOr(keys + rounds * 4)
  }

  @inline(__always)
  private static func decrypt(_ quad: inout Quad, _ keys: UnsafePointer<UInt32>) {
    unsafe quad.exclusiveOr(keys + rounds * 4)
    for round in stride(from: rounds - 8, through: 0, by: -8) {
      for index in (0..<8).reversed() {
        if round + index < rounds - 1 { quad.invertTransform() }
        quad.substituteInversely(box: index)
        unsafe quad.exclusiveOr(keys + (round + index) * 4)
      }
    }
  }
}

/// Four blocks, word by word.
private struct Quad {
  typealias Word = SerpentBoxes.Word
  var a, b, c, d: Word

  /// Four words in every lane.
  init(_ words: ArraySlice<UInt32>) {
    let first = words.startIndex
    a = Word(repeating: words[first])
    b = Word(repeating: words[first + 1])
    c = Word(repeating: words[first + 2])
    d = Word(repeating: words[first + 3])
  }

  /// - Parameter count: blocks, 1 to 4; the lanes behind them repeat the last.
  @inline(__always)
  init(loading bytes: UnsafeMutableRawBufferPointer, at start: Int, count: Int) {
    func word(_ index: Int) -> Word {
      func lane(_ number: Int) -> UInt32 {
        let offset = start + min(number, count - 1) * 16 + index * 4
        return UInt32(littleEndian: unsafe bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
      }
      return Word(lane(0), lane(1), lane(2), lane(3))
    }
    (a, b, c, d) = (word(0), word(1), word(2), word(3))
  }

  @inline(__always)
  func store(in bytes: UnsafeMutableRawBufferPointer, at start: Int, count: Int) {
    for lane in 0..<count {
      let offset = start + lane * 16
      unsafe bytes.storeBytes(of: a[lane].littleEndian, toByteOffset: offset, as: UInt32.self)
      unsafe bytes.storeBytes(of: b[lane].littleEndian, toByteOffset: offset + 4, as: UInt32.self)
      unsafe bytes.storeBytes(of: c[lane].littleEndian, toByteOffset: offset + 8, as: UInt32.self)
      unsafe bytes.storeBytes(of: d[lane].littleEndian, toByteOffset: offset + 12, as: UInt32.self)
    }
  }

  @inline(__always)
  mutating func exclusiveOr(_ key: UnsafePointer<UInt32>) {
    a ^= unsafe Word(repeating: key[0])
    b ^= unsafe Word(repeating: key[1])
    c ^= unsafe Word(repeating: key[2])
    d ^= unsafe Word(repeating: key[3])
  }

  @inline(__always)
  mutating func substitute(box: Int) { (a, b, c, d) = SerpentBoxes.forward(box, a, b, c, d) }

  @inline(__always)
  mutating func substituteInversely(box: Int) { (a, b, c, d) = SerpentBoxes.inverse(box, a, b, c, d) }

  /// The linear transformation between rounds.
  @inline(__always)
  mutating func transform() {
    a = Self.rotated(a, by: 13)
    c = Self.rotated(c, by: 3)
    b = Self.rotated(b ^ a ^ c, by: 1)
    d = Self.rotated(d ^ c ^ Self.shifted(a, by: 3), by: 7)
    a = Self.rotated(a ^ b ^ d, by: 5)
    c = Self.rotated(c ^ d ^ Self.shifted(b, by: 7), by: 22)
  }

  @inline(__always)
  mutating func invertTransform() {
    c = Self.rotated(c, by: 10) ^ d ^ Self.shifted(b, by: 7)
    a = Self.rotated(a, by: 27) ^ b ^ d
    d = Self.rotated(d, by: 25) ^ c ^ Self.shifted(a, by: 3)
    b = Self.rotated(b, by: 31) ^ a ^ c
    c = Self.rotated(c, by: 29)
    a = Self.rotated(a, by: 19)
  }

  @inline(__always)
  private static func rotated(_ word: Word, by count: UInt32) -> Word {
    word &<< Word(repeating: count) | word &>> Word(repeating: 32 &- count)
  }

  @inline(__always)
  private static func shifted(_ word: Word, by count: UInt32) -> Word { word &<< Word(repeating: count) }
}
