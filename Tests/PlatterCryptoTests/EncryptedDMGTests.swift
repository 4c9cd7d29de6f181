import PlatterCore
import PlatterCrypto
import TestSupport
import Testing

@Suite("Encrypted disk images of Apple")
struct EncryptedDMGTests {
  static let samples: [UInt8] = {
    var generator = SeededGenerator(seed: 4)
    return generator.bytes(700_000)
  }()

  private func open(_ file: [UInt8], _ passphrase: String = "test123") throws(ImageError) -> any ByteStore {
    var iterations: UInt64 = 0
    return try EncryptedDMG.open(
      MemoryStore(file, name: "disk.dmg"), passphrase: Array(passphrase.utf8), iterations: &iterations)
  }

  @Test("both key sizes and all block sizes read back", arguments: [128, 256], [512, 4096, 65536, 1 << 20])
  func reads(keyBits: Int, blockByteCount: Int) throws {
    var builder = EncryptedDMGBuilder()
    builder.keyBits = keyBits
    builder.blockByteCount = blockByteCount
    builder.plain = Array(Self.samples.prefix(600_111))
    let store = try open(try builder.version2())
    #expect(try store.byteCount() == 600_111)
    #expect(!store.isWritable)
    #expect(try store.readFully("all", at: 0, count: 600_111) == builder.plain)
  }

  @Test("any range reads as a part of the whole, past the end as nothing") func ranges() throws {
    var builder = EncryptedDMGBuilder()
    builder.blockByteCount = 4096
    builder.plain = Array(Self.samples.prefix(600_111))
    let store = try open(try builder.version2())
    var generator = SeededGenerator(seed: 0x4a)
    for _ in 0..<60 {
      let start = Int(generator.next() % 600_111)
      let count = min(Int(generator.next() % 20_000), 600_111 - start)
      #expect(
        try store.readFully("part", at: UInt64(start), count: count) == Array(builder.plain[start..<start + count]))
    }
    #expect(try store.readPrefix(at: 600_100, count: 100) == Array(builder.plain[600_100...]))
    #expect(try store.readPrefix(at: 600_111, count: 100).isEmpty)
    #expect(try store.readPrefix(at: .max, count: 100).isEmpty)
  }

  @Test("the last block may be cut behind its data") func cutPadding() throws {
    var builder = EncryptedDMGBuilder()
    builder.blockByteCount = 4096
    builder.plain = Array(Self.samples.prefix(5000))
    builder.cutByteCount = 4096 - 912
    #expect(try open(try builder.version2()).readFully("all", at: 0, count: 5000) == builder.plain)
    // Into its data it may not.
    builder.cutByteCount = 4096 - 896
    let error = #expect(throws: ImageError.self) { try open(try builder.version2()) }
    #expect(error?.code == .truncated)
  }

  @Test("version 1 reads back", arguments: [128, 256]) func versionOne(keyBits: Int) throws {
    var builder = EncryptedDMGBuilder()
    builder.keyBits = keyBits
    builder.blockByteCount = 4096
    builder.plain = Array(Self.samples.prefix(409_600))
    let file = try builder.version1()
    #expect(try EncryptedDMG.isEncrypted(MemoryStore(file)))
    #expect(try open(file).readFully("all", at: 0, count: 409_600) == builder.plain)
    let error = #expect(throws: ImageError.self) { try open(file, "wrong") }
    #expect(error?.message == EncryptedDMG.wrongPassphraseMessage)
  }

  @Test("signatures at either end are seen; nothing else is") func signatures() throws {
    var builder = EncryptedDMGBuilder()
    builder.plain = [1]
    #expect(try EncryptedDMG.isEncrypted(MemoryStore(try builder.version2())))
    for other in [[], Array("cdsaencr".utf8) + [0], [0] + Array("encrcdsa".utf8), Array("encrcds".utf8)] {
      #expect(try !EncryptedDMG.isEncrypted(MemoryStore(other)))
    }
  }

  @Test("a wrong passphrase and a damaged key get one sentence") func wrongPassphrase() throws {
    var builder = EncryptedDMGBuilder()
    builder.plain = [1, 2, 3]
    let file = try builder.version2()
    // Of the blob only the end can be checked: a damaged start gives another key, which nothing tells from the right one.
    let damaged = try builder.version2 { $0[1024 + 104 + 63] ^= 1 }
    for (file, passphrase) in [(file, "test124"), (file, ""), (damaged, "test123")] {
      let error = #expect(throws: ImageError.self) { try open(file, passphrase) }
      #expect(error?.description == "disk.dmg: invalid passphrase: it unlocks no key of the encrypted disk image")
    }
  }

  @Test("facts need no passphrase") func facts() throws {
    var builder = EncryptedDMGBuilder()
    builder.plain = [1]
    let facts = try EncryptedDMG.facts(MemoryStore(try builder.version2()))
    #expect(facts["cipher-alg"] == .text("aes-256"))
    #expect(facts["passphrase-iters"] == .list([.unsigned(7)]))
    #expect(facts["other-keys"] == .unsigned(1))
  }

  struct Damage: Sendable, CustomTestStringConvertible {
    var name: String
    var offset: Int
    var bytes: [UInt8]
    var code = ImageError.Code.corrupt
    var testDescription: String { name }
  }

  static let damages: [Damage] = [
    Damage(name: "version 3", offset: 8, bytes: bigEndian(3 as UInt32), code: .unsupported),
    Damage(name: "another cipher", offset: 20, bytes: bigEndian(0x11 as UInt32), code: .unsupported),
    Damage(name: "192-bit key", offset: 24, bytes: bigEndian(192 as UInt32), code: .unsupported),
    Damage(name: "block size 0", offset: 52, bytes: bigEndian(0 as UInt32)),
    Damage(name: "block size 2^31", offset: 52, bytes: bigEndian(1 << 31 as UInt32)),
    Damage(name: "data length 2^64 - 1", offset: 56, bytes: bigEndian(UInt64.max), code: .truncated),
    Damage(name: "data offset 2^64 - 1", offset: 64, bytes: bigEndian(UInt64.max), code: .truncated),
    Damage(name: "no key items", offset: 72, bytes: bigEndian(0 as UInt32)),
    Damage(name: "2^32 - 1 key items", offset: 72, bytes: bigEndian(UInt32.max)),
    Damage(name: "only a certificate", offset: 72, bytes: bigEndian(1 as UInt32), code: .unsupported),
    Damage(name: "an item past the end", offset: 100, bytes: bigEndian(1 << 40 as UInt64), code: .truncated),
    Damage(name: "an item of 2^64 - 1 bytes", offset: 108, bytes: bigEndian(UInt64.max)),
    Damage(name: "an item of 20 bytes", offset: 108, bytes: bigEndian(20 as UInt64)),
    Damage(name: "no iterations", offset: 1024 + 8, bytes: bigEndian(0 as UInt32)),
    Damage(name: "2^32 - 1 iterations", offset: 1024 + 8, bytes: bigEndian(UInt32.max)),
    Damage(name: "2^32 iterations", offset: 1024 + 4, bytes: bigEndian(1 as UInt32), code: .unsupported),
    Damage(name: "a salt of 33 bytes", offset: 1024 + 12, bytes: bigEndian(33 as UInt32)),
    Damage(name: "a vector of 16 bytes", offset: 1024 + 48, bytes: bigEndian(16 as UInt32), code: .unsupported),
    Damage(name: "a blob of 63 bytes", offset: 1024 + 100, bytes: bigEndian(63 as UInt32)),
    Damage(name: "a blob of 2^32 - 8 bytes", offset: 1024 + 100, bytes: bigEndian(UInt32.max - 7)),
  ]

  @Test("damaged headers are refused", arguments: damages) func refused(damage: Damage) throws {
    var builder = EncryptedDMGBuilder()
    builder.plain = [1, 2, 3]
    let file = try builder.version2 {
      $0.replaceSubrange(damage.offset..<damage.offset + damage.bytes.count, with: damage.bytes)
    }
    let error = #expect(throws: ImageError.self) { try open(file) }
    #expect(error?.code == damage.code, "\(error?.message ?? "nothing")")
  }

  @Test("a file cut anywhere never traps", arguments: [0, 7, 8, 20, 75, 76, 95, 116, 1023, 1100, 1190, 4095, 4100])
  func cut(byteCount: Int) throws {
    var builder = EncryptedDMGBuilder()
    builder.plain = [UInt8](repeating: 1, count: 600)
    let file = Array(try builder.version2().prefix(byteCount))
    #expect(throws: ImageError.self) { try open(file) }
    let old = try builder.version1()
    let cutOld = Array(old.suffix(min(byteCount, old.count - 1)))
    #expect(throws: ImageError.self) { try open(cutOld) }
  }
}
