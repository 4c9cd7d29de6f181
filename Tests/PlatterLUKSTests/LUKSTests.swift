import PlatterCore
import PlatterCrypto
import PlatterLUKS
import TestSupport
import Testing

@Suite("LUKS volumes")
struct LUKSTests {
  struct Variant: Sendable, CustomTestStringConvertible {
    var cipher = "aes"
    var mode = "xts-plain64"
    var hash = "sha256"
    var keyByteCount = 64
    var testDescription: String { "\(cipher) \(mode) \(hash) \(keyByteCount)" }
  }

  static let variants = [
    Variant(), Variant(keyByteCount: 32), Variant(mode: "xts-plain", hash: "sha512"),
    Variant(mode: "xts-plain64:sha256", hash: "sha1"),
    Variant(mode: "cbc-essiv:sha256", hash: "sha1", keyByteCount: 16),
    Variant(mode: "cbc-essiv:sha256", hash: "ripemd160", keyByteCount: 32),
    // 24 bytes times 4000 stripes is not a whole number of sectors.
    Variant(mode: "cbc-plain64", hash: "sha384", keyByteCount: 24), Variant(mode: "ctr-plain64", keyByteCount: 32),
    Variant(mode: "ecb-plain", hash: "sha224", keyByteCount: 32),
    Variant(mode: "cbc-plain", hash: "md5", keyByteCount: 16),
    Variant(cipher: "cast5", mode: "cbc-plain64", hash: "sha1", keyByteCount: 16),
  ]

  @Test("a volume opens under its passphrase and reads back", arguments: variants)
  func reads(variant: Variant) throws {
    var builder = VolumeBuilder()
    (builder.cipher, builder.mode, builder.hash) = (variant.cipher, variant.mode, variant.hash)
    builder.keyByteCount = variant.keyByteCount
    var generator = SeededGenerator(seed: 9)
    builder.plain = generator.bytes(200 * 512)
    let store = MemoryStore(try builder.build(), isWritable: false)
    let map = try LUKS.open(store, context("platter"))
    #expect(map.byteCount == 200 * 512)
    #expect(map.isEncrypted)
    #expect(try contents(map) == builder.plain)
    #expect(try contents(map, unitByteCount: 512) == builder.plain)
  }

  @Test("any key slot opens it", arguments: [0, 3, 7]) func anySlot(slot: Int) throws {
    var builder = VolumeBuilder()
    builder.slot = slot
    builder.plain = [UInt8](repeating: 0x5a, count: 1024)
    let map = try LUKS.open(MemoryStore(try builder.build()), context("platter"))
    #expect(try contents(map) == builder.plain)
  }

  @Test("the payload starts where the header says, not where QEMU puts it") func alignedPayload() throws {
    var builder = VolumeBuilder()
    builder.payloadAlignmentSectors = 2048
    builder.plain = [UInt8](repeating: 1, count: 512)
    let map = try LUKS.open(MemoryStore(try builder.build()), context("platter"))
    #expect(map.facts.specific?["payload-offset"] == .unsigned(2 << 20))
    #expect(try contents(map) == builder.plain)
  }

  @Test("an incomplete sector at the end does not count") func oddLength() throws {
    var builder = VolumeBuilder()
    builder.plain = [UInt8](repeating: 2, count: 1024)
    let file = try builder.build()
    #expect(try LUKS.open(MemoryStore(Array(file.dropLast(100))), context("platter")).byteCount == 512)
    #expect(try LUKS.open(MemoryStore(file + [7]), context("platter")).byteCount == 1024)
  }

  /// A hole of the file is ciphertext of zeros' noise; only data may be reported, all in one run.
  @Test("the whole disk is one encrypted run, never sparse") func oneRun() throws {
    var builder = VolumeBuilder()
    builder.plain = [UInt8](repeating: 0, count: 8192)
    let map = try LUKS.open(MemoryStore(try builder.build()), context("platter"))
    var runs: [Extent] = []
    #expect(try map.map(512..<8192, limit: 1, into: &runs) == 8192)
    #expect(
      runs == [
        .data(start: 512, byteCount: 7680, store: 0, offset: UInt64(builder.payloadSector) * 512 + 512, cipher: 1)
      ])
  }

  @Test("wrong passphrase and damaged key material get the same sentence") func wrongPassphrase() throws {
    var builder = VolumeBuilder()
    let file = try builder.build()
    let damaged = try builder.build { $0[8 * 512] ^= 1 }
    let noSlots = try builder.build { put(0x0000_dead, at: 208, &$0) }
    for (file, passphrase) in [(file, "plattern"), (file, ""), (damaged, "platter"), (noSlots, "platter")] {
      let error = #expect(throws: ImageError.self) {
        try LUKS.open(MemoryStore(file, name: "disk.luks"), context(passphrase))
      }
      #expect(error?.description == "disk.luks: Invalid password, cannot unlock any keyslot")
    }
  }

  @Test("without a secret the error says what is missing, and facts still come") func noSecret() throws {
    var builder = VolumeBuilder()
    builder.plain = [UInt8](repeating: 0, count: 512)
    let store = MemoryStore(try builder.build(), name: "disk.luks")
    for missing in [context(nil), OpenContext()] {
      let error = #expect(throws: ImageError.self) { try LUKS.open(store, missing) }
      #expect(error?.description == "disk.luks: the image is encrypted; a secret is needed: key-secret")
    }
    let map = try LUKS.open(store, context(nil, isForFactsOnly: true))
    #expect(map.byteCount == 512)
    var runs: [Extent] = []
    #expect(throws: ImageError.self) { try map.map(0..<512, limit: 1, into: &runs) }
  }

  @Test("facts have QEMU's names and order") func facts() throws {
    var builder = VolumeBuilder()
    builder.mode = "cbc-essiv:sha256"
    builder.keyByteCount = 32
    builder.slot = 1
    let map = try LUKS.open(MemoryStore(try builder.build()), context(nil, isForFactsOnly: true))
    let facts = try #require(map.facts.specific)
    guard case .object(let members) = facts else { Issue.record("no object"); return }
    #expect(
      members.map(\.name) == [
        "ivgen-alg", "hash-alg", "cipher-alg", "uuid", "ivgen-hash-alg", "cipher-mode", "slots", "payload-offset",
        "master-key-iters",
      ])
    #expect(facts["cipher-alg"] == .text("aes-256"))
    guard case .list(let slots)? = facts["slots"] else { Issue.record("no slots"); return }
    #expect(slots.count == 8)
    #expect(slots[0] == ["active": .flag(false), "key-offset": .unsigned(4096)])
    #expect(
      slots[1] == [
        "active": .flag(true), "iters": .unsigned(10), "key-offset": .unsigned(135168), "stripes": .unsigned(4000),
      ])
  }

  @Test("probing knows every version by its signature") func probing() throws {
    var builder = VolumeBuilder()
    let file = try builder.build()
    let head = Array(file.prefix(4096))
    let store = MemoryStore(file)
    #expect(try LUKS.probe(head.rawBytes, store) == 100)
    let second = Array(head[..<7]) + [2] + head[8...]
    #expect(try LUKS.probe(second.rawBytes, store) == 100)
    let short = Array(head[..<7])
    #expect(try LUKS.probe(short.rawBytes, store) == 0)
    let other = [0] + head[1...]
    #expect(try LUKS.probe(other.rawBytes, store) == 0)
  }

  @Test("version 2 is refused by name") func versionTwo() throws {
    var builder = VolumeBuilder()
    let file = try builder.build { $0[7] = 2 }
    for file in [file, Array(file.prefix(100))] {
      let error = #expect(throws: ImageError.self) {
        try LUKS.open(MemoryStore(file), context(nil, isForFactsOnly: true))
      }
      #expect(error?.code == .unsupported)
      #expect(error?.message == "LUKS version 2 is not supported")
    }
  }
}

@Suite("Damaged LUKS headers")
struct DamagedHeaderTests {
  struct Damage: Sendable, CustomTestStringConvertible {
    var name: String
    var code = ImageError.Code.corrupt
    var mention: String
    var testDescription: String { name }
    var apply: @Sendable (inout [UInt8]) -> Void
  }

  static let damages: [Damage] = [
    Damage(name: "no iterations in a slot", mention: "0 iterations of the key slot 0") { put(0, at: 212, &$0) },
    Damage(name: "2^32 - 1 iterations", mention: "4294967295 iterations of the key slot 0") { put(.max, at: 212, &$0) },
    Damage(name: "no iterations of the digest", mention: "0 iterations of the digest") { put(0, at: 164, &$0) },
    Damage(name: "a stripe too few", mention: "key slot 2 has 3999 stripes") { put(3999, at: 208 + 2 * 48 + 44, &$0) },
    Damage(name: "2^32 - 1 stripes", mention: "4294967295 stripes") { put(.max, at: 208 + 44, &$0) },
    Damage(name: "a state between active and free", mention: "key slot 5 has the unknown state 0xdeae") {
      put(0xdeae, at: 208 + 5 * 48, &$0)
    },
    Damage(name: "material inside the header", mention: "key slot 0 at 0x200 lies inside the header") {
      put(1, at: 248, &$0)
    },
    Damage(name: "material past the payload", mention: "key slot 7 at 0x1fffffffe00 reaches past") {
      put(.max, at: 208 + 7 * 48 + 40, &$0)
    },
    // In 32 bits, 0xfffffe10 + 500 sectors is 4.
    Damage(name: "material whose end wraps in 32 bits", mention: "key slot 6 at 0x1fffffc2000") {
      put(0xffff_fe10, at: 208 + 6 * 48 + 40, &$0)
    },
    Damage(name: "two slots in one place", mention: "key slots 1 and 3 overlap") {
      put(520, at: 208 + 3 * 48 + 40, &$0)
    },
    Damage(name: "a payload past the end", mention: "payload at 0x1fffffffe00 lies past the end") {
      put(.max, at: 104, &$0)
    },
    Damage(name: "a payload before the slots", mention: "reaches past the start of the payload (0x200)") {
      put(1, at: 104, &$0)
    },
    Damage(name: "no key", mention: "key length 0") { put(0, at: 108, &$0) },
    Damage(name: "a key of 4 GiB", mention: "key length 4294967295") { put(.max, at: 108, &$0) },
    Damage(name: "a key that no cipher takes", mention: "no key of 63 bytes") { put(63, at: 108, &$0) },
    Damage(name: "an endless cipher name", mention: "cipher name does not end") {
      put([UInt8](repeating: 0x61, count: 32), at: 8, &$0)
    },
    Damage(name: "an endless mode", mention: "cipher mode does not end") {
      put([UInt8](repeating: 0x61, count: 32), at: 40, &$0)
    },
    Damage(name: "an endless hash name", mention: "hash name does not end") {
      put([UInt8](repeating: 0x61, count: 32), at: 72, &$0)
    },
    Damage(name: "an endless UUID", mention: "UUID does not end") {
      put([UInt8](repeating: 0x61, count: 40), at: 168, &$0)
    },
    Damage(name: "an unknown cipher", code: .unsupported, mention: "\"xyz\"") {
      put([0x78, 0x79, 0x7a, 0], at: 8, &$0)
    },
    Damage(name: "an unknown hash", code: .unsupported, mention: "\"xyz\"") {
      put([0x78, 0x79, 0x7a, 0], at: 72, &$0)
    },
    Damage(name: "another signature", mention: "signature") { $0[0] = 0 },
    Damage(name: "version 0", code: .unsupported, mention: "version 0") { $0[7] = 0 },
    Damage(name: "a file cut in the slots", mention: "payload at 0x1f9000 lies past the end") {
      $0 = Array($0.prefix(5000))
    },
  ]

  @Test("each is refused with field and value", arguments: damages) func refused(damage: Damage) {
    var file = Self.volume
    damage.apply(&file)
    for isForFactsOnly in [true, false] {
      let error = #expect(throws: ImageError.self) {
        try LUKS.open(MemoryStore(file), context("platter", isForFactsOnly: isForFactsOnly))
      }
      #expect(error?.code == damage.code)
      #expect(error?.message.contains(damage.mention) == true, "\(error?.message ?? "nothing")")
    }
  }

  @Test("a header cut at any byte is reported as truncated", arguments: [8, 100, 207, 208, 400, 591])
  func cut(byteCount: Int) {
    let file = Array(Self.volume.prefix(byteCount))
    let error = #expect(throws: ImageError.self) { try LUKS.open(MemoryStore(file), context("platter")) }
    #expect(error?.code == .truncated)
  }

  /// Eight slots of 500 million iterations are each allowed; all of them would take an hour.
  @Test("the work of unlocking is bounded over all slots") func boundedWork() {
    var file = Self.volume
    for slot in 0..<8 {
      put(0x00ac_71f3, at: 208 + slot * 48, &file)
      put(1_000_000_000, at: 212 + slot * 48, &file)
    }
    put(1_000_000_000, at: 164, &file)
    let error = #expect(throws: ImageError.self) { try LUKS.open(MemoryStore(file), context("platter")) }
    #expect(error?.code == .unsupported)
    #expect(error?.message.contains("past the limit") == true)
  }

  @Test("noise behind the signature never traps", arguments: 0..<300) func noise(seed: UInt64) {
    var generator = SeededGenerator(seed: seed)
    let changes = (0..<4).map { _ in (Int(generator.next() % 592), UInt8(truncatingIfNeeded: generator.next())) }
    let file = Self.volume.withChanges(changes)
    // Facts only: a changed iteration count may be large and valid.
    _ = try? LUKS.open(MemoryStore(file), context("platter", isForFactsOnly: true))
  }

  static let volume: [UInt8] = {
    var builder = VolumeBuilder()
    return (try? builder.build()) ?? []
  }()
}

extension [UInt8] {
  fileprivate func withChanges(_ changes: [(Int, UInt8)]) -> [UInt8] {
    var bytes = self
    for (offset, byte) in changes { bytes[offset] = byte }
    return bytes
  }
}
