import PlatterCore
import PlatterCrypto
import TestSupport
import Testing

/// Every suite that there is.
let everySuite: [SectorCipherSuite] = {
  var suites: [SectorCipherSuite] = []
  let generators: [IVGenerator] = [.plain, .plain64, .essiv(.sha256), .essiv(.md5), .essiv(.sha224)]
  for name in ModeTests.ciphers {
    guard let cipher = BlockCipher(named: name) else { continue }
    for mode in CipherMode.allCases {
      if name == "cast5-128", mode == .xts { continue }
      for generator in generators {
        // ESSIV's cipher has the hash value for its key: AES takes 16, 24 and 32 bytes, CAST5 16.
        if case .essiv(let hash) = generator {
          guard BlockCipher(cipher.family, keyBits: hash.byteCount * 8) != nil else { continue }
        }
        suites.append(SectorCipherSuite(cipher, mode, generator))
      }
    }
  }
  return suites
}()

extension SectorCipherSuite: CustomTestStringConvertible {
  public var testDescription: String { "\(cipher.name) \(luksMode)" }
}

extension SectorCipher {
  func decrypted(_ bytes: [UInt8], guest: UInt64 = 0, host: UInt64 = 0) throws -> [UInt8] {
    var bytes = bytes
    try bytes.withMutableRawBytes { bytes throws(ImageError) in
      try decrypt(&bytes, guestOffset: guest, hostOffset: host)
    }
    return bytes
  }

  func encrypted(_ bytes: [UInt8], guest: UInt64 = 0, host: UInt64 = 0) throws -> [UInt8] {
    var bytes = bytes
    try bytes.withMutableRawBytes { bytes throws(ImageError) in
      try encrypt(&bytes, guestOffset: guest, hostOffset: host)
    }
    return bytes
  }
}

func makeCipher(
  _ name: String, _ mode: CipherMode, _ generator: IVGenerator, key: [UInt8], _ numbering: SectorNumbering = .guest
) throws -> KeyedSectorCipher {
  let cipher = try #require(BlockCipher(named: name))
  return try SectorCipherSuite(cipher, mode, generator).makeCipher(
    key: secret(key), numbering: numbering)
}

@Suite("Sector ciphers")
struct SectorCipherTests {
  /// IEEE 1619-2007, vectors 4 and 10: 512 bytes 00, 01, …, ff, 00, … in sectors 0 and 0xff; head and tail.
  @Test("the published sectors of AES-XTS") func publishedXTS() throws {
    let plain = (0..<512).map { UInt8(truncatingIfNeeded: $0) }
    let small = try makeCipher(
      "aes-128", .xts, .plain64,
      key: .init(hex: "27182818284590452353602874713526 31415926535897932384626433832795"))
    let first = try small.encrypted(plain)
    #expect(
      first.prefix(32).map { $0 } == .init(hex: "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c"))
    #expect(first.suffix(16).map { $0 } == .init(hex: "0a282df920147beabe421ee5319d0568"))
    let large = try makeCipher(
      "aes-256", .xts, .plain64,
      key: .init(
        hex: "2718281828459045235360287471352662497757247093699959574966967627"
          + "3141592653589793238462643383279502884197169399375105820974944592"))
    let second = try large.encrypted(plain, guest: 0xff * 512)
    #expect(
      second.prefix(32).map { $0 } == .init(hex: "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b"))
    #expect(second.suffix(16).map { $0 } == .init(hex: "c4f36ffda9fcea70b9c6e693e148c151"))
    #expect(try large.decrypted(second, guest: 0xff * 512) == plain)
  }

  /// NIST SP 800-38A, F.1.1, F.2.1: with sector 0 and zeros the first CBC block is the ECB block.
  @Test("the published block of AES-128") func publishedBlock() throws {
    let plain = [UInt8](hex: "6bc1bee22e409f96e93d7e117393172a") + [UInt8](repeating: 0, count: 496)
    let key = [UInt8](hex: "2b7e151628aed2a6abf7158809cf4f3c")
    for mode in [CipherMode.ecb, .cbc] {
      let cipher = try makeCipher("aes-128", mode, .plain64, key: key)
      #expect(try cipher.encrypted(plain).prefix(16).map { $0 } == .init(hex: "3ad77bb40d7a3660a89ecaf32466ef97"))
    }
  }

  /// RFC 2144, B.1, 128-bit key.
  @Test("the published block of CAST5") func publishedCAST5() throws {
    let plain = [UInt8](hex: "0123456789abcdef") + [UInt8](repeating: 0, count: 504)
    let cipher = try makeCipher("cast5-128", .ecb, .plain64, key: .init(hex: "0123456712345678234567893456789a"))
    #expect(try cipher.encrypted(plain).prefix(8).map { $0 } == .init(hex: "238b4fe5847e44b2"))
  }

  @Test("what was encrypted decrypts, in one piece and sector by sector", arguments: everySuite)
  func roundTrip(suite: SectorCipherSuite) throws {
    var generator = SeededGenerator(seed: 0x5ec)
    let key = generator.bytes(suite.keyByteCount)
    let cipher = try suite.makeCipher(key: secret(key), numbering: .guest)
    let plain = generator.bytes(150 * 512)
    let place: UInt64 = 0x1_0000_0003 * 512
    let encrypted = try cipher.encrypted(plain, guest: place)
    #expect(encrypted != plain)
    #expect(try cipher.decrypted(encrypted, guest: place) == plain)
    for sector in [0, 1, 63, 64, 149] {
      let part = Array(encrypted[sector * 512..<sector * 512 + 512])
      #expect(
        try cipher.decrypted(part, guest: place + UInt64(sector) * 512)
          == Array(plain[sector * 512..<sector * 512 + 512]))
    }
  }

  @Test("every generator but none tells sectors apart", arguments: everySuite.filter { $0.mode != .ecb })
  func sectorsDiffer(suite: SectorCipherSuite) throws {
    var generator = SeededGenerator(seed: 7)
    let key = generator.bytes(suite.keyByteCount)
    let cipher = try suite.makeCipher(key: secret(key), numbering: .guest)
    let encrypted = try cipher.encrypted([UInt8](repeating: 0, count: 1024))
    #expect(encrypted[..<512].map { $0 } != encrypted[512...].map { $0 })
  }

  @Test("plain wraps at 32 bits, plain64 does not") func plainWraps() throws {
    let key = [UInt8](1...32)
    let zeros = [UInt8](repeating: 0, count: 512)
    let far: UInt64 = (1 << 32) * 512
    let plain = try makeCipher("aes-256", .cbc, .plain, key: key)
    #expect(try plain.encrypted(zeros, guest: far) == plain.encrypted(zeros, guest: 0))
    let plain64 = try makeCipher("aes-256", .cbc, .plain64, key: key)
    #expect(try plain64.encrypted(zeros, guest: far) != plain64.encrypted(zeros, guest: 0))
  }

  @Test("a run across the 32-bit border of plain wraps inside") func plainWrapsInside() throws {
    let plain = try makeCipher("aes-256", .cbc, .plain, key: [UInt8](1...32))
    let both = try plain.encrypted([UInt8](repeating: 0, count: 1024), guest: 0xffff_ffff * 512)
    #expect(Array(both[512...]) == (try plain.encrypted([UInt8](repeating: 0, count: 512), guest: 0)))
  }

  /// The vector is the sector's number encrypted under the hash of the key, by AES with a key of the hash's length.
  @Test("essiv computed by hand", arguments: ["aes-128", "aes-192", "aes-256"])
  func essivByHand(name: String) throws {
    let cipher = try #require(BlockCipher(named: name))
    let key = [UInt8]((0..<cipher.keyBits / 8).map { UInt8($0) })
    let hashed = try hashed(key, .sha256)
    let vectorCipher = try makeCipher("aes-256", .ecb, .plain64, key: hashed)
    let vector = try vectorCipher.encrypted([5] + [UInt8](repeating: 0, count: 511)).prefix(16)
    // CBC of the vector itself is ECB of zeros.
    let blocks = try makeCipher(name, .ecb, .plain64, key: key)
    let expected = try blocks.encrypted([UInt8](repeating: 0, count: 512)).prefix(16)
    let essiv = try makeCipher(name, .cbc, .essiv(.sha256), key: key)
    let encrypted = try essiv.encrypted(vector + [UInt8](repeating: 0, count: 496), guest: 5 * 512)
    #expect(encrypted.prefix(16) == expected)
  }

  @Test("numbers come from the host's place less its base, or from the guest's") func numbering() throws {
    let key = [UInt8](1...64)
    let guest = try makeCipher("aes-256", .xts, .plain64, key: key, .guest)
    let host = try makeCipher("aes-256", .xts, .plain64, key: key, .host(base: 0))
    let payload = try makeCipher("aes-256", .xts, .plain64, key: key, .host(base: 4096))
    let zeros = [UInt8](repeating: 0, count: 512)
    let expected = try guest.encrypted(zeros, guest: 1024, host: 77 * 512)
    #expect(try host.encrypted(zeros, guest: 512, host: 1024) == expected)
    #expect(try payload.encrypted(zeros, guest: 512, host: 4096 + 1024) == expected)
  }

  @Test("bytes that do not start with a sector are refused") func unaligned() throws {
    let cipher = try makeCipher("aes-256", .xts, .plain64, key: [UInt8](1...64))
    #expect(throws: ImageError.self) {
      try cipher.decrypted([UInt8](repeating: 0, count: 512), guest: 100, host: 0)
    }
  }

  /// libcrypto calls such a key weak and refuses to encrypt under it; images made elsewhere may still have one.
  @Test("XTS with two equal halves is read but not written") func equalHalves() throws {
    let half = [UInt8](1...32)
    let cipher = try makeCipher("aes-256", .xts, .plain64, key: half + half)
    let zeros = [UInt8](repeating: 0, count: 512)
    #expect(try cipher.decrypted(zeros) != zeros)
    let error = #expect(throws: ImageError.self) { try cipher.encrypted(zeros) }
    #expect(error?.code == .unsupported)
  }

  @Test("eight threads at once get what one gets") func threads() async throws {
    let cipher = try makeCipher("aes-256", .cbc, .essiv(.sha256), key: [UInt8](1...32))
    var generator = SeededGenerator(seed: 3)
    let plain = generator.bytes(1 << 16)
    let encrypted = try cipher.encrypted(plain, guest: 1 << 30)
    try await withThrowingTaskGroup(of: Bool.self) { group in
      for _ in 0..<8 {
        group.addTask {
          for _ in 0..<20 where try cipher.decrypted(encrypted, guest: 1 << 30) != plain { return false }
          return true
        }
      }
      for try await isRight in group { #expect(isRight) }
    }
  }
}

@Suite("Cipher names")
struct CipherNameTests {
  @Test(
    "a header's words give a suite and come back",
    arguments: [
      ("aes", "xts-plain64", 64, "aes-256"), ("aes", "xts-plain64", 32, "aes-128"),
      ("aes", "xts-plain64", 48, "aes-192"),
      ("aes", "cbc-essiv:sha256", 32, "aes-256"), ("aes", "cbc-plain", 16, "aes-128"),
      ("serpent", "xts-plain64", 64, "serpent-256"), ("twofish", "ctr-plain64", 24, "twofish-192"),
      ("cast5", "cbc-plain64", 16, "cast5-128"),
    ])
  func suite(family: String, mode: String, keyByteCount: Int, name: String) throws {
    let suite = try SectorCipherSuite(luksCipher: family, mode: mode, keyByteCount: keyByteCount)
    #expect(suite.cipher.name == name)
    #expect(suite.luksMode == mode)
    #expect(suite.keyByteCount == keyByteCount)
  }

  @Test("a hash that no generator needs is allowed, as QEMU writes it; so is ecb alone") func oddWords() throws {
    let suite = try SectorCipherSuite(luksCipher: "aes", mode: "xts-plain64:sha256", keyByteCount: 64)
    #expect(suite.generator == .plain64)
    #expect(try SectorCipherSuite(luksCipher: "aes", mode: "ecb", keyByteCount: 16).mode == .ecb)
  }

  @Test(
    "what is not known is refused, and what cannot be is corrupt",
    arguments: [
      ("camellia", "xts-plain64", 64, ImageError.Code.unsupported), ("aes", "lrw-benbi", 32, .unsupported),
      ("aes", "cbc-benbi", 32, .unsupported), ("aes", "cbc-essiv:whirlpool", 32, .unsupported),
      ("aes", "cbc", 32, .unsupported), ("aes", "cbc-essiv", 32, .corrupt), ("aes", "xts-plain64", 33, .corrupt),
      ("cast5", "cbc-plain", 32, .corrupt), ("", "", 32, .unsupported), ("aes", "xts-plain64", 16, .corrupt),
    ])
  func refused(family: String, mode: String, keyByteCount: Int, code: ImageError.Code) {
    let error = #expect(throws: ImageError.self) {
      try SectorCipherSuite(luksCipher: family, mode: mode, keyByteCount: keyByteCount)
    }
    #expect(error?.code == code)
  }

  @Test(
    "only exact names name a cipher", arguments: ["aes-0128", "aes", "aes-+128", "AES-128", "aes-512", "cast5-256"])
  func inexactNames(name: String) {
    #expect(BlockCipher(named: name) == nil)
  }
}

@Suite("The old encryption of qcow2")
struct LegacyQCOWCipherTests {
  /// One sector, by AES-128-CBC under "platter" and nine zeros, vector 3 for guest sector 3.
  @Test("key from the passphrase, vector from the guest's sector") func byHand() throws {
    let key = bytes("platter") + [UInt8](repeating: 0, count: 9)
    let expected = try makeCipher("aes-128", .cbc, .plain64, key: key).encrypted(
      [UInt8](repeating: 0x42, count: 512), guest: 3 * 512)
    let cipher = try LegacyQCOWCipher.make(passphrase: bytes("platter"))
    #expect(
      try cipher.encrypted([UInt8](repeating: 0x42, count: 512), guest: 3 * 512, host: 0x50000) == expected)
  }

  @Test("only sixteen bytes of the passphrase count") func longPassphrase() throws {
    let zeros = [UInt8](repeating: 0, count: 512)
    let long = try LegacyQCOWCipher.make(passphrase: bytes("0123456789abcdefX")).encrypted(zeros)
    #expect(try LegacyQCOWCipher.make(passphrase: bytes("0123456789abcdef")).encrypted(zeros) == long)
    #expect(try LegacyQCOWCipher.make(passphrase: bytes("0123456789abcde")).encrypted(zeros) != long)
  }
}
