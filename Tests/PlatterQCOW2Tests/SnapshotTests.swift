import PlatterCore
import PlatterQCOW2
import TestSupport
import Testing

@Suite struct SnapshotTests {
  private func image() -> QCOW2Builder {
    var image = QCOW2Builder(byteCount: 4 * 65536)
    image.entries = [0: .data(filled(1)), 3: .data(filled(2))]
    image.snapshots = [
      .init(id: "1", name: "first", entries: [0: .data(filled(3))], diskByteCount: 65536 + 512),
      .init(id: "2", name: "1", entries: [1: .zero], diskByteCount: 1 << 30),
    ]
    return image
  }

  @Test("a snapshot has its own table and its own size")
  func ownSize() throws {
    let built = image().build()
    let snapshot = try open(built.bytes).snapshot(named: "first")
    #expect(snapshot.byteCount == 65536 + 512)
    #expect(
      try runs(snapshot) == [
        .data(start: 0, byteCount: 65536, store: 0, offset: try #require(built.snapshotHostOffsets[0][0])),
        .absent(start: 65536, byteCount: 512),
      ])
  }

  @Test("an id wins over a name")
  func idWins() throws {
    let map = try open(image())
    #expect(try map.snapshot(named: "1").byteCount == 65536 + 512)
    #expect(try map.snapshot(named: "2").byteCount == 1 << 30)
    let error = #expect(throws: ImageError.self) { try map.snapshot(named: "third") }
    #expect(error?.code == .notFound)
  }

  @Test("facts list snapshots as the table has them")
  func facts() throws {
    var image = image()
    image.snapshots[1].vmStateByteCount = 5 << 32
    image.snapshots[1].instructionCount = 17
    let facts = try open(image).facts.snapshots
    #expect(
      facts == [
        SnapshotFacts(
          id: "1", name: "first", vmStateByteCount: 0, seconds: 1_700_000_000, nanoseconds: 5,
          guestClockNanoseconds: 7, instructionCount: nil, diskByteCount: 65536 + 512),
        SnapshotFacts(
          id: "2", name: "1", vmStateByteCount: 5 << 32, seconds: 1_700_000_000, nanoseconds: 5,
          guestClockNanoseconds: 7, instructionCount: 17, diskByteCount: 1 << 30),
      ])
  }

  @Test("version 2 entries without extra data have the present size")
  func withoutExtra() throws {
    var image = QCOW2Builder(byteCount: 65536)
    image.version = 2
    image.snapshots = [.init(id: "1", name: "old"), .init(id: "2", name: "older")]
    let map = try open(image)
    #expect(map.facts.snapshots.map(\.diskByteCount) == [65536, 65536])
    #expect(try map.snapshot(named: "older").byteCount == 65536)
  }

  @Test("what a snapshot's short table does not reach was never written")
  func shortTable() throws {
    var image = QCOW2Builder(byteCount: 1 << 30)
    image.snapshots = [.init(id: "1", name: "short", entries: [0: .zero])]
    image.snapshots[0].l1EntryCount = 1
    let map = try open(image).snapshot(named: "short")
    #expect(
      try runs(map) == [.zero(start: 0, byteCount: 65536), .absent(start: 65536, byteCount: 1 << 30 - 65536)])
  }

  @Test("a table larger than needed holds machine state behind the disk; it does not disturb")
  func largerTable() throws {
    var image = image()
    image.l1EntryCount = 9
    #expect(try runs(open(image)).count == 3)
  }

  @Test(
    "a snapshot table that lies is refused",
    arguments: [
      BadWord(at: 8, UInt64(4_194_305) << 32 | 1 << 16, "4194305 entries"),
      BadWord(at: 8, UInt64(4_194_304) << 32 | 1 << 16, "more than the file"),
      BadWord(at: 32, UInt64(1025), "1025 bytes of extra data"),
      BadWord(at: 32, UInt64(UInt32.max), "4294967295 bytes of extra data"),
      BadWord(at: 8, UInt64(1) << 32 | 0xffff_ffff, "past the end of the file"),
    ])
  func lies(_ bad: BadWord) throws {
    var image = QCOW2Builder(byteCount: 65536)
    image.snapshots = [.init(id: "1", name: "")]
    let table = Int(image.build().snapshotTableOffset)
    // The table goes last, so that long names lead out of the file.
    image.lie(at: table + bad.offset, bad.word)
    var bytes = image.build().bytes
    if bad.says.contains("past") { bytes = Array(bytes.prefix(table + 1000)) }
    let error = #expect(throws: ImageError.self) { try open(bytes) }
    #expect(error?.message.contains(bad.says) == true, "\(error?.message ?? "")")
  }

  @Test(
    "a snapshot whose L1 table is misplaced is refused when it is asked for",
    arguments: [
      UInt64(0x10001), 0, 0x7fff_0000, 0xffff_ffff_ffff_0000,
    ])
  func misplacedTable(offset: UInt64) throws {
    var image = image()
    image.lie(at: Int(image.build().snapshotTableOffset), offset)
    let map = try open(image)
    #expect(try runs(map).count == 3)
    let error = #expect(throws: ImageError.self) { try map.snapshot(named: "first") }
    #expect(error?.message.contains("L1 table of snapshot \"first\"") == true)
  }

  @Test("a snapshot's disk above 2^63 - 1 bytes is refused")
  func hugeDisk() throws {
    var image = image()
    image.snapshots[0].l1EntryCount = 1
    image.lie(at: Int(image.build().snapshotTableOffset) + 48, UInt64.max)
    #expect(throws: ImageError.self) { try open(image).snapshot(named: "first") }
  }
}
