import PlatterCore
import PlatterQCOW2
import TestSupport
import Testing

@Suite struct EncryptionTests {
  private func legacy() -> QCOW2Builder {
    var image = QCOW2Builder(byteCount: 4 * 65536)
    image.encryptionMethod = 1
    image.entries = [0: .data(filled(1)), 1: .zero, 2: .raw(1 << 63 | 0x70_0000)]
    return image
  }

  private func withKey(_ passphrase: [UInt8] = [1]) -> OpenContext { OpenContext(passphrase: { passphrase }) }

  @Test("data of an encrypted image goes through the cipher, zeros do not")
  func runsWithCipher() throws {
    let built = legacy().build()
    var bytes = built.bytes
    bytes += filled(0, 0x71_0000 - bytes.count)
    let map = try open(bytes, withKey())
    #expect(map.isEncrypted && map.ciphers.count == 1)
    let expected: [Extent] = [
      .data(start: 0, byteCount: 65536, store: 0, offset: try #require(built.hostOffsets[0]), cipher: 1),
      .zero(start: 65536, byteCount: 65536),
      .data(start: 131_072, byteCount: 65536, store: 0, offset: 0x70_0000, cipher: 1),
      .absent(start: 196_608, byteCount: 65536),
    ]
    #expect(try runs(map) == expected)
  }

  @Test("an encrypted cluster that the file cuts short has no zeros to show for what is missing")
  func cutCluster() throws {
    var bytes = legacy().build().bytes
    bytes += filled(0, 0x70_0000 + 1000 - bytes.count)
    let map = try open(bytes, withKey())
    var extents: [Extent] = []
    #expect(try map.map(131_072..<map.byteCount, limit: 9, into: &extents) == 131_072 + 512)
    #expect(throws: ImageError.self) { try map.map(131_584..<map.byteCount, limit: 9, into: &extents) }
  }

  /// `qemu-io write -c` makes such images, and QEMU reads them; they were refused as corrupt.
  @Test("a compressed cluster in an encrypted image lies there in the clear")
  func compressed() throws {
    var image = legacy()
    image.entries[0] = .packed(deflateStored(filled(1, 512)))
    let map = try open(image, withKey())
    let first = try #require(try runs(map, 0..<65536).first)
    #expect(first.kind == .packed && first.cipher == 0 && first.byteCount == 65536)
  }

  @Test("without a passphrase an encrypted image is refused")
  func noPassphrase() throws {
    let error = #expect(throws: ImageError.self) { try open(legacy()) }
    #expect(error?.message.contains("secret") == true)
  }

  @Test("opened for its facts, an encrypted image gives none of its bytes")
  func factsOnly() throws {
    let map = try open(legacy(), OpenContext(isForFactsOnly: true))
    #expect(map.facts.specific?["encrypt"] == ["format": .text("aes")])
    #expect(map.isEncrypted)
    #expect(throws: ImageError.self) { try runs(map) }
  }

  @Test("a LUKS area that holds no LUKS header is refused, for the facts too")
  func notLUKS() throws {
    var image = QCOW2Builder(byteCount: 65536)
    image.encryptionMethod = 2
    image.extensions = [(0x0537_be77, bigEndianBytes(UInt64(65536)) + bigEndianBytes(UInt64(65536)))]
    let error = #expect(throws: ImageError.self) { try open(image, OpenContext(isForFactsOnly: true)) }
    #expect(error?.message.contains("LUKS") == true)
  }
}
