import PlatterCore
import PlatterQCOW2
import TestSupport
import Testing

/// A field of the header that lies, and what the error must say.
struct Lie: Sendable, CustomTestStringConvertible {
  var what: String
  var code: ImageError.Code
  var says: String
  var change: @Sendable (inout QCOW2Builder) -> Void

  init(
    _ what: String, _ code: ImageError.Code, _ says: String, _ change: @escaping @Sendable (inout QCOW2Builder) -> Void
  ) {
    self.what = what
    self.code = code
    self.says = says
    self.change = change
  }
  var testDescription: String { what }

  static let all: [Lie] = [
    Lie("magic", .corrupt, "header starts with 0x514649fc") { $0.lie(at: 0, UInt32(0x5146_49fc)) },
    Lie("version 1", .unsupported, "version 1") { $0.lie(at: 4, UInt32(1)) },
    Lie("version 4", .unsupported, "version 4") { $0.lie(at: 4, UInt32(4)) },
    Lie("cluster_bits 8", .corrupt, "cluster_bits 8 ") { $0.lie(at: 20, UInt32(8)) },
    Lie("cluster_bits 22", .corrupt, "cluster_bits 22 ") { $0.lie(at: 20, UInt32(22)) },
    Lie("cluster_bits 2^32 - 1", .corrupt, "cluster_bits 4294967295 ") { $0.lie(at: 20, UInt32.max) },
    Lie("extended L2 in 8 KiB clusters", .corrupt, "extended L2") {
      $0.entries = [:]
      $0.clusterBits = 13
      $0.incompatible = 16
    },
    Lie("encryption method 3", .unsupported, "method 3 ") { $0.lie(at: 32, UInt32(3)) },
    Lie("size beyond the L1 table", .corrupt, "needs 2") { $0.lie(at: 24, UInt64(1) << 29 + 1) },
    Lie("size 2^64 - 1", .unsupported, "Image is too big") { $0.lie(at: 24, UInt64.max) },
    Lie("L1 entries above 32 MiB", .corrupt, "4194305 entries") { $0.lie(at: 36, UInt32(4_194_305)) },
    Lie("L1 entries 2^32 - 1", .corrupt, "4294967295 entries") { $0.lie(at: 36, UInt32.max) },
    Lie("no L1 entry", .corrupt, "0 entries") { $0.lie(at: 36, UInt32(0)) },
    Lie("L1 misaligned", .corrupt, "offset 0x10200 is not a multiple") { $0.lie(at: 40, UInt64(0x10200)) },
    Lie("L1 past the end", .truncated, "0x7f0000") { $0.lie(at: 40, UInt64(0x7f_0000)) },
    Lie("L1 at 2^64 - 64 KiB", .truncated, "0xffffffffffff0000") { $0.lie(at: 40, 0 &- UInt64(0x1_0000)) },
    Lie("L1 larger than the file", .truncated, "33554432 bytes") { $0.lie(at: 36, UInt32(4_194_304)) },
    Lie("L1 in the header", .corrupt, "overlaps the header") { $0.lie(at: 40, UInt64(0)) },
    Lie("refcount table misaligned", .corrupt, "offset 0x8 is") { $0.lie(at: 48, UInt64(8)) },
    Lie("refcount table above 8 MiB", .corrupt, "129 clusters") { $0.lie(at: 56, UInt32(129)) },
    Lie("refcount table of 2^32 - 1 clusters", .corrupt, "4294967295 clusters") { $0.lie(at: 56, UInt32.max) },
    Lie("refcount table of no cluster", .corrupt, "0 clusters") { $0.lie(at: 56, UInt32(0)) },
    Lie("refcount table past any file", .corrupt, "past any file") { $0.lie(at: 48, 0 &- UInt64(0x1_0000)) },
    Lie("refcount_order 7", .corrupt, "refcount_order 7") { $0.lie(at: 96, UInt32(7)) },
    Lie("65537 snapshots", .corrupt, "65537 snapshots") { $0.lie(at: 60, UInt32(65_537)) },
    Lie("snapshot table misaligned", .corrupt, "snapshot table's offset 0x10001") {
      $0.lie(at: 60, UInt32(1))
      $0.lie(at: 64, UInt64(0x1_0001))
    },
    Lie("snapshot table in the header", .corrupt, "overlaps the header") { $0.lie(at: 60, UInt32(1)) },
    Lie("snapshot table past the end", .truncated, "snapshot table") {
      $0.lie(at: 60, UInt32(1))
      $0.lie(at: 64, UInt64(0x7f_0000))
    },
    Lie("header length 96", .corrupt, "length 96 ") { $0.lie(at: 100, UInt32(96)) },
    Lie("header length 108", .corrupt, "length 108 ") { $0.lie(at: 100, UInt32(108)) },
    Lie("header longer than a cluster", .corrupt, "length 131072 ") { $0.lie(at: 100, UInt32(131_072)) },
    Lie("compression type 2", .unsupported, "type 2 ") {
      $0.incompatible = 8
      $0.lie(at: 104, UInt8(2))
    },
    Lie("zstd without its feature bit", .corrupt, "bit 3, which is clear") { $0.lie(at: 104, UInt8(1)) },
    Lie("compression feature bit with deflate", .corrupt, "bit 3, which is set") { $0.incompatible = 8 },
    Lie("compression feature bit in a 104-byte header", .corrupt, "bit 3, which is set") {
      $0.incompatible = 8
      $0.headerByteCount = 104
    },
    Lie("unknown feature without a name", .unsupported, "Unknown incompatible feature: 8000000000000000") {
      $0.incompatible = 1 << 63
    },
    Lie("unknown feature with a name", .unsupported, "time travel") {
      $0.incompatible = 1 << 17
      $0.featureNames = [(1, 17, "not this"), (0, 17, "time travel")]
    },
    Lie("backing name of 1024 bytes", .corrupt, "1024 bytes") {
      $0.backingName = Array("base".utf8)
      $0.lie(at: 16, UInt32(1024))
    },
    Lie("backing name leaves the cluster", .corrupt, "leaves the header cluster") {
      $0.lie(at: 8, UInt64(65_530))
      $0.lie(at: 16, UInt32(7))
    },
    Lie("backing name at 2^64 - 1", .corrupt, "leaves the header cluster") {
      $0.lie(at: 8, UInt64.max)
      $0.lie(at: 16, UInt32(7))
    },
    Lie("backing name in the header", .corrupt, "overlaps the header") {
      $0.lie(at: 8, UInt64(40))
      $0.lie(at: 16, UInt32(4))
    },
    Lie("backing name with a NUL", .corrupt, "NUL") { $0.backingName = [0x61, 0, 0x62] },
    Lie("backing format of 16 bytes", .corrupt, "16 bytes") {
      $0.backingName = Array("base".utf8)
      $0.backingFormat = "0123456789abcdef"
    },
    Lie("extension longer than the cluster", .corrupt, "past the end of the header area") {
      $0.lie(at: 112, UInt32(0x1234))
      $0.lie(at: 116, UInt32(65_536))
    },
    Lie("extension of 2^32 - 1 bytes", .corrupt, "4294967295 bytes") {
      $0.lie(at: 112, UInt32(0x1234))
      $0.lie(at: 116, UInt32.max)
    },
    Lie("extension runs into the backing name", .corrupt, "header area (0x80)") {
      $0.backingName = Array("base".utf8)
      $0.extensions = [(0x1234, [])]
      $0.lie(at: 116, UInt32(9))
    },
    Lie("raw data file and backing file", .corrupt, "raw data file") {
      $0.dataFileName = "data"
      $0.autoclear = 2
      $0.backingName = Array("base".utf8)
    },
    Lie("data file without a name", .corrupt, "names none") { $0.incompatible = 4 },
    Lie("data file's name with a NUL", .corrupt, "NUL") {
      $0.incompatible = 4
      $0.extensions = [(0x4441_5441, [0x61, 0])]
    },
    Lie("data file's name of 1024 bytes", .corrupt, "1024 bytes") {
      $0.incompatible = 4
      $0.extensions = [(0x4441_5441, filled(0x61, 1024))]
    },
    Lie("bitmaps extension of 23 bytes", .corrupt, "23 bytes") {
      $0.autoclear = 1
      $0.extensions = [(0x2385_2875, filled(0, 23))]
    },
    Lie("bitmaps extension without bitmaps", .corrupt, "counts 0") {
      $0.autoclear = 1
      $0.extensions = [(0x2385_2875, filled(0, 24))]
    },
    Lie("crypto extension without encryption", .corrupt, "not encrypted") {
      $0.extensions = [(0x0537_be77, filled(0, 16))]
    },
    Lie("LUKS without a crypto extension", .corrupt, "no crypto header") { $0.encryptionMethod = 2 },
    Lie("crypto header past the end", .truncated, "crypto header") {
      $0.encryptionMethod = 2
      $0.extensions = [(0x0537_be77, bigEndianBytes(UInt64(0x1_0000)) + bigEndianBytes(UInt64.max - 0x1_0000))]
    },
    Lie("crypto header misaligned", .corrupt, "0x10001") {
      $0.encryptionMethod = 2
      $0.extensions = [(0x0537_be77, bigEndianBytes(UInt64(0x1_0001)) + bigEndianBytes(UInt64(512)))]
    },
  ]
}

@Suite struct HeaderTests {
  private static let plain = QCOW2Builder(byteCount: 1 << 20).build().bytes
  private static let plainVersion2: [UInt8] = {
    var image = QCOW2Builder(byteCount: 1 << 20)
    image.version = 2
    return image.build().bytes
  }()

  @Test("a header that lies is refused with the field and its value", arguments: Lie.all)
  func refusal(lie: Lie) throws {
    var image = QCOW2Builder(byteCount: 1 << 20)
    image.entries[0] = .data(filled(1))
    lie.change(&image)
    let error = #expect(throws: ImageError.self) { try open(image) }
    #expect(error?.code == lie.code, "\(error?.message ?? "")")
    #expect(error?.message.contains(lie.says) == true, "\(error?.message ?? "")")
    #expect(error?.file == "test.qcow2")
  }

  @Test("the image without a lie opens")
  func control() throws {
    #expect(try open(QCOW2Builder(byteCount: 1 << 20)).byteCount == 1 << 20)
  }

  @Test("a file that ends inside the header is reported as truncated", arguments: 0..<112)
  func truncatedHeader(length: Int) throws {
    let bytes = Array(Self.plain.prefix(length))
    let error = #expect(throws: ImageError.self) { try open(bytes) }
    #expect(error?.code == .truncated)
  }

  @Test("a version 2 file that ends inside the header is reported as truncated", arguments: 0..<72)
  func truncatedOldHeader(length: Int) throws {
    let error = #expect(throws: ImageError.self) { try open(Array(Self.plainVersion2.prefix(length))) }
    #expect(error?.code == .truncated)
  }

  @Test("a file that ends before the L1 table does not open", arguments: [112, 120, 512, 65_536, 65_543])
  func truncatedTables(length: Int) throws {
    let error = #expect(throws: ImageError.self) {
      try open(Array(Self.plain.prefix(length)))
    }
    #expect(error?.code == .truncated)
  }

  @Test("version 2 has no features: what lies at byte 72 is an extension")
  func versionTwo() throws {
    var image = QCOW2Builder(byteCount: 1 << 20)
    image.version = 2
    image.extensions = [(0xffff_ffff, filled(0xff, 40))]
    image.backingName = Array("base.raw".utf8)
    image.backingFormat = "raw"
    let map = try open(image)
    #expect(map.backing?.displayName == "base.raw")
    #expect(map.backing?.formatName == "raw")
    #expect(map.facts.specific?["compat"] == .text("0.10"))
    #expect(map.facts.specific?["refcount-bits"] == .unsigned(16))
  }

  @Test("unknown compatible and autoclear bits, header bytes and extensions are kept, not refused")
  func tolerated() throws {
    var image = QCOW2Builder(byteCount: 1 << 20)
    image.compatible = ~1
    image.autoclear = ~3
    image.headerByteCount = 128
    image.lie(at: 112, UInt64(0x1122_3344_5566_7788))
    image.extensions = [(0x1234_5678, [1, 2, 3]), (0x1234_5678, []), (0x9abc_def0, filled(7, 9))]
    let bytes = image.build().bytes
    _ = try open(bytes)
    let header = try Header(parsing: bytes.rawBytes)
    #expect(header.unknownBytes == filled(0, 7) + bigEndianBytes(UInt64(0x1122_3344_5566_7788)) + filled(0, 8))
    #expect(header.compatibleFeatures.rawValue == ~1)
    let extensions = try HeaderExtensions(parsing: bytes.rawBytes, header)
    #expect(
      extensions.items == [
        .init(type: 0x1234_5678, bytes: [1, 2, 3]), .init(type: 0x1234_5678, bytes: []),
        .init(type: 0x9abc_def0, bytes: filled(7, 9)),
      ])
  }

  @Test("extensions may fill the header area to its end without an end mark")
  func fullHeaderArea() throws {
    var image = QCOW2Builder(byteCount: 1 << 20, clusterBits: 9)
    image.l1EntryCount = 64
    // 104-byte header, 8 bytes of extension header, 400 of data, rounded up: 512.
    image.headerByteCount = 104
    image.lie(at: 104, UInt32(0x1234))
    image.lie(at: 108, UInt32(400))
    _ = try open(image)
  }

  @Test("the corrupt bit forbids writing, not reading")
  func corruptBit() throws {
    var image = QCOW2Builder(byteCount: 1 << 20)
    image.incompatible = 2
    #expect(try open(image).facts.isCorrupt)
    let error = #expect(throws: ImageError.self) { try open(image, OpenContext(isWritable: true)) }
    #expect(error?.message.contains("corrupt") == true)
  }

  @Test("the dirty bit does not hinder reading")
  func dirtyBit() throws {
    var image = QCOW2Builder(byteCount: 1 << 20)
    image.incompatible = 1
    image.compatible = 1
    let facts = try open(image).facts
    #expect(facts.isDirty && facts.hasDirtyFlag)
    #expect(facts.specific?["lazy-refcounts"] == .flag(true))
  }

  @Test(
    "a probe knows versions 2 and 3 and leaves version 1 to others", arguments: [(1, 0), (2, 100), (3, 100), (4, 0)])
  func probe(version: UInt32, score: Int) throws {
    let head = bigEndianBytes(UInt32(0x5146_49fb)) + bigEndianBytes(version)
    #expect(try probe(head) == score)
    #expect(try probe(Array(head.prefix(7))) == 0)
  }

  private func probe(_ head: [UInt8]) throws(ImageError) -> Int {
    try QCOW2.probe(head.rawBytes, MemoryStore(head))
  }
}
