import PlatterCore
import PlatterCrypto
import TestSupport
import Testing

@Suite("Block ciphers of our own")
struct BlockCipherTests {
  struct Vector: Sendable, CustomTestStringConvertible {
    var cipher: String
    var key: String
    var plain: String
    var encrypted: String
    var testDescription: String { "\(cipher) \(key.prefix(8))… \(plain.prefix(8))…" }
  }

  private static let zeros = String(repeating: "0", count: 32)

  /// Serpent: NESSIE's set 1, vector 0, and lines of the submission's ecb_vt, which prints the last byte first.
  /// Twofish: the paper's, one per length of key.
  static let vectors = [
    Vector(
      cipher: "serpent-128", key: "80" + String(repeating: "0", count: 30), plain: zeros,
      encrypted: "264e5481eff42a4606abda06c0bfda3d"),
    Vector(
      cipher: "serpent-192", key: "80" + String(repeating: "0", count: 46), plain: zeros,
      encrypted: "9e274ead9b737bb21efcfca548602689"),
    Vector(
      cipher: "serpent-256", key: "80" + String(repeating: "0", count: 62), plain: zeros,
      encrypted: "a223aa1288463c0e2be38ebd825616c0"),
    Vector(
      cipher: "serpent-128", key: zeros, plain: String(repeating: "0", count: 30) + "80",
      encrypted: "4ae9a20b2b14a10290cbb820b7ffb510"),
    Vector(
      cipher: "serpent-192", key: String(repeating: "0", count: 48), plain: String(repeating: "0", count: 30) + "40",
      encrypted: "9668f388dd4f122a4d9dd8d6b8a322d5"),
    Vector(
      cipher: "serpent-256", key: String(repeating: "0", count: 64), plain: zeros,
      encrypted: "49672ba898d98df95019180445491089"),
    Vector(cipher: "twofish-128", key: zeros, plain: zeros, encrypted: "9f589f5cf6122c32b6bfec2f2ae8c35a"),
    Vector(
      cipher: "twofish-192", key: "0123456789abcdeffedcba98765432100011223344556677", plain: zeros,
      encrypted: "cfd1d2e5a9be9cdf501f13b892bd2248"),
    Vector(
      cipher: "twofish-256", key: "0123456789abcdeffedcba987654321000112233445566778899aabbccddeeff", plain: zeros,
      encrypted: "37527be0052334b89f0cfccae87cfa20"),
  ]

  /// Other blocks stand before and behind, so that each lane is tried.
  @Test("published blocks, in every place of a sector", arguments: vectors) func published(vector: Vector) throws {
    let cipher = try makeCipher(vector.cipher, .ecb, .plain64, key: .init(hex: vector.key))
    for place in [0, 1, 2, 3, 4, 31] {
      var sector = [UInt8](repeating: 0x77, count: 512)
      sector.replaceSubrange(place * 16..<place * 16 + 16, with: [UInt8](hex: vector.plain))
      let encrypted = try cipher.encrypted(sector)
      #expect(encrypted[place * 16..<place * 16 + 16].map { $0 } == .init(hex: vector.encrypted))
      #expect(try cipher.decrypted(encrypted) == sector)
    }
  }

  /// The paper's table of intermediate values: each result is the next key and the next text; 49 times over.
  @Test("the paper's chain of 49 blocks of Twofish") func twofishChain() throws {
    var key = [UInt8](repeating: 0, count: 16)
    var plain = [UInt8](repeating: 0, count: 16)
    for _ in 0..<49 {
      let cipher = try makeCipher("twofish-128", .ecb, .plain64, key: key)
      let encrypted = try cipher.encrypted(plain + [UInt8](repeating: 0, count: 496)).prefix(16)
      (key, plain) = (plain, Array(encrypted))
    }
    #expect(plain.hex == "5d9d4eeffa9151575524f115815a12e0")
  }

  /// The eight tables of Serpent's paper.
  static let boxes: [[Int]] = [
    [3, 8, 15, 1, 10, 6, 5, 11, 14, 13, 4, 2, 7, 0, 9, 12], [15, 12, 2, 7, 9, 0, 5, 10, 1, 11, 14, 8, 6, 13, 3, 4],
    [8, 6, 7, 9, 3, 12, 10, 15, 13, 1, 14, 4, 0, 11, 5, 2], [0, 15, 11, 8, 12, 9, 6, 3, 13, 1, 2, 4, 10, 7, 5, 14],
    [1, 15, 8, 3, 12, 0, 11, 6, 2, 5, 4, 10, 9, 14, 7, 13], [15, 5, 2, 11, 4, 10, 9, 12, 0, 3, 14, 8, 13, 6, 7, 1],
    [7, 2, 12, 5, 8, 4, 6, 11, 14, 9, 1, 15, 13, 3, 10, 0], [1, 13, 15, 0, 14, 8, 2, 11, 7, 4, 12, 10, 9, 3, 5, 6],
  ]

  @Test("Serpent's boxes are the paper's tables, both ways", arguments: 0..<8) func serpentBoxes(box: Int) {
    // Bit n of the words is input n: all sixteen at once.
    let inputs: [SerpentBoxes.Word] = [0xaaaa, 0xcccc, 0xf0f0, 0xff00].map { SerpentBoxes.Word(repeating: $0) }
    let forward = SerpentBoxes.forward(box, inputs[0], inputs[1], inputs[2], inputs[3])
    let inverse = SerpentBoxes.inverse(box, inputs[0], inputs[1], inputs[2], inputs[3])
    func value(_ row: SerpentBoxes.Row, _ input: Int) -> Int {
      [row.0, row.1, row.2, row.3].enumerated().reduce(0) { $0 | Int($1.element[3] >> UInt32(input) & 1) << $1.offset }
    }
    for input in 0..<16 {
      #expect(value(forward, input) == Self.boxes[box][input])
      #expect(value(inverse, Self.boxes[box][input]) == input)
    }
  }
}

/// Modes computed here from the cipher alone, block by block, as the standards have them.
@Suite("Modes over any block cipher")
struct ModeTests {
  static let ciphers = [
    "aes-128", "aes-192", "aes-256", "serpent-128", "serpent-192", "serpent-256", "twofish-128", "twofish-192",
    "twofish-256", "cast5-128",
  ]
  private static let sector: UInt64 = 0x1_2345_6789

  /// The cipher alone.
  private func block(_ name: String, _ key: [UInt8], _ bytes: [UInt8]) throws -> [UInt8] {
    let cipher = try makeCipher(name, .ecb, .plain64, key: key)
    return Array(try cipher.encrypted(bytes + [UInt8](repeating: 0, count: 512 - bytes.count)).prefix(bytes.count))
  }

  private func vector(_ sector: UInt64, _ count: Int) -> [UInt8] {
    (0..<count).map { $0 < 8 ? UInt8(truncatingIfNeeded: sector >> UInt64(8 * $0)) : 0 }
  }

  private func expected(_ name: String, _ mode: CipherMode, _ key: [UInt8], _ plain: [UInt8]) throws -> [UInt8] {
    let size = try #require(BlockCipher(named: name)).blockByteCount
    var result: [UInt8] = []
    let half = key.count / 2
    for (index, start) in stride(from: 0, to: plain.count, by: 512).enumerated() {
      var state = vector(Self.sector + UInt64(index), size)
      if mode == .xts { state = try block(name, Array(key[half...]), state) }
      for place in stride(from: start, to: start + 512, by: size) {
        let part = Array(plain[place..<place + size])
        switch mode {
        case .ecb: result += try block(name, key, part)
        case .cbc:
          state = try block(name, key, zip(part, state).map { $0 ^ $1 })
          result += state
        case .ctr:
          result += zip(part, try block(name, key, state)).map { $0 ^ $1 }
          for byte in state.indices.reversed() {
            state[byte] &+= 1
            if state[byte] != 0 { break }
          }
        case .xts:
          let inner = try block(name, Array(key[..<half]), zip(part, state).map { $0 ^ $1 })
          result += zip(inner, state).map { $0 ^ $1 }
          var carry: UInt8 = 0
          for byte in state.indices { (state[byte], carry) = (state[byte] << 1 | carry, state[byte] >> 7) }
          if carry == 1 { state[0] ^= 0x87 }
        }
      }
    }
    return result
  }

  @Test("every mode of every cipher, by hand", arguments: ciphers, CipherMode.allCases)
  func byHand(name: String, mode: CipherMode) throws {
    guard name != "cast5-128" || mode != .xts else { return }
    let cipher = try #require(BlockCipher(named: name))
    var generator = SeededGenerator(seed: 0xbeef)
    let key = generator.bytes(SectorCipherSuite(cipher, mode, .plain64).keyByteCount)
    let plain = generator.bytes(3 * 512)
    let keyed = try makeCipher(name, mode, .plain64, key: key)
    let encrypted = try keyed.encrypted(plain, guest: Self.sector * 512)
    #expect(try encrypted == expected(name, mode, key, plain))
    #expect(try keyed.decrypted(encrypted, guest: Self.sector * 512) == plain)
  }

  @Test("XTS needs blocks of 16 bytes") func shortBlocks() {
    let error = #expect(throws: ImageError.self) {
      try makeCipher("cast5-128", .xts, .plain64, key: [UInt8](1...32))
    }
    #expect(error?.code == .unsupported)
    #expect(error?.message.contains("cast5-128") == true)
  }
}
