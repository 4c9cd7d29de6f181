import PlatterCore
import PlatterQCOW2
import TestSupport
import Testing

/// One way to break an image, and what a repair owes its owner.
struct Damage: Sendable, CustomTestStringConvertible {
  var name: String
  /// Guest clusters of 40 whose bytes a repair may lose.
  var loses: Range<Int> = 0..<0
  /// A part of a finding's text.
  var says: String
  var isLeak = false
  /// Positions and bytes to write over a sound image.
  var lies: @Sendable (QCOW2Builder.Built) -> [(Int, [UInt8])]
  var testDescription: String { name }

  init(
    _ name: String, loses: Range<Int> = 0..<0, says: String, isLeak: Bool = false,
    _ lies: @escaping @Sendable (QCOW2Builder.Built) -> [(Int, [UInt8])]
  ) {
    self.name = name
    self.loses = loses
    self.says = says
    self.isLeak = isLeak
    self.lies = lies
  }

  func bytes(_ image: QCOW2Builder = variedImage()) -> [UInt8] {
    let built = image.build()
    var bytes = built.bytes
    for (offset, lie) in lies(built) { bytes.replaceSubrange(offset..<offset + lie.count, with: lie) }
    return bytes
  }
}

let copied: UInt64 = 1 << 63

/// A lie in the L2 entry of a guest cluster.
func entry(_ guest: Int, _ word: UInt64, _ built: QCOW2Builder.Built) -> [(Int, [UInt8])] {
  [(Int(built.l2Offsets[0] ?? 0) + guest * 8, bigEndianBytes(word))]
}

func host(_ guest: Int, _ built: QCOW2Builder.Built) -> UInt64 { built.hostOffsets[guest] ?? 0 }

/// A lie in the count of the cluster at a host offset; 16 bits, clusters of 4 KiB.
private func count(at offset: UInt64, _ value: UInt16, _ built: QCOW2Builder.Built) -> [(Int, [UInt8])] {
  let block = built.bytes[Int(built.refcountTableOffset)..<Int(built.refcountTableOffset) + 8].reduce(0) {
    $0 << 8 | Int($1)
  }
  return [(block + Int(offset / 4096) * 2, bigEndianBytes(value))]
}

private func tableEntry(_ word: UInt64, _ built: QCOW2Builder.Built) -> [(Int, [UInt8])] {
  [(Int(built.refcountTableOffset), bigEndianBytes(word))]
}

private func l1(_ word: UInt64, _ built: QCOW2Builder.Built) -> [(Int, [UInt8])] {
  [(Int(built.l1Offset), bigEndianBytes(word))]
}

extension Damage {
  static let all: [Damage] = [
    Damage("an entry is gone", loses: 9..<10, says: "Leaked cluster", isLeak: true) { entry(9, 0, $0) },
    // The copied flag says 1, which makes it more than a leak.
    Damage("a count is too high", says: "refcount=3 reference=1") { count(at: host(0, $0), 3, $0) },
    Damage("a cluster in use has no count", says: "refcount=0 reference=1") { count(at: host(0, $0), 0, $0) },
    Damage("the header has no count", says: "ERROR cluster 0 refcount=0") { count(at: 0, 0, $0) },
    Damage("the copied flag of data is missing", says: "OFLAG_COPIED data cluster") { entry(0, host(0, $0), $0) },
    Damage("the copied flag of a table is missing", says: "OFLAG_COPIED L2 cluster") { l1($0.l2Offsets[0] ?? 0, $0) },
    Damage("trap 2: two entries share a cluster", loses: 1..<2, says: "used by another part of the disk too") {
      entry(1, host(0, $0) | copied, $0)
    },
    Damage("trap 2: an entry names the L1 table", loses: 1..<2, says: "used by metadata too") {
      entry(1, $0.l1Offset | copied, $0)
    },
    Damage("an entry names the refcount table", loses: 1..<2, says: "used by metadata too") {
      entry(1, $0.refcountTableOffset | copied, $0)
    },
    Damage("an entry names its own table", loses: 1..<2, says: "used by an L2 table too") {
      entry(1, ($0.l2Offsets[0] ?? 0) | copied, $0)
    },
    Damage("an entry names a packed cluster", loses: 1..<2, says: "used by another part of the disk too") {
      entry(1, host(6, $0) / 4096 * 4096 | copied, $0)
    },
    Damage("trap 3: a data cluster is misaligned", loses: 1..<2, says: "inside a cluster") {
      entry(1, host(1, $0) + 512 | copied, $0)
    },
    Damage("trap 3: reserved bits of an entry", says: "reserved bits") { entry(1, host(1, $0) | copied | 2, $0) },
    Damage("trap 7: a data cluster past the end", loses: 1..<2, says: "past the end of the file") {
      entry(1, 1 << 40 | copied, $0)
    },
    Damage("a packed cluster past the end", loses: 6..<7, says: "past the end of the file") {
      entry(6, 1 << 62 | 1 << 40, $0)
    },
    Damage("the copied flag on a packed cluster", says: "copied flag is set on a packed") {
      entry(6, 1 << 62 | 1 << 63 | 2 << 58 | host(6, $0), $0)
    },
    Damage("trap 4: an L1 entry is misaligned", loses: 0..<40, says: "inside a cluster") { l1($0.l1Offset + 512, $0) },
    Damage("an L1 entry past the end", loses: 0..<40, says: "past the end") { l1(1 << 40 | copied, $0) },
    Damage("an L1 entry names no table", loses: 0..<40, says: "reserved bits") { l1(copied, $0) },
    Damage("reserved bits of an L1 entry", says: "reserved bits") { l1(($0.l2Offsets[0] ?? 0) | copied | 1, $0) },
    Damage("an L1 entry names the L1 table", loses: 0..<40, says: "other metadata") { l1($0.l1Offset | copied, $0) },
    Damage("a refcount block is misaligned", says: "refcount table, entry 0") { tableEntry(0x1200, $0) },
    Damage("a refcount block past the end", says: "refcount table, entry 0") { tableEntry(1 << 40, $0) },
    Damage("reserved bits of a refcount table entry", says: "refcount table, entry 0") { tableEntry(0x1001, $0) },
    Damage("no refcount block", says: "refcount=0 reference=1") { tableEntry(0, $0) },
    Damage("a refcount block is guest data", says: "used by metadata too") { tableEntry(host(0, $0), $0) },
    Damage("a refcount block is the L2 table", says: "other metadata") { tableEntry($0.l2Offsets[0] ?? 0, $0) },
    Damage("the refcount table past the end", says: "refcount table") { _ in [(48, bigEndianBytes(UInt64(1) << 40))] },
    Damage("the refcount table is guest data", says: "used by metadata too") {
      [(48, bigEndianBytes(host(0, $0)))]
    },
    Damage("trap 1: the dirty mark", says: "marked dirty") { _ in [(72, bigEndianBytes(UInt64(1)))] },
    Damage("trap 1: the corrupt mark", says: "marked corrupt") { _ in [(72, bigEndianBytes(UInt64(2)))] },
  ]
}

/// What each guest cluster of an image reads as; nil where it cannot be read. Packed clusters by their packed bytes.
func contents(_ bytes: [UInt8], clusterByteCount: Int = 4096, _ context: OpenContext = OpenContext()) throws
  -> [[UInt8]?]
{
  contents(of: try open(bytes, context), bytes, clusterByteCount: clusterByteCount)
}

func contents(of map: any ImageMap, _ bytes: [UInt8], clusterByteCount: Int = 4096) -> [[UInt8]?] {
  stride(from: 0, to: map.byteCount, by: clusterByteCount).map { start in
    var found: [Extent] = []
    let range = start..<min(start + UInt64(clusterByteCount), map.byteCount)
    guard (try? map.map(range, limit: 1, into: &found)) == range.upperBound, let run = found.first else { return nil }
    let (offset, length) = (Int(run.offset), Int(run.kind == .packed ? run.packedByteCount : run.byteCount))
    switch run.kind {
    case .zero, .absent: return [UInt8](repeating: 0, count: clusterByteCount)
    case .data, .packed:
      let stored = Array(bytes[min(offset, bytes.count)..<min(offset + length, bytes.count)])
      return run.cipher == 0 ? stored : deciphered(stored, run, map.ciphers[Int(run.cipher) - 1])
    }
  }
}

private func deciphered(_ stored: [UInt8], _ run: Extent, _ cipher: any SectorCipher) -> [UInt8]? {
  var bytes = stored
  do {
    try bytes.withMutableRawBytes { bytes throws(ImageError) in
      try cipher.decrypt(&bytes, guestOffset: run.start, hostOffset: run.offset)
    }
  } catch { return nil }
  return bytes
}

func repair(_ bytes: [UInt8], _ mode: RepairMode = .all, _ context: OpenContext = OpenContext()) throws
  -> (bytes: [UInt8], report: CheckReport)
{
  let store = MemoryStore(bytes, name: "test.qcow2")
  let report = try QCOW2.repair(store, context, mode, workers: 2) { _ in true }
  return (store.bytes, report)
}

@Suite struct RepairTests {
  @Test("damage is found, repaired, and costs no more than its own cluster", arguments: Damage.all)
  func damage(_ damage: Damage) throws {
    let broken = damage.bytes()
    let found = try check(broken)
    #expect(found.messages.contains { $0.contains(damage.says) }, "\(found.messages)")
    #expect(status(found) == (damage.isLeak ? 3 : 2))
    let (fixed, report) = try repair(broken)
    #expect(status(report) == 0, "\(report.messages)")
    // A flag that was wrong because of a wrong count is right without being touched.
    let isCuredByCount = damage.isLeak || damage.says == "refcount=3 reference=1"
    #expect((report.corruptionsFixed > 0) != isCuredByCount)
    #expect(report.leaksFixed == found.leaks)
    #expect(try check(fixed).messages == [])
    let (before, after) = (try contents(variedImage().build().bytes), try contents(fixed))
    for guest in before.indices where !damage.loses.contains(guest) {
      #expect(before[guest] == after[guest], "guest cluster \(guest)")
    }
  }

  @Test("an alias keeps its bytes: both entries read as the shared cluster did")
  func aliasCopied() throws {
    let damage = try #require(Damage.all.first { $0.name.contains("two entries") })
    let after = try contents(try repair(damage.bytes()).bytes)
    #expect(after[0]?.first == 1)
    #expect(after[1] == after[0])
  }

  @Test("-r leaks lowers counts, and sets copied flags where nothing else is wrong", arguments: Damage.all)
  func leaksOnly(_ damage: Damage) throws {
    let broken = damage.bytes()
    let before = try check(broken)
    let (fixed, report) = try repair(broken, .leaks)
    #expect(report.corruptions <= before.corruptions)
    #expect(report.leaks <= before.leaks)
    let isCured = damage.isLeak || ["too high", "copied flag of"].contains { damage.name.contains($0) }
    #expect(status(report) == (isCured ? 0 : 2))
    #expect(try contents(fixed) == contents(broken))
  }

  @Test("a sound image is not written")
  func soundUntouched() throws {
    let bytes = variedImage().build().bytes
    let store = MemoryStore(bytes, name: "test.qcow2", isWritable: false)
    let report = try QCOW2.repair(store, OpenContext(), .all, workers: 1) { _ in true }
    #expect(status(report) == 0)
  }

  @Test("refcounts of every width are rebuilt, with a table that lies nowhere", arguments: UInt32(1)...6)
  func rebuild(order: UInt32) throws {
    var image = variedImage()
    image.refcountOrder = order
    image.lie(at: 48, UInt64(1) << 40)
    let (fixed, report) = try repair(image.build().bytes)
    #expect(status(report) == 0, "\(report.messages)")
    #expect(try check(fixed).messages == [])
  }

  @Test("refcounts of one bit are rebuilt where nothing is shared")
  func rebuildOneBit() throws {
    var image = QCOW2Builder(byteCount: 1 << 20, clusterBits: 9)
    image.refcountOrder = 0
    for guest in 0..<200 { image.entries[guest] = .data([UInt8(guest)]) }
    image.lie(at: 48, UInt64(1) << 40)
    let (fixed, report) = try repair(image.build().bytes)
    #expect(status(report) == 0, "\(report.messages)")
    #expect(try contents(fixed, clusterByteCount: 512) == contents(image.build().bytes, clusterByteCount: 512))
  }

  @Test("subclusters that are both allocated and zero keep their bytes")
  func extended() throws {
    var image = QCOW2Builder(byteCount: 1 << 20, clusterBits: 14)
    image.hasExtendedL2 = true
    image.entries[0] = .data([1])
    image.entries[1] = .data([2])
    let built = image.build()
    image.lie(at: Int(built.l2Offsets[0] ?? 0) + 24, UInt64(0x0000_0001_ffff_ffff))
    let broken = image.build().bytes
    #expect(try check(broken).corruptions == 1)
    let (fixed, report) = try repair(broken)
    #expect(status(report) == 0, "\(report.messages)")
    #expect(try contents(fixed, clusterByteCount: 1 << 14) == contents(built.bytes, clusterByteCount: 1 << 14))
  }

  @Test("trap 9: the zero flag means nothing in version 2")
  func versionTwo() throws {
    var image = QCOW2Builder(byteCount: 1 << 20, clusterBits: 12)
    image.version = 2
    image.entries[0] = .data([1])
    image.entries[1] = .raw(1)
    let broken = image.build().bytes
    #expect(try check(broken).corruptions == 1)
    #expect(status(try repair(broken).report) == 0)
  }

  @Test("a lost cluster over a backing image reads as zeros, not as old data")
  func lostOverBacking() throws {
    var image = QCOW2Builder(byteCount: 1 << 20, clusterBits: 12)
    image.backingName = Array("base.raw".utf8)
    image.backingFormat = "raw"
    image.entries[0] = .raw(1 << 63 | 1 << 40)
    let map = try open(try repair(image.build().bytes).bytes)
    var found: [Extent] = []
    _ = try map.map(0..<4096, limit: 1, into: &found)
    #expect(found.first?.kind == .zero)
  }

  @Test("an image that was not closed is repaired when it is opened for writing")
  func dirtyOpened() throws {
    let damage = try #require(Damage.all.first { $0.name.contains("has no count") })
    var bytes = damage.bytes()
    bytes[79] = 1
    let store = MemoryStore(bytes, name: "test.qcow2")
    _ = try QCOW2.open(store, OpenContext(isWritable: true))
    #expect(try check(store.bytes).messages == [])
  }
}

/// How bad a check's outcome is.
private func severity(_ status: Int32) -> Int { [0: 0, 3: 1, 2: 2][status] ?? 3 }

@Suite struct RepairPropertyTests {
  @Test("no single wrong field is made worse, and nothing traps", arguments: UInt64(1)...12)
  func randomFields(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    var image = variedImage(clusterBits: 9)
    if seed % 3 == 0 { image.refcountOrder = UInt32(seed % 7) }
    let sound = image.build().bytes
    for _ in 0..<40 {
      var bytes = sound
      let place = Int.random(in: 0..<bytes.count / 8, using: &random) * 8
      let word: UInt64 =
        switch Int.random(in: 0..<4, using: &random) {
        case 0: random.next()
        case 1: 0
        case 2: UInt64.random(in: 0..<UInt64(bytes.count / 512), using: &random) * 512 | 1 << 63
        default: UInt64.random(in: 0..<UInt64(bytes.count), using: &random)
        }
      bytes.replaceSubrange(place..<place + 8, with: bigEndianBytes(word))
      guard let before = try? check(bytes) else { continue }
      guard let (fixed, report) = try? repair(bytes) else { continue }
      let after = try check(fixed)
      #expect(status(after) == status(report))
      #expect(
        severity(status(after)) <= severity(status(before)), "seed \(seed): \(word.hex) at \(place): \(report.messages)"
      )
    }
  }

  @Test("random bytes behind a sound header neither trap nor hang", arguments: UInt64(1)...8)
  func noise(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let sound = variedImage(clusterBits: 9).build().bytes
    for _ in 0..<10 {
      var bytes = sound
      for _ in 0..<Int.random(in: 2..<60, using: &random) {
        let place = Int.random(in: 72..<bytes.count - 8, using: &random)
        bytes.replaceSubrange(place..<place + 8, with: bigEndianBytes(random.next() >> UInt64(random.next() % 64)))
      }
      _ = try? check(bytes)
      _ = try? repair(bytes)
    }
  }
}

@Suite("Marks of other programs")
struct ForeignMarkTests {
  /// A repair left bits alone that promise something about an image that it had changed.
  @Test("a repair clears the autoclear bits that nobody here knows, on sound images too")
  func autoclear() throws {
    var image = variedImage()
    image.autoclear = 1 << 63 | 1 << 40
    let bytes = image.build().bytes
    #expect(try check(bytes).corruptions == 0)
    let (fixed, _) = try repair(bytes)
    // The bit of the bitmaps stays.
    #expect(fixed[88..<96] == [0, 0, 0, 0, 0, 0, 0, 1])
    #expect(Array(fixed[..<88]) == Array(bytes[..<88]))
  }
}

@Suite("qemu-img agrees that it is repaired", .requires(.qemuImg))
struct RepairInteropTests {
  @Test("every repaired image is clean for qemu-img too", arguments: Damage.all)
  func repaired(_ damage: Damage) throws {
    let theirs = try qemuCheck(try repair(damage.bytes()).bytes)
    #expect(theirs.status == 0, "\(theirs.text)")
  }

  @Test(
    "where qemu-img is right, its numbers are ours",
    arguments: Damage.all.filter { damage in
      ["is gone", "too high", "in use has no count", "copied flag of"].contains { damage.name.contains($0) }
    })
  func numbers(_ damage: Damage) throws {
    let bytes = damage.bytes()
    let theirs = try qemuCheck(bytes)
    #expect(CheckNumbers(try check(bytes)) == theirs.numbers, "\(theirs.text)")
  }

  @Test("refcounts of every width, rebuilt, are clean for qemu-img", arguments: UInt32(1)...6)
  func widths(order: UInt32) throws {
    var image = variedImage()
    image.refcountOrder = order
    image.lie(at: 48, UInt64(1) << 40)
    let theirs = try qemuCheck(try repair(image.build().bytes).bytes)
    #expect(theirs.status == 0, "\(theirs.text)")
  }
}
