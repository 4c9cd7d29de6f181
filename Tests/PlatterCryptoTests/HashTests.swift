import PlatterCore
import PlatterCrypto
import Testing

@Suite("Hashes, codes and derived keys")
struct HashTests {
  static let values: [(HashAlgorithm, String)] = [
    (.md5, "900150983cd24fb0d6963f7d28e17f72"),  // RFC 1321
    (.sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),  // FIPS 180
    (.sha224, "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
    (.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
      .sha384,
      "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7"
    ),
    (
      .sha512,
      "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
        + "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
    ),
    (.ripemd160, "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc"),  // its authors' page
  ]

  @Test("the published hash of \"abc\", in one piece and in three", arguments: values)
  func publishedHash(algorithm: HashAlgorithm, expected: String) throws {
    #expect(try hashed(bytes("abc"), algorithm).hex == expected)
    var digest = try Digest(algorithm)
    for piece in ["a", "", "bc"] { digest.update(bytes(piece)) }
    #expect(digest.finish().hex == expected)
    // The next value starts over.
    digest.update(bytes("abc"))
    #expect(digest.finish().hex == expected)
    #expect(algorithm.byteCount * 2 == expected.count)
  }

  @Test("an unknown hash is refused by name") func unknownHash() {
    let error = #expect(throws: ImageError.self) { try HashAlgorithm(named: "whirlpool\u{1b}") }
    #expect(error?.message == "hash algorithm \"whirlpool?\" is not supported")
  }

  struct Code: Sendable {
    var algorithm: HashAlgorithm
    var key: [UInt8]
    var message: [UInt8]
    var value: String
  }

  static let codes: [Code] = [
    // RFC 2202, cases 1, 2 and 6 for SHA-1 and 1 for MD5; RFC 4231, cases 1 and 2.
    Code(
      algorithm: .sha1, key: [UInt8](repeating: 0x0b, count: 20), message: bytes("Hi There"),
      value: "b617318655057264e28bc0b6fb378c8ef146be00"),
    Code(
      algorithm: .sha1, key: bytes("Jefe"), message: bytes("what do ya want for nothing?"),
      value: "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
    Code(
      algorithm: .sha1, key: [UInt8](repeating: 0xaa, count: 80),
      message: bytes("Test Using Larger Than Block-Size Key - Hash Key First"),
      value: "aa4ae5e15272d00e95705637ce8a3b55ed402112"),
    Code(
      algorithm: .md5, key: [UInt8](repeating: 0x0b, count: 16), message: bytes("Hi There"),
      value: "9294727a3638bb1c13f48ef8158bfc9d"),
    Code(
      algorithm: .sha256, key: [UInt8](repeating: 0x0b, count: 20), message: bytes("Hi There"),
      value: "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    Code(
      algorithm: .sha256, key: bytes("Jefe"), message: bytes("what do ya want for nothing?"),
      value: "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    // An empty key is a key too (the published value of HMAC_SHA256("", "")).
    Code(
      algorithm: .sha256, key: [], message: [],
      value: "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad"),
  ]

  @Test("the published HMAC, twice under one context", arguments: codes)
  func publishedCode(code: Code) throws {
    var context = try HMAC(code.algorithm, key: code.key.rawBytes)
    for _ in 0..<2 {
      context.update(code.message)
      #expect(context.finish().hex == code.value)
    }
  }

  struct Derivation: Sendable {
    var passphrase: [UInt8]
    var salt: [UInt8]
    var iterations: UInt64
    var hash = HashAlgorithm.sha1
    var value: String
  }

  static let derivations: [Derivation] = [
    // RFC 6070.
    Derivation(
      passphrase: bytes("password"), salt: bytes("salt"), iterations: 1,
      value: "0c60c80f961f0e71f3a9b524af6012062fe037a6"),
    Derivation(
      passphrase: bytes("password"), salt: bytes("salt"), iterations: 2,
      value: "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957"),
    Derivation(
      passphrase: bytes("password"), salt: bytes("salt"), iterations: 4096,
      value: "4b007901b765489abead49d926f721d065a429c1"),
    Derivation(
      passphrase: bytes("passwordPASSWORDpassword"), salt: bytes("saltSALTsaltSALTsaltSALTsaltSALTsalt"),
      iterations: 4096, value: "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038"),
    Derivation(
      passphrase: bytes("pass\0word"), salt: bytes("sa\0lt"), iterations: 4096,
      value: "56fa6aa75548099dcc37d7f03425e0c3"),
    // RFC 7914, section 11.
    Derivation(
      passphrase: bytes("passwd"), salt: bytes("salt"), iterations: 1, hash: .sha256,
      value: "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
        + "49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783"),
  ]

  @Test("the published key of PBKDF2", arguments: derivations)
  func publishedKey(derivation: Derivation) throws {
    let value = derivation.value
    let key = try derived(
      derivation.passphrase, derivation.salt, derivation.iterations, derivation.hash, value.count / 2)
    #expect(key.hex == value)
  }

  @Test("iteration counts without meaning are refused", arguments: [0, PBKDF2.maximumIterations + 1, 1 << 40])
  func refusedIterations(iterations: UInt64) {
    let error = #expect(throws: ImageError.self) {
      try derived(bytes("a"), bytes("b"), iterations, .sha1, 20)
    }
    #expect(error?.code == .invalidArgument)
  }

  @Test("an empty passphrase gives a key like any other") func emptyPassphrase() throws {
    let key = try derived([], bytes("salt"), 1, .sha256, 20)
    #expect(key.hex == "f135c27993baf98773c5cdb40a5706ce6a345cde")
  }

  @Test("calibration never goes below the least number of iterations") func calibration() throws {
    #expect(try PBKDF2.iterations(takingMilliseconds: 0, hash: .sha256, byteCount: 32) == 1000)
  }
}

@Suite("Secrets")
struct SecretTests {
  @Test("descriptions and mirrors show the length alone") func descriptions() throws {
    let secret = try secret(bytes("hunter2"))
    var dumped = ""
    dump(secret, to: &dumped)
    for text in ["\(secret)", String(reflecting: secret), dumped] {
      #expect(text.contains("7 secret bytes"))
      #expect(!text.contains("hunter2"))
      #expect(!text.contains(bytes("hunter2").description))
    }
    #expect(secret.bytes.array() == bytes("hunter2"))
  }

  @Test("comparison tells equal from unequal, whatever the length") func comparison() {
    for (one, other, isEqual) in [("abc", "abc", true), ("abc", "abd", false), ("abc", "ab", false), ("", "", true)] {
      let (one, other) = (bytes(one), bytes(other))
      let result = isEqualInConstantTime(one.rawBytes, other.rawBytes)
      #expect(result == isEqual)
    }
  }

  @Test("random bytes differ from call to call") func random() throws {
    #expect(try Random.bytes(32) != Random.bytes(32))
    #expect(try SecretBytes.random(count: 32).hex != SecretBytes.random(count: 32).hex)
  }
}

@Suite("Anti-forensic stripes")
struct AntiForensicTests {
  @Test("what was split merges to the same key", arguments: HashAlgorithm.allCases, [1, 16, 20, 33, 64])
  func roundTrip(hash: HashAlgorithm, keyByteCount: Int) throws {
    let key = try SecretBytes.random(count: keyByteCount)
    let padded = (keyByteCount * 7 + 511) / 512 * 512
    let material = try AntiForensic.split(key, stripes: 7, hash: hash, paddedByteCount: padded)
    #expect(material.count == padded)
    #expect(try merged(material.bytes.array(), keyByteCount, 7, hash).hex == key.hex)
  }

  @Test("each stripe counts: one flipped bit anywhere gives another key") func eachStripeCounts() throws {
    let key = try SecretBytes.random(count: 32)
    let split = try AntiForensic.split(key, stripes: 4, hash: .sha256, paddedByteCount: 128)
    let material = split.bytes.array()
    for index in stride(from: 0, to: 128, by: 32) {
      var damaged = material
      damaged[index] ^= 1
      #expect(try merged(damaged, 32, 4, .sha256).hex != key.hex)
    }
  }

  /// The last piece is hashed as it is, not padded: computed here by hand for a 33-byte key and SHA-256.
  @Test("the short last piece is hashed short") func shortPiece() throws {
    let first = [UInt8](repeating: 0x11, count: 33)
    let last = [UInt8](repeating: 0x22, count: 33)
    let whole = [0, 0, 0, 0] + first[..<32]
    let short: [UInt8] = [0, 0, 0, 1, 0x11]
    var expected = try hashed(whole, .sha256)
    expected.append(try hashed(short, .sha256)[0])
    expected = expected.map { $0 ^ 0x22 }
    #expect(try merged(first + last, 33, 2, .sha256).hex == expected.hex)
  }
}
