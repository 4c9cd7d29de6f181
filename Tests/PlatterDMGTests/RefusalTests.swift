import PlatterCore
import PlatterDMG
import TestSupport
import Testing

/// An image that is wrong in one place, and the words that must name it.
struct Fault: Sendable, CustomTestStringConvertible {
  var name: String
  var words: String
  var code: ImageError.Code
  var bytes: [UInt8]
  var testDescription: String { name }

  init(
    _ name: String, _ words: String, _ code: ImageError.Code = .corrupt,
    _ chunks: [DMGBuilder.Chunk] = [.raw(1), .zlib(2, sectors: 2), .end], change: (inout DMGBuilder) -> Void = { _ in }
  ) {
    self.name = name
    self.words = words
    self.code = code
    var image = DMGBuilder(chunks: chunks)
    image.sectorCount = 3
    image.partitions[0].checksum = .none
    image.masterChecksum = .none
    change(&image)
    bytes = image.build()
  }
}

@Suite("Broken disk images are refused by name")
struct RefusalTests {
  static let trailerFaults: [Fault] = [
    Fault("another version", "the trailer has version 5, not 4", .unsupported) {
      $0.trailerPatches = [(4, bigEndian(UInt32(5)))]
    },
    Fault("another size", "the trailer gives its own size as 1024 bytes") {
      $0.trailerPatches = [(8, bigEndian(UInt32(1024)))]
    },
    Fault("data fork past the end", "the trailer puts the data fork (0x1000000 bytes)") {
      $0.trailerPatches = [(32, bigEndian(UInt64(1 << 24)))]
    },
    Fault("data fork that overflows", "the trailer puts the data fork") {
      $0.trailerPatches = [(24, bigEndian(UInt64.max - 3))]
    },
    Fault("resource fork past the end", "the trailer puts the resource fork") {
      $0.trailerPatches = [(40, bigEndian(UInt64(1 << 40))), (48, bigEndian(UInt64(1)))]
    },
    Fault("property list past the end", "the trailer puts the property list") {
      $0.trailerPatches = [(224, bigEndian(UInt64(1 << 30)))]
    },
    Fault("neither property list nor resource fork", "there is no block table") {
      $0.trailerPatches = [(224, bigEndian(UInt64(0)))]
    },
    Fault("more sectors than any disk", "the trailer counts 18446744073709551615 sectors", .unsupported) {
      $0.trailerPatches = [(492, bigEndian(UInt64.max))]
    },
    Fault("another than the first segment", "this is segment 2 of 3", .invalidArgument) {
      $0.trailerPatches = [(56, bigEndian(UInt32(2)) + bigEndian(UInt32(3)))]
    },
    Fault("a million segments", "counts 1000000 segments", .unsupported) {
      $0.trailerPatches = [(60, bigEndian(UInt32(1_000_000)))]
    },
  ]

  static let tableFaults: [Fault] = [
    Fault("another signature", "block table 0 (\"whole disk (Apple_HFS : 0)\") lacks its signature") {
      $0.partitions[0].signature = "mush"
    },
    Fault("another version of the table", "has version 2, not 1", .unsupported) { $0.partitions[0].version = 2 },
    Fault("more chunks than there are", "counts 2147483648 chunks and has room for 3", .truncated) {
      $0.partitions[0].chunkCount = 1 << 31
    },
    Fault("sectors that overflow", "more than any disk holds") { $0.partitions[0].firstSector = .max },
    Fault(
      "chunk of an unknown type", "chunk 0 of block table 0", .unsupported,
      [
        .init(type: 0x8000_0009, sectorCount: 3, payload: [1, 2, 3]), .end,
      ]),
    Fault(
      "raw chunk whose length is not that of its sectors", "(raw) has 512 bytes for 65536 sectors", .corrupt,
      [
        .init(type: 1, sectorCount: 65536, payload: [UInt8](repeating: 1, count: 512)), .end,
      ]
    ) { $0.sectorCount = 65536 },
    Fault("raw chunk without sectors", "(raw) has no sectors", .corrupt, [.init(type: 1, sectorCount: 0), .end]),
    Fault(
      "packed chunk without bytes", "(zlib) has no bytes", .corrupt,
      [
        .init(type: 0x8000_0005, sectorCount: 3), .end,
      ]),
    Fault(
      "packed chunk of more than 512 MiB", "(lzma) has 1048577 sectors", .unsupported,
      [
        .init(type: 0x8000_0008, sectorCount: 1_048_577, payload: [1]), .end,
      ]
    ) { $0.sectorCount = 1_048_577 },
    Fault(
      "packed chunk much longer than what it decodes to", "(bzip2) has 70000 bytes for 3 sectors", .corrupt,
      [
        .init(type: 0x8000_0006, sectorCount: 3, payload: [UInt8](repeating: 1, count: 70000)), .end,
      ]),
    Fault(
      "chunk past the end of the file", "past the end of the file", .truncated,
      [
        .init(type: 0x8000_0005, sectorCount: 3, payload: [1], offset: 1 << 40), .end,
      ]),
    Fault(
      "chunk whose place overflows", "past any file", .corrupt,
      [
        .init(type: 0x8000_0005, sectorCount: 3, payload: [1], offset: .max - 1), .end,
      ]
    ) { $0.partitions[0].dataOffset = 5 },
    Fault("chunk past its table", "past the table's 3", .corrupt, [.zero(sectors: 4), .end]) {
      $0.partitions[0].sectorCount = 3
    },
    Fault(
      "chunk whose sectors overflow", "past the table's 3", .corrupt,
      [
        .init(type: 0, firstSector: 2, sectorCount: .max, hasSectorOfItsOwn: false), .end,
      ]
    ) { $0.partitions[0].sectorCount = 3 },
    Fault(
      "chunks that overlap", "sector 1 lies in two chunks", .corrupt,
      [
        .zero(sectors: 3), .init(type: 0, firstSector: 1, sectorCount: 1, hasSectorOfItsOwn: false), .end,
      ]
    ) { $0.partitions[0].sectorCount = 3 },
    Fault("tables that overlap", "lies in two chunks, one of block table 1 (\"second\")") {
      $0.partitions.append(DMGBuilder.partition("second", first: 2, [.raw(1), .end]))
      $0.partitions[1].checksum = .none
    },
  ]

  @Test("what the trailer says", arguments: trailerFaults)
  func trailer(_ fault: Fault) { expectRefused(fault) }

  @Test("what the block tables say", arguments: tableFaults)
  func tables(_ fault: Fault) { expectRefused(fault) }

  private func expectRefused(_ fault: Fault) {
    let error = #expect(throws: ImageError.self) { try open(fault.bytes) }
    #expect(error?.message.contains(fault.words) == true, "\(String(describing: error))")
    #expect(error?.code == fault.code)
    #expect(error?.file == "test.dmg")
  }

  @Test("an encrypted image is known by its signature and asks for its passphrase")
  func encrypted() throws {
    let new = Array("encrcdsa".utf8) + bigEndian(UInt32(2)) + [UInt8](repeating: 0, count: 1000)
    let old = [UInt8](repeating: 0, count: 1000) + Array("cdsaencr".utf8)
    for bytes in [new, old] {
      #expect(try probe(MemoryStore(bytes)) == 100)
      let error = #expect(throws: ImageError.self) { try open(bytes) }
      #expect(error?.message.contains("key-secret") == true)
    }
  }

  @Test("a file cut at any byte is refused, or still says the same")
  func truncations() throws {
    var image = DMGBuilder(chunks: OpenTests.everyKind)
    for place in [DMGBuilder.TrailerPlace.end, .front] {
      image.trailerPlace = place
      let bytes = image.build()
      for count in 0..<bytes.count {
        guard let map = try? open(Array(bytes[..<count])) else { continue }
        // Whatever still opens can be asked and checked without harm.
        #expect((try? runs(map, limit: 100)) != nil)
      }
    }
  }

  @Test(
    "any damaged byte of trailer or tables does no harm",
    arguments: [DMGBuilder.TableStore.propertyList, .resourceFork])
  func damage(store: DMGBuilder.TableStore) throws {
    var image = DMGBuilder(chunks: OpenTests.everyKind)
    image.tables = store
    let bytes = image.build()
    let first = image.partitions[0].chunks.reduce(0) { $0 + $1.payload.count }
    for index in first..<bytes.count {
      for value: UInt8 in [0, 0x7F, 0xFF, bytes[index] ^ 1] {
        var damaged = bytes
        damaged[index] = value
        guard let map = try? open(damaged) else { continue }
        var extents: [Extent] = []
        if map.byteCount > 0 { _ = try map.map(0..<map.byteCount, limit: 64, into: &extents) }
      }
    }
  }
}
