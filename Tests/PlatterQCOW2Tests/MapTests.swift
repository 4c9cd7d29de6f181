import PlatterCore
import PlatterQCOW2
import SystemPackage
import TestSupport
import Testing

/// A bad entry of an L2 table, and what the error must say.
struct BadEntry: Sendable, CustomTestStringConvertible {
  var what: String
  var says: String
  var word: UInt64
  var bitmap: UInt64 = 0
  var version: UInt32 = 3
  var extended = false
  var code = ImageError.Code.corrupt
  var testDescription: String { what }

  static let all: [BadEntry] = [
    BadEntry(what: "misaligned", says: "data cluster 0x10200 is not aligned", word: 1 << 63 | 0x10200),
    BadEntry(what: "misaligned zero", says: "data cluster 0x10200 is not aligned", word: 1 << 63 | 0x10201),
    BadEntry(what: "reserved bit 1", says: "reserved bits are set (0x10002)", word: 0x10002),
    BadEntry(what: "reserved bit 8", says: "reserved bits", word: 0x10100),
    BadEntry(what: "reserved bit 56", says: "reserved bits", word: 1 << 56 | 0x10000),
    BadEntry(what: "reserved bit 61 alone", says: "reserved bits", word: 1 << 61),
    BadEntry(what: "zero flag in version 2", says: "version 2", word: 1, version: 2),
    BadEntry(what: "past the end", says: "data cluster 0x7fff0000 reaches past", word: 0x7fff_0000, code: .truncated),
    BadEntry(
      what: "largest offset", says: "0xffffffffff0000", word: 0x00ff_ffff_ffff_0000, code: .truncated),
    BadEntry(
      what: "compressed past the end", says: "compressed cluster 0x7fff0001", word: 1 << 62 | 0x7fff_0001,
      code: .truncated),
    BadEntry(
      what: "zero flag in an extended entry", says: "reserved bits", word: 0x10001, bitmap: 0xffff_ffff,
      extended: true),
    BadEntry(
      what: "both allocated and zero", says: "both allocated and zero", word: 0x10000, bitmap: 1 << 40 | 1 << 8,
      extended: true),
    BadEntry(
      what: "allocated without a cluster", says: "without a cluster", word: 0, bitmap: 1, extended: true),
    BadEntry(
      what: "compressed with a bitmap", says: "compressed cluster with a subcluster bitmap", word: 1 << 62 | 0x10000,
      bitmap: 1 << 32, extended: true),
    BadEntry(
      what: "extended past the end", says: "reaches past", word: 0x7fff_0000, bitmap: 1, extended: true,
      code: .truncated),
  ]
}

@Suite struct MapTests {
  @Test("every kind of cluster maps to its kind of run")
  func kinds() throws {
    var image = QCOW2Builder(byteCount: 8 * 65536)
    image.entries = [
      0: .data(filled(1)), 1: .data(filled(2)), 2: .zero, 3: .zeroAllocated, 5: .packed(deflateStored(filled(3))),
      6: .packed(deflateStored(filled(4))),
    ]
    let built = image.build()
    let size = UInt64(cluster)
    let hosts = built.hostOffsets
    let packed5 = try #require(hosts[5])
    let packed6 = try #require(hosts[6])
    let stored = UInt64(deflateStored(filled(3)).count)
    #expect(packed6 == packed5 + stored)
    #expect(
      try runs(open(built.bytes)) == [
        .data(start: 0, byteCount: 2 * size, store: 0, offset: try #require(hosts[0])),
        .zero(start: 2 * size, byteCount: size),
        .zero(start: 3 * size, byteCount: size, store: 0, offset: try #require(hosts[3])),
        .absent(start: 4 * size, byteCount: size),
        .packed(
          start: 5 * size, byteCount: size, codec: .deflate, store: 0, offset: packed5,
          packedByteCount: (stored + 511) / 512 * 512, unitStart: 5 * size, unitByteCount: size),
        .packed(
          start: 6 * size, byteCount: size, codec: .deflate, store: 0, offset: packed6,
          packedByteCount: (packed6 % 512 + stored + 511) / 512 * 512 - packed6 % 512, unitStart: 6 * size,
          unitByteCount: size),
        .absent(start: 7 * size, byteCount: size),
      ])
  }

  @Test("a bad L2 entry is one error with table, entry and value", arguments: BadEntry.all)
  func badEntry(_ bad: BadEntry) throws {
    var image = QCOW2Builder(byteCount: 1 << 20)
    image.version = bad.version
    image.hasExtendedL2 = bad.extended
    image.entries = [1: .data(filled(1)), 3: .raw(bad.word, bad.bitmap)]
    let built = image.build()
    let table = try #require(built.l2Offsets[0])
    let map = try open(built.bytes)
    let bad3: Range<UInt64> = 3 * 65536..<1 << 20
    var extents: [Extent] = []
    let error = #expect(throws: ImageError.self) { try map.map(bad3, limit: 10, into: &extents) }
    #expect(error?.code == bad.code)
    #expect(error?.message.contains("L2 table at \(table.hex), entry 3") == true, "\(error?.message ?? "")")
    #expect(error?.message.contains(bad.says) == true, "\(error?.message ?? "")")
    #expect(error?.file == "test.qcow2")
  }

  @Test("what lies before a bad entry is still told")
  func stopsBeforeBadEntry() throws {
    var image = QCOW2Builder(byteCount: 1 << 20)
    image.entries = [0: .data(filled(1)), 3: .raw(2)]
    let map = try open(image)
    var extents: [Extent] = []
    #expect(try map.map(0..<1 << 20, limit: 100, into: &extents) == 3 * 65536)
    #expect(extents.count == 2)
  }

  @Test(
    "a bad L1 entry is followed no further",
    arguments: [
      BadWord(1 << 63 | 0x20200, "L2 table 0x20200 is not aligned"), BadWord(0x20001, "reserved bits"),
      BadWord(1 << 56 | 0x20000, "reserved bits"), BadWord(1, "reserved bits"),
      BadWord(0x7fff_0000, "past the end of the file"), BadWord(0x00ff_ffff_ffff_0000, "past the end of the file"),
    ])
  func badL1(bad: BadWord) throws {
    var image = QCOW2Builder(byteCount: 1 << 20)
    image.entries = [0: .data(filled(1))]
    let built = image.build()
    image.lie(at: Int(built.l1Offset), bad.word)
    let error = try mapError(image)
    #expect(error?.message.contains("L1 table, entry 0") == true)
    #expect(error?.message.contains(bad.says) == true, "\(error?.message ?? "")")
  }

  @Test("an L2 table that the file cuts short is an error, not zeros")
  func cutTable() throws {
    var image = QCOW2Builder(byteCount: 1 << 20)
    image.entries = [0: .zero]
    image.lie(at: Int(image.build().l1Offset), UInt64(1) << 63 | 0x5_0000)
    var bytes = image.build().bytes
    bytes = Array(bytes.prefix(0x5_0000)) + filled(0, 0x5_0000 + 100 - min(bytes.count, 0x5_0000))
    let error = #expect(throws: ImageError.self) { try runs(open(bytes)) }
    #expect(error?.code == .truncated)
  }

  @Test(
    "the last cluster of a file may be cut short inside itself: what is missing is zero", arguments: [1, 511, 40000])
  func cutLastCluster(present: Int) throws {
    var image = QCOW2Builder(byteCount: 4 * 65536)
    image.entries = [0: .data(filled(1)), 1: .data(filled(2)), 2: .raw(1 << 63 | 0x70_0000)]
    var bytes = image.build().bytes
    bytes += filled(0, 0x70_0000 - bytes.count) + filled(9, present)
    let map = try open(bytes)
    let (host, count) = (UInt64(0x70_0000), UInt64(present))
    let expected: [Extent] = [
      .data(start: 2 * 65536, byteCount: count, store: 0, offset: host),
      .zero(start: 2 * 65536 + count, byteCount: 65536 - count, store: 0, offset: host + count),
      .absent(start: 3 * 65536, byteCount: 65536),
    ]
    #expect(Array(try runs(map).suffix(3)) == expected)
    #expect(Array(try runs(map, limit: 1).suffix(3)) == expected)
    #expect(
      try runs(map, 2 * 65536 + count + 1..<3 * 65536 - 1) == [
        .zero(start: 2 * 65536 + count + 1, byteCount: 65536 - count - 2, store: 0, offset: host + count + 1)
      ])
  }

  @Test("in a run of clusters only those inside the file are given out")
  func runOverTheEnd() throws {
    var image = QCOW2Builder(byteCount: 4 * 65536)
    image.entries = [
      0: .raw(1 << 63 | 0x70_0000), 1: .raw(1 << 63 | 0x71_0000), 2: .raw(1 << 63 | 0x72_0000),
      3: .raw(1 << 63 | 0x73_0000),
    ]
    var bytes = image.build().bytes
    bytes += filled(0, 0x71_0000 - bytes.count) + filled(9, 100)
    let map = try open(bytes)
    var extents: [Extent] = []
    #expect(try map.map(0..<4 * 65536, limit: 10, into: &extents) == 2 * 65536)
    #expect(
      extents == [
        .data(start: 0, byteCount: 65636, store: 0, offset: 0x70_0000),
        .zero(start: 65636, byteCount: 65436, store: 0, offset: 0x71_0064),
      ])
    let error = #expect(throws: ImageError.self) { try map.map(2 * 65536..<4 * 65536, limit: 10, into: &extents) }
    #expect(error?.message.contains("entry 2: data cluster 0x720000 reaches past the end of the file") == true)
  }

  @Test("packed bytes are clipped to the file")
  func packedAtTheEnd() throws {
    var image = QCOW2Builder(byteCount: 65536)
    // 128 further sectors, though the file ends 100 bytes on.
    image.entries = [0: .raw(1 << 62 | 128 << 54 | 0x70_0003)]
    var bytes = image.build().bytes
    bytes += filled(0, 0x70_0003 - bytes.count) + filled(9, 100)
    #expect(
      try runs(open(bytes)) == [
        .packed(
          start: 0, byteCount: 65536, codec: .deflate, store: 0, offset: 0x70_0003, packedByteCount: 100,
          unitStart: 0, unitByteCount: 65536)
      ])
  }

  @Test("the unit over the disk's end is a whole cluster; a size that is no multiple of 512 is exact")
  func oddSize() throws {
    var image = QCOW2Builder(byteCount: 65536 + 1001)
    image.compressionType = 1
    image.entries = [0: .data(filled(1)), 1: .packed(zstdRaw(filled(2)))]
    let map = try open(image)
    #expect(map.byteCount == 66537)
    let last = try #require(try runs(map).last)
    #expect(last.kind == .packed && last.codec == .zstd)
    #expect(last.byteCount == 1001 && last.unitStart == 65536 && last.unitByteCount == 65536)
  }

  @Test("a copied flag without a cluster is no cluster")
  func copiedAlone() throws {
    var image = QCOW2Builder(byteCount: 2 * 65536)
    image.entries = [0: .raw(1 << 63)]
    #expect(try runs(open(image)) == [.absent(start: 0, byteCount: 2 * 65536)])
  }

  @Test("subclusters map one by one, with the space that they own")
  func subclusters() throws {
    var image = QCOW2Builder(byteCount: 4 * 65536)
    image.hasExtendedL2 = true
    image.entries = [
      0: .subclusters("-aa--z" + String(repeating: "-", count: 26), filled(1)), 1: .zero,
      2: .subclusters(String(repeating: "z", count: 31) + "-", nil), 3: .data(filled(2)),
    ]
    let built = image.build()
    let host = try #require(built.hostOffsets[0])
    let map = try open(built.bytes)
    let expected: [Extent] = [
      .absent(start: 0, byteCount: 2048, store: 0, offset: host),
      .data(start: 2048, byteCount: 4096, store: 0, offset: host + 2048),
      .absent(start: 6144, byteCount: 4096, store: 0, offset: host + 6144),
      .zero(start: 10240, byteCount: 2048, store: 0, offset: host + 10240),
      .absent(start: 12288, byteCount: 53248, store: 0, offset: host + 12288),
      .zero(start: 65536, byteCount: 65536 + 31 * 2048), .absent(start: 3 * 65536 - 2048, byteCount: 2048),
      .data(start: 3 * 65536, byteCount: 65536, store: 0, offset: try #require(built.hostOffsets[3])),
    ]
    #expect(try runs(map) == expected)
    #expect(try runs(map, 2047..<2049).map(\.kind) == [.absent, .data])
  }

  @Test("a backing image's place is an absent run")
  func backing() throws {
    var image = QCOW2Builder(byteCount: 65536)
    image.backingName = Array("sub/base.qcow2".utf8)
    image.backingFormat = "qcow2"
    let map = try open(image)
    #expect(
      map.backing
        == BackingReference(
          names: ["sub/base.qcow2"], formatName: "qcow2", displayName: "sub/base.qcow2"))
    #expect(try runs(map) == [.absent(start: 0, byteCount: 65536)])
  }

  @Test("a 64 TiB image opens and maps with a few small reads")
  func hugeImage() throws {
    var image = QCOW2Builder(byteCount: 64 << 40)
    image.entries = [63 << 24: .data(filled(1))]
    let store = FaultyStore(MemoryStore(image.build().bytes))
    let map = try QCOW2.open(store, OpenContext())
    #expect(store.counts.bytesRead < 100_000)
    #expect(try runs(map).map(\.kind) == [.absent, .data, .absent])
    #expect(store.counts.largestRead <= 65536)
  }

  @Test("no table is read in pieces above 64 KiB, however large the clusters")
  func slices() throws {
    var image = QCOW2Builder(byteCount: 64 << 30, clusterBits: 21)
    image.entries = [0: .zero, 8191: .zero, 8192: .zero, 20000: .zero]
    let store = FaultyStore(MemoryStore(image.build().bytes))
    let map = try QCOW2.open(store, OpenContext())
    let before = store.counts.bytesRead
    let size: UInt64 = 2 << 20
    #expect(
      try runs(map) == [
        .zero(start: 0, byteCount: size), .absent(start: size, byteCount: 8190 * size),
        .zero(start: 8191 * size, byteCount: 2 * size), .absent(start: 8193 * size, byteCount: 11807 * size),
        .zero(start: 20000 * size, byteCount: size), .absent(start: 20001 * size, byteCount: 12767 * size),
      ])
    #expect(store.counts.bytesRead - before <= 5 * 65536)
  }

  @Test("a second pass reads no table again")
  func caching() throws {
    var image = QCOW2Builder(byteCount: 1 << 30)
    for index in 0..<64 { image.entries[index * 256] = .zero }
    let store = FaultyStore(MemoryStore(image.build().bytes))
    let map = try QCOW2.open(store, OpenContext())
    let first = try runs(map)
    let reads = store.counts.reads
    #expect(try runs(map) == first)
    #expect(store.counts.reads == reads)
  }
}
