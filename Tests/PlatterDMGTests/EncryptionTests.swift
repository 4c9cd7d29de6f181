import PlatterCore
import PlatterDMG
import TestSupport
import Testing

/// A disk of one sector of 0x5A, encrypted: AES-128 under the key 00…0f, block codes under 10…23, both wrapped under
/// the passphrase "platter" by the openssl program.
enum EncryptedDisk {
  static let blob = bytes(
    hexadecimal: "17f3d05f395bfefc71aeef1a5ac103eb2de34541023fce6c64ec63c36b18b3021b83f0f79dd8ba5dc24a4c547d8bb4bc")

  static let block = bytes(
    hexadecimal: """
      450e7cf3c25df312f4659cc1532c5b8a4a42e444519e9f3a16ffe442949708096723637cfabf829d2d3e0945196cf2c7fe982ded1cc9
      40f172f8ebbc1ef6dbc489969be034308966d9b541fba5277bb0eaa5ebb1d9b4aa7f6c5433566e35a82e4c2408153264f64f14f94789
      078c74d459e15387b5d21f67f82877a27d7a7711acafc7a83451682f96e03ce38f9b170ff3be0f21b3080f515eabc95fdd3f923cc748
      dbbb9241bae29121889da7d3d7ef751e7c23495137e37aa46590e495bf0dc5fa04d1d73f08f375e5fda3d925f39fffd75b0eb19375fb
      316b11d4f19e427c52fad761e53fbfc696fff001791861bfb45671361c40c5e08793f34abb47f9098b1a6d1eb2c203b032e32f8b878a
      de7b91fc8c7a05db5f52a596259457dd357bc2383cedc3f15a6ec52d0f6f4737d23f8d967469bcec5054fe54563ac619f16fb8ef0408
      10915e18e4c0a69996989501de14fbd3e992c50f2129c74b1fe999e78e150aa41624e9f9495cd7c1cda29b4081e77921cb69bde172fe
      64af075c60a1de09e672fb9c4e7b58e82c73d60d16542106b5af7f33fd3290e66a320b171f854f06705f9a49fdb0964d3c95bb6bad0f
      78a34784b2b3b0f0374b142390a1d44111992aae2f6172fbbb28ad67f48c957dab0a2caa9b12ab5b57bac3e44e4eaf637fcdeb02fc61
      d0df5bf1260cc482224e539ba471d105879fd400215349655e15
      """)

  static var file: [UInt8] {
    var file = Array("encrcdsa".utf8) + bigEndian(UInt32(2))
    for number: UInt32 in [16, 5, 0x8000_0001, 128, 0x5B, 160] { file += bigEndian(number) }
    file += [UInt8](repeating: 9, count: 16) + bigEndian(UInt32(512)) + bigEndian(UInt64(512)) + bigEndian(UInt64(512))
    // One key item: a passphrase.
    file += bigEndian(UInt32(1)) + bigEndian(UInt32(1)) + bigEndian(UInt64(96)) + bigEndian(UInt64(104 + 48))
    file += bigEndian(UInt32(0x67)) + bigEndian(UInt32(0)) + bigEndian(UInt32(1000))
    file += bigEndian(UInt32(20)) + [UInt8](repeating: 1, count: 20) + [UInt8](repeating: 0, count: 12)
    file += bigEndian(UInt32(8)) + [UInt8](repeating: 2, count: 8) + [UInt8](repeating: 0, count: 24)
    for number: UInt32 in [192, 0x11, 7, 6, 48] { file += bigEndian(number) }
    file += blob
    return file + [UInt8](repeating: 0, count: 512 - file.count) + block
  }
}

@Suite("Encrypted images")
struct EncryptionTests {
  private func context(_ passphrase: String?) -> OpenContext {
    OpenContext(passphrase: { () throws(ImageError) in passphrase.map { Array($0.utf8) } })
  }

  @Test("a raw disk inside is read as it is")
  func rawInside() throws {
    let map = try open(EncryptedDisk.file, context("platter"))
    #expect(map.isEncrypted)
    #expect(map.stores.count == 2)
    #expect(try contents(map) == [UInt8](repeating: 0x5A, count: 512))
    #expect(map.facts.specific?["encryption"]?["cipher-alg"] == .text("aes-128"))
    #expect(try check(map).corruptions == 0)
  }

  @Test("no passphrase and a wrong one are told apart", arguments: [nil, "", "Platter", "platter\n"])
  func refusals(passphrase: String?) {
    let error = #expect(throws: ImageError.self) { try open(EncryptedDisk.file, context(passphrase)) }
    #expect(error?.message.contains(passphrase == nil ? "key-secret" : "invalid passphrase") == true)
    #expect(error?.code == .invalidArgument)
  }

  @Test("facts need no passphrase, and nothing else works without")
  func facts() throws {
    var context = context(nil)
    context.isForFactsOnly = true
    let map = try open(EncryptedDisk.file, context)
    #expect(map.byteCount == 512 && map.isEncrypted)
    #expect(map.facts.specific?["encrypted"] == .flag(true))
    #expect(throws: ImageError.self) { try contents(map) }
    #expect(throws: ImageError.self) { try check(map) }
  }

  @Test("a header cut at any byte is refused")
  func truncations() {
    for count in 8..<512 {
      #expect(throws: ImageError.self) { try open(Array(EncryptedDisk.file.prefix(count)), context("platter")) }
    }
  }
}
