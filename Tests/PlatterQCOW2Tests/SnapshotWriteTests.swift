import PlatterCore
import PlatterQCOW2
import SystemPackage
import TestSupport
import Testing

private func snapshotMap(_ store: any ByteStore) throws -> any SnapshotMap {
  let map = try #require(try writer(store) as? any SnapshotMap)
  try map.prepareToWrite(noBarrier)
  return map
}

/// Small clusters keep the runs with a fault at every write short.
private let size = 4096
private func full(_ byte: UInt8) -> [UInt8] { filled(byte, size) }

/// Data, packed clusters that share one, zeros, preallocated zeros, holes.
private func image(refcountOrder: UInt32 = 4, version: UInt32 = 3) -> QCOW2Builder {
  var image = QCOW2Builder(byteCount: UInt64(40 * size), clusterBits: 12)
  image.refcountOrder = refcountOrder
  image.version = version
  image.entries = [
    0: .data(full(1)), 1: .data(full(2)), 4: .packed(filled(9, 700)), 5: .packed(filled(8, 900)),
    39: .data(full(3)),
  ]
  if version >= 3 {
    image.entries[7] = .zero
    image.entries[8] = .zeroAllocated
  }
  return image
}

private enum Step: String, CaseIterable, Sendable {
  case create, apply, delete

  func run(_ map: any SnapshotMap, _ barrier: Barrier = noBarrier) throws(ImageError) {
    switch self {
    case .create: _ = try map.createSnapshot(named: "new", seconds: 1, nanoseconds: 2, barrier)
    case .apply: try map.applySnapshot(.idOrName("base"), barrier)
    case .delete: try map.deleteSnapshot(.name("base"), barrier)
    }
    try map.close(barrier)
  }
}

/// An image with a snapshot "base" whose disk was changed since.
private func changedSinceBase(version: UInt32 = 3) throws -> [UInt8] {
  let store = MemoryStore(image(version: version).build().bytes)
  let map = try snapshotMap(store)
  _ = try map.createSnapshot(named: "base", seconds: 1, nanoseconds: 2, noBarrier)
  try write(map, full(7), at: 0)
  try write(map, full(6), at: UInt64(20 * size))
  try map.close(noBarrier)
  return store.bytes
}

@Suite struct SnapshotWriteTests {
  @Test("create, write, apply and delete keep content, counts and flags right", arguments: [2, 3, 4, 6] as [UInt32])
  func roundTrip(refcountOrder: UInt32) throws {
    let store = MemoryStore(image(refcountOrder: refcountOrder).build().bytes)
    let before = try guestBytes(try open(store.bytes))
    var map = try snapshotMap(store)
    #expect(try map.createSnapshot(named: "base", seconds: 1, nanoseconds: 2, noBarrier) == "1")
    #expect(try Audit(store.bytes).isClean)
    #expect(try guestBytes(try open(store.bytes)) == before)

    try write(map, full(7), at: 0)
    try write(map, full(5), at: UInt64(4 * size))
    _ = try map.release(UInt64(8 * size)..<UInt64(10 * size), as: .zero)
    try map.close(noBarrier)
    #expect(try Audit(store.bytes).isClean)
    let after = try guestBytes(try open(store.bytes))
    #expect(after != before)
    #expect(try guestBytes(try open(store.bytes).snapshot(named: "base")) == before)

    map = try snapshotMap(store)
    #expect(try map.createSnapshot(named: "second", seconds: 1, nanoseconds: 2, noBarrier) == "2")
    try map.applySnapshot(.idOrName("base"), noBarrier)
    try map.close(noBarrier)
    #expect(try Audit(store.bytes).isClean)
    #expect(try guestBytes(try open(store.bytes)) == before)

    map = try snapshotMap(store)
    try map.deleteSnapshot(.name("base"), noBarrier)
    #expect(try Audit(store.bytes).isClean)
    try map.applySnapshot(.id("2"), noBarrier)
    try map.deleteSnapshot(.id("2"), noBarrier)
    try map.close(noBarrier)
    #expect(try Audit(store.bytes).isClean)
    #expect(try Audit(store.bytes).snapshotNames == [])
    #expect(try guestBytes(try open(store.bytes)) == after)
  }

  @Test("an image that another writer made keeps its snapshots' sizes and tables (trap 13)")
  func appliesAnotherSize() throws {
    var builder = QCOW2Builder(byteCount: 4 * 65536)
    builder.entries = [0: .data(filled(1))]
    builder.snapshots = [
      .init(id: "1", name: "large", entries: [0: .data(filled(3)), 8192: .data(filled(4))], diskByteCount: 1 << 30),
      .init(id: "7", name: "small", entries: [0: .data(filled(5))], diskByteCount: 65536),
    ]
    let store = MemoryStore(builder.build().bytes)
    let map = try snapshotMap(store)
    try map.applySnapshot(.name("large"), noBarrier)
    #expect(map.byteCount == 1 << 30)
    #expect(try Audit(store.bytes).isClean)
    let cut = try runs(map, 8192 * 65536..<8193 * 65536)
    #expect(cut.first?.kind == .data)
    try map.applySnapshot(.name("small"), noBarrier)
    #expect(map.byteCount == 65536)
    #expect(try map.createSnapshot(named: "x", seconds: 1, nanoseconds: 2, noBarrier) == "8")
    try map.close(noBarrier)
    #expect(try Audit(store.bytes).isClean)
    #expect(try guestBytes(try open(store.bytes)) == filled(5))
    #expect(map.snapshots.map(\.diskByteCount) == [1 << 30, 65536, 65536])
  }

  @Test("VM state behind the disk stays with its snapshot (trap 12)")
  func vmState() throws {
    var builder = QCOW2Builder(byteCount: 65536)
    var snapshot = QCOW2Builder.Snapshot(
      id: "1", name: "running", entries: [0: .data(filled(1)), 8192: .data(filled(2))], diskByteCount: 65536)
    snapshot.l1EntryCount = 2
    snapshot.vmStateByteCount = 65536
    builder.snapshots = [snapshot]
    let store = MemoryStore(builder.build().bytes)
    let map = try snapshotMap(store)
    try map.applySnapshot(.name("running"), noBarrier)
    #expect(map.snapshots[0].vmStateByteCount == 65536)
    #expect(try Audit(store.bytes).isClean)
    _ = try map.createSnapshot(named: "again", seconds: 1, nanoseconds: 2, noBarrier)
    try map.deleteSnapshot(.name("running"), noBarrier)
    try map.close(noBarrier)
    #expect(try Audit(store.bytes).isClean)
    // The L1 table of two entries went along.
    #expect(store.bytes[36..<40].elementsEqual([0, 0, 0, 2]))
  }

  @Test("one-bit refcounts cannot hold a snapshot: refused with nothing changed (trap 15)")
  func oneBit() throws {
    var builder = QCOW2Builder(byteCount: 4 * 65536)
    builder.refcountOrder = 0
    builder.entries = [0: .data(filled(1))]
    let built = builder.build().bytes
    let store = MemoryStore(built)
    let map = try snapshotMap(store)
    let error = #expect(throws: ImageError.self) {
      try map.createSnapshot(named: "x", seconds: 1, nanoseconds: 2, noBarrier)
    }
    #expect(error?.message == "an image with refcount_bits 1 cannot have snapshots: its refcounts cannot say 2")
    try map.close(noBarrier)
    #expect(store.bytes == built)
  }

  @Test("two-bit refcounts hold two snapshots; packed units that share a cluster are not half counted")
  func twoBits() throws {
    var builder = QCOW2Builder(byteCount: 8 * 65536)
    builder.refcountOrder = 1
    builder.entries = [0: .data(filled(1)), 1: .packed(filled(2, 600)), 2: .packed(filled(3, 600))]
    let store = MemoryStore(builder.build().bytes)
    let map = try snapshotMap(store)
    // The shared cluster would be referred to four times.
    let error = #expect(throws: ImageError.self) {
      try map.createSnapshot(named: "x", seconds: 1, nanoseconds: 2, noBarrier)
    }
    #expect(error?.code == .unsupported)
    try map.close(noBarrier)
    #expect(try Audit(store.bytes).isClean)
  }

  @Test("version 2 images have snapshots too")
  func version2() throws {
    let store = MemoryStore(image(version: 2).build().bytes)
    let map = try snapshotMap(store)
    _ = try map.createSnapshot(named: "a", seconds: 1, nanoseconds: 2, noBarrier)
    try write(map, full(7), at: 0)
    try map.applySnapshot(.name("a"), noBarrier)
    try map.deleteSnapshot(.name("a"), noBarrier)
    try map.close(noBarrier)
    #expect(try Audit(store.bytes).isClean)
    #expect(try guestBytes(try open(store.bytes)) == guestBytes(try open(image(version: 2))))
  }

  @Test("deleting by name does not take an id")
  func selectors() throws {
    let store = MemoryStore(try changedSinceBase())
    let map = try snapshotMap(store)
    for selector in [SnapshotSelector.name("1"), .id("base"), .idOrName("2")] {
      let error = #expect(throws: ImageError.self) { try map.deleteSnapshot(selector, noBarrier) }
      #expect(error?.code == .notFound)
    }
    try map.deleteSnapshot(.idOrName("1"), noBarrier)
    #expect(map.snapshots.isEmpty)
  }

  @Test("a tree that names a table twice is refused, not walked")
  func sameTableTwice() throws {
    var builder = QCOW2Builder(byteCount: 1 << 30)
    builder.entries = [0: .data(filled(1))]
    let built = builder.build()
    builder.lie(at: Int(built.l1Offset) + 8, try #require(built.l2Offsets[0]) | 1 << 63)
    let map = try snapshotMap(MemoryStore(builder.build().bytes))
    let error = #expect(throws: ImageError.self) {
      try map.createSnapshot(named: "x", seconds: 1, nanoseconds: 2, noBarrier)
    }
    #expect(error?.message.contains("twice") == true)
  }

  @Test(
    "a write that fails anywhere leaves the old state or the new, and nothing worse than leaks",
    arguments: Step.allCases)
  fileprivate func failingWrites(_ step: Step) throws {
    let start = try changedSinceBase()
    let whole = MemoryStore(start)
    try step.run(try snapshotMap(whole))
    let states = [
      try guestBytes(try open(start)), try guestBytes(try open(whole.bytes)),
    ]
    let names = [try Audit(start).snapshotNames, try Audit(whole.bytes).snapshotNames]
    var count = 0
    while true {
      count += 1
      let store = MemoryStore(start)
      let faulty = FaultyStore(store, .failWrite(nth: count))
      do {
        try step.run(try snapshotMap(faulty))
        break
      } catch {}
      let audit = try Audit(store.bytes)
      #expect(audit.leaksAtMost, "write \(count): \(audit.tooLow), \(audit.wrongFlags) wrong flags")
      #expect(names.contains(audit.snapshotNames))
      #expect(states.contains(try guestBytes(try open(store.bytes))))
    }
    #expect(count > 5)
  }

  /// Counts and the flags "copied" that say the same lie in different sectors. They changed one after the other, and a cut
  /// between left an image whose check called the flags wrong until it was repaired.
  @Test(
    "a power cut anywhere leaves the old state or the new and a clean check but for leaks", arguments: Step.allCases,
    [2, 3] as [UInt32])
  fileprivate func powerCuts(_ step: Step, version: UInt32) throws {
    let start = try changedSinceBase(version: version)
    let (states, cuts) = try cuts(step, start)
    for (count, content) in cuts {
      let audit = try Audit(content)
      #expect(audit.leaksAtMost, "cut after \(count): \(audit.tooLow), \(audit.wrongFlags) wrong flags")
      #expect(states.contains(try guestBytes(try open(content))))
      let report = try #require(try open(content) as? any CheckableMap).check(workers: 1) { _ in true }
      #expect(report.corruptions == 0 && report.checkErrors == 0, "cut after \(count): \(report.messages)")
    }
  }

  @Test("what a power cut leaves is clean but for leaks to qemu-img", .requires(.qemuImg), arguments: Step.allCases)
  fileprivate func powerCutsChecked(_ step: Step) throws {
    let folder = try ScratchDirectory()
    var seen: Set<[UInt8]> = []
    for (count, content) in try cuts(step, try changedSinceBase()).left where seen.insert(content).inserted {
      let path = try folder.write(content, to: "cut.qcow2").string
      let status = try Tool.qemuImg("check", "-q", path).status
      #expect(status == 0 || status == 3, "cut after \(count)")
    }
  }

  /// The guest's bytes before and after a step, and what cuts at every moment of it leave of the file.
  private func cuts(_ step: Step, _ start: [UInt8]) throws -> (
    states: [[UInt8]], left: [(count: Int, content: [UInt8])]
  ) {
    let store = RecordingStore(start)
    let map = try #require(try writer(store) as? any SnapshotMap)
    let barrier: Barrier = { () throws(ImageError) in try store.flush() }
    try map.prepareToWrite(barrier)
    try step.run(map, barrier)
    let states = [try guestBytes(try open(start)), try guestBytes(try open(store.bytes))]
    var left: [(count: Int, content: [UInt8])] = []
    var random = SeededGenerator(seed: 0x5eed)
    for count in 0...store.operations.count {
      for _ in 0..<4 {
        let lost = UInt64.random(in: 0...UInt64.max, using: &random)
        left.append((count, try store.content(afterOperations: count) { lost >> UInt64($0 % 64) & 1 == 0 }))
      }
    }
    return (states, left)
  }
}
