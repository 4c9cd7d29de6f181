import PlatterCore
import PlatterQCOW2
import SystemPackage
import TestSupport
import Testing

/// Two snapshots and two bitmaps beside data, packed clusters and zeros; clusters of 4 KiB.
func richImage() -> QCOW2Builder {
  var image = variedImage()
  image.snapshots.append(QCOW2Builder.Snapshot(id: "2", name: "two", entries: [5: .data([7]), 8: .data([8])]))
  image.bitmaps = [QCOW2Builder.Bitmap(name: "first"), QCOW2Builder.Bitmap(name: "second", granularityBits: 12)]
  return image
}

/// One way to break what a header names, and what must be left after a repair. The present disk loses nothing.
struct MetadataDamage: Sendable, CustomTestStringConvertible {
  var name: String
  var says: String
  var snapshots = ["one", "two"]
  var bitmaps = ["first", "second"]
  var lies: @Sendable (inout [UInt8], QCOW2Builder.Built) -> Void
  var testDescription: String { name }

  init(
    _ name: String, says: String, snapshots: [String] = ["one", "two"], bitmaps: [String] = ["first", "second"],
    _ lies: @escaping @Sendable (inout [UInt8], QCOW2Builder.Built) -> Void
  ) {
    self.name = name
    self.says = says
    self.snapshots = snapshots
    self.bitmaps = bitmaps
    self.lies = lies
  }

  func bytes() -> [UInt8] {
    let built = richImage().build()
    var bytes = built.bytes
    lies(&bytes, built)
    return bytes
  }
}

extension [UInt8] {
  mutating func lie(at offset: UInt64, _ bytes: [UInt8]) {
    replaceSubrange(Int(offset)..<Int(offset) + bytes.count, with: bytes)
  }
  mutating func lie(at offset: UInt64, _ word: UInt64) { lie(at: offset, bigEndianBytes(word)) }
  func word(at offset: UInt64) -> UInt64 { self[Int(offset)..<Int(offset) + 8].reduce(0) { $0 << 8 | UInt64($1) } }
}

/// Bytes of the first entry of the table: 40, 24 of extra data, id, name, padding.
private let recordByteCount: UInt64 = 72
/// Bytes of the first entry of the bitmap directory: 24, name, padding.
private let bitmapRecordByteCount: UInt64 = 32

extension MetadataDamage {
  static let all: [MetadataDamage] = [
    MetadataDamage("the file ends inside the second snapshot's entry", says: "from entry 1 on", snapshots: ["one"]) {
      let table = Array($0[Int($1.snapshotTableOffset)..<Int($1.snapshotTableOffset + recordByteCount + 30)])
      $0.lie(at: 64, UInt64($0.count))
      $0 += table
    },
    MetadataDamage("the snapshot table past the end", says: "the snapshot table at", snapshots: []) { bytes, _ in
      bytes.lie(at: 64, 1 << 40)
    },
    MetadataDamage("a misaligned snapshot table", says: "the snapshot table at", snapshots: []) {
      $0.lie(at: 64, $1.snapshotTableOffset + 8)
    },
    MetadataDamage("a snapshot's L1 table past the end", says: "past the end of the file", snapshots: ["two"]) {
      $0.lie(at: $1.snapshotTableOffset, 1 << 40)
    },
    MetadataDamage("a misaligned L1 table of a snapshot", says: "not a multiple", snapshots: ["one"]) {
      $0.lie(at: $1.snapshotTableOffset + recordByteCount, $1.snapshotL1Offsets[1] + 8)
    },
    MetadataDamage("a snapshot's L1 table of too many entries", says: "4294967295 entries", snapshots: ["one"]) {
      $0.lie(at: $1.snapshotTableOffset + recordByteCount + 8, [0xff, 0xff, 0xff, 0xff])
    },
    MetadataDamage("a snapshot's L1 table is the present one", says: "overlaps another structure") {
      $0.lie(at: $1.snapshotTableOffset, $1.l1Offset)
    },
    MetadataDamage("two snapshots have one L1 table", says: "overlaps another structure") {
      $0.lie(at: $1.snapshotTableOffset, $1.snapshotL1Offsets[1])
    },
    MetadataDamage("a snapshot's entry lacks the disk's size", says: "entry 1 is incomplete", snapshots: ["one", ""]) {
      $0.lie(at: $1.snapshotTableOffset + recordByteCount + 36, [0, 0, 0, 8])
      $0.lie(at: $1.snapshotTableOffset + recordByteCount + 12, [0, 20, 0, 0])
    },
    MetadataDamage("two snapshots have data in one cluster", says: "used by another part of the disk too") {
      let table = $0.word(at: $1.snapshotL1Offsets[1])
      $0.lie(at: table + 8 * 8, $1.snapshotHostOffsets[0][2] ?? 0)
    },
    MetadataDamage("a snapshot has data of another place of the disk", says: "used by another part of the disk too") {
      let table = $0.word(at: $1.snapshotL1Offsets[1])
      $0.lie(at: table + 8 * 8, $1.hostOffsets[9] ?? 0)
    },
    MetadataDamage("unknown flags of a bitmap", says: "unknown flags", bitmaps: ["second"]) {
      $0.lie(at: $1.bitmapDirectoryOffset + 12, [0, 0, 0, 0x40])
    },
    MetadataDamage("an unknown type of bitmap", says: "type 9", bitmaps: ["first"]) {
      $0.lie(at: $1.bitmapDirectoryOffset + bitmapRecordByteCount + 16, [9])
    },
    MetadataDamage("the table of a bitmap past the end", says: "its table", bitmaps: ["second"]) {
      $0.lie(at: $1.bitmapDirectoryOffset, 1 << 40)
    },
    MetadataDamage("reserved bits in the table of a bitmap", says: "no cluster of this file", bitmaps: ["first"]) {
      $0.lie(at: $0.word(at: $1.bitmapDirectoryOffset + bitmapRecordByteCount), 1 << 60)
    },
    MetadataDamage("bits past the end", says: "no cluster of this file", bitmaps: ["first"]) {
      $0.lie(at: $0.word(at: $1.bitmapDirectoryOffset + bitmapRecordByteCount), 1 << 40)
    },
    MetadataDamage("the bits of a bitmap are guest data", says: "overlaps another structure", bitmaps: ["second"]) {
      $0.lie(at: $0.word(at: $1.bitmapDirectoryOffset), $1.hostOffsets[9] ?? 0)
    },
    MetadataDamage("the bits of a bitmap are the L1 table", says: "overlaps another structure", bitmaps: ["second"]) {
      $0.lie(at: $0.word(at: $1.bitmapDirectoryOffset), $1.l1Offset)
    },
    MetadataDamage("two bitmaps have one table", says: "overlaps another structure", bitmaps: ["first"]) {
      $0.lie(at: $1.bitmapDirectoryOffset + bitmapRecordByteCount, $0.word(at: $1.bitmapDirectoryOffset))
    },
    MetadataDamage("a bitmap is too small for the disk", says: "0 entries, but the disk needs 1", bitmaps: ["first"]) {
      $0.lie(at: $1.bitmapDirectoryOffset + bitmapRecordByteCount + 8, [0, 0, 0, 0])
    },
    MetadataDamage("a bitmap's name leaves the directory", says: "bitmap 1", bitmaps: ["first"]) {
      $0.lie(at: $1.bitmapDirectoryOffset + bitmapRecordByteCount + 18, [3, 0])
    },
    MetadataDamage("two bitmaps of one name", says: "the same name", bitmaps: ["first"]) {
      $0.lie(at: $1.bitmapDirectoryOffset + bitmapRecordByteCount + 18, [0, 5])
      $0.lie(at: $1.bitmapDirectoryOffset + bitmapRecordByteCount + 24, Array("first".utf8) + [0])
    },
    MetadataDamage("the bitmap directory past the end", says: "bitmap directory", bitmaps: []) { bytes, _ in
      bytes.lie(at: 112 + 8 + 16, 1 << 40)
    },
    MetadataDamage("a reserved field of the bitmaps extension", says: "reserved field", bitmaps: []) { bytes, _ in
      bytes.lie(at: 112 + 8 + 4, [0, 0, 0, 1])
    },
    MetadataDamage("the bitmap directory is guest data", says: "overlaps another structure") {
      let directory = Array($0[Int($1.bitmapDirectoryOffset)..<Int($1.bitmapDirectoryOffset) + 4096])
      $0.lie(at: $1.hostOffsets[9] ?? 0, directory)
      $0.lie(at: 112 + 8 + 16, $1.hostOffsets[9] ?? 0)
    },
    MetadataDamage("the refcount table has no clusters", says: "refcount table (0 bytes") { bytes, _ in
      bytes.lie(at: 56, [0, 0, 0, 0])
    },
    MetadataDamage("a misaligned refcount table", says: "refcount table") {
      $0.lie(at: 48, $1.refcountTableOffset + 8)
    },
    MetadataDamage("a refcount table larger than any", says: "refcount table") { bytes, _ in
      bytes.lie(at: 56, [0xff, 0xff, 0xff, 0xff])
    },
  ]
}

/// Names of the bitmaps that an image lists.
func bitmapNames(_ map: any ImageMap) -> [String] {
  guard case .object(let members)? = map.facts.specific,
    case .list(let bitmaps)? = members.first(where: { $0.name == "bitmaps" })?.value
  else { return [] }
  return bitmaps.compactMap { bitmap in
    guard case .object(let members) = bitmap, case .text(let name)? = members.first(where: { $0.name == "name" })?.value
    else { return nil }
    return name
  }
}

@Suite struct MetadataRepairTests {
  @Test("what is damaged goes, what is sound stays", arguments: MetadataDamage.all)
  func damage(_ damage: MetadataDamage) throws {
    let broken = damage.bytes()
    let found = try check(broken)
    #expect(found.messages.contains { $0.contains(damage.says) }, "\(found.messages)")
    #expect(status(found) == 2)
    let (fixed, report) = try repair(broken)
    #expect(status(report) == 0, "\(report.messages)")
    #expect(try check(fixed).messages == [])
    let map = try open(fixed)
    #expect(map.facts.snapshots.map(\.name) == damage.snapshots, "\(report.messages)")
    #expect(bitmapNames(map) == damage.bitmaps, "\(report.messages)")
    #expect(map.facts.warnings == [])
    let sound = richImage().build().bytes
    if !damage.name.contains("directory is guest data") {
      let isSame = try contents(fixed) == contents(sound)
      #expect(isSame)
    }
    for name in damage.snapshots
    where !name.isEmpty && !damage.says.contains("used by") && !damage.says.contains("over") {
      let (after, before) = (try map.snapshot(named: name), try open(sound).snapshot(named: name))
      let isSame = contents(of: after, fixed) == contents(of: before, sound)
      #expect(isSame, "snapshot \(name)")
    }
    // It can be written, too.
    _ = try QCOW2.open(MemoryStore(fixed, name: "test.qcow2"), OpenContext(isWritable: true))
  }

  @Test("-r leaks leaves it all alone", arguments: MetadataDamage.all)
  func leaksOnly(_ damage: MetadataDamage) throws {
    let broken = damage.bytes()
    let (fixed, report) = try repair(broken, .leaks)
    #expect(status(report) == 2)
    // A cluster that an entry named before it named another one is really unused.
    let isSame = fixed == broken
    #expect(isSame || damage.says.contains("used by"))
  }

  @Test("an image that cannot be read because of its snapshots says so")
  func refusedForReading() throws {
    let damage = try #require(MetadataDamage.all.first)
    let error = #expect(throws: ImageError.self) { try open(damage.bytes()) }
    #expect(error?.message.contains("snapshot table") == true)
  }

  @Test(
    "an image whose L1 table lies nowhere is checked, and no count of what it named is lowered",
    arguments: [(UInt64(1) << 40, "lies past the end"), (0, "overlaps the header")])
  func lostDisk(offset: UInt64, says: String) throws {
    var image = richImage()
    image.lie(at: 40, offset)
    let broken = image.build().bytes
    let found = try check(broken)
    #expect(found.messages.contains { $0.contains("the L1 table (8 bytes at \(offset.hex)) \(says)") })
    let (fixed, report) = try repair(broken)
    #expect(status(report) == 2)
    var mended = fixed
    mended.lie(at: 40, richImage().build().l1Offset)
    let isSame = try contents(try repair(mended).bytes) == contents(richImage().build().bytes)
    #expect(isSame)
  }

  /// QEMU does not open such an image, and a writer took it for one whose bytes lie raw in another file.
  @Test("a data file that is called raw where there is none")
  func rawDataFile() throws {
    var image = variedImage()
    image.bitmaps = []
    image.autoclear = 2
    let found = try check(image)
    #expect(found.messages == ["ERROR the header calls a data file raw, but the image has none"])
    let (fixed, report) = try repair(image.build().bytes)
    #expect(report.corruptionsFixed == 1 && status(report) == 0)
    #expect(fixed.word(at: 88) == 0)
  }

  /// The tables of the bitmaps were looked at only where the directory could be followed.
  @Test("damage behind a damaged directory of bitmaps is repaired in the same go")
  func bitmapsBehindDirectory() throws {
    let built = richImage().build()
    var bytes = built.bytes
    bytes.lie(at: 112 + 8 + 8, UInt64(0x2a040))
    bytes.lie(at: bytes.word(at: built.bitmapDirectoryOffset), UInt64.max)
    let (fixed, report) = try repair(bytes)
    #expect(status(report) == 0, "\(report.messages)")
    #expect(bitmapNames(try open(fixed)) == ["second"])
  }

  /// qemu-img gives up on such an image.
  @Test("a place of a snapshot table that is no cluster goes, although there are no snapshots")
  func placeOfNoSnapshots() throws {
    var image = variedImage()
    image.snapshots = []
    image.lie(at: 64, UInt64(1) << 63 | 0x8000)
    let (fixed, report) = try repair(image.build().bytes)
    #expect(report.corruptionsFixed == 1 && status(report) == 0, "\(report.messages)")
    #expect(fixed.word(at: 64) == 0)
    image.lie(at: 64, UInt64(0x8000))
    #expect(try check(image).messages == [])
  }

  @Test("a bitmap that was not saved is told, and is no error")
  func inUse() throws {
    var image = richImage()
    image.bitmaps[1].flags = 3
    let report = try check(image)
    #expect(
      report.messages == ["bitmap \"second\" was not saved when the image was used last: it can only be removed"])
    #expect(status(report) == 0)
    let bytes = image.build().bytes
    #expect(try repair(bytes).bytes == bytes)
  }

  @Test("bitmaps that nobody trusts keep their space, and are no error")
  func untrusted() throws {
    var image = richImage()
    image.bitmaps[1].flags = 3
    image.lie(at: 88, UInt64(0))
    #expect(try check(image).messages == [])
  }

  @Test("data that snapshots share at one place of the disk is no conflict")
  func sharedBySnapshots() throws {
    let store = MemoryStore(variedImage().build().bytes)
    for round in UInt8(1)...3 {
      let map = try #require(try writer(store) as? any SnapshotMap)
      try map.prepareToWrite(noBarrier)
      _ = try map.createSnapshot(named: "\(round)", seconds: 1, nanoseconds: 2, noBarrier)
      try write(map, filled(round, 4096), at: 4096 * UInt64(round))
      try map.close(noBarrier)
    }
    let map = try #require(try writer(store) as? any SnapshotMap)
    try map.prepareToWrite(noBarrier)
    try map.deleteSnapshot(.name("2"), noBarrier)
    try map.close(noBarrier)
    #expect(try check(store.bytes).messages == [])
  }
}

@Suite("qemu-img agrees on damaged snapshots and bitmaps", .requires(.qemuImg))
struct MetadataInteropTests {
  @Test("what is repaired is clean for qemu-img too", arguments: MetadataDamage.all)
  func repaired(_ damage: MetadataDamage) throws {
    let theirs = try qemuCheck(try repair(damage.bytes()).bytes)
    #expect(theirs.status == 0, "\(theirs.text)")
  }
}
