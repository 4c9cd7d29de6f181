import PlatterCore
import PlatterQCOW2
import Synchronization
import TestSupport
import Testing

private func amended(_ image: QCOW2Builder, _ options: [String: String]) throws -> MemoryStore {
  let store = MemoryStore(image.build().bytes)
  let map = try #require(try writer(store) as? any AmendableMap)
  try map.prepareToWrite(noBarrier)
  try map.amend(AmendRequest(options), noBarrier)
  try map.close(noBarrier)
  return store
}

private func image() -> QCOW2Builder {
  var image = QCOW2Builder(byteCount: 40 * 4096, clusterBits: 12)
  image.entries = [
    0: .data(filled(1, 4096)), 2: .zero, 3: .zeroAllocated, 4: .packed(filled(9, 700)), 5: .packed(filled(8, 900)),
  ]
  return image
}

@Suite struct AmendTests {
  @Test("every refcount width, there and back", arguments: [8, 16, 32, 64, 4] as [Int])
  func refcountBits(bits: Int) throws {
    let store = try amended(image(), ["refcount_bits": "\(bits)"])
    #expect(1 << Int(store.bytes[99]) == bits)
    #expect(try Audit(store.bytes).isClean)
    #expect(try guestBytes(try open(store.bytes)) == guestBytes(try open(image())))
  }

  @Test("a width that cannot say a count is refused, and nothing is changed")
  func narrow() throws {
    #expect(throws: ImageError.self) { try amended(image(), ["refcount_bits": "1"]) }
  }

  @Test("downgrading turns zeros into nothing, or into data over a backing image", arguments: [false, true])
  func downgrade(hasBacking: Bool) throws {
    var image = image()
    if hasBacking { image.backingName = Array("base.raw".utf8) }
    let store = try amended(image, ["compat": "0.10"])
    #expect(store.bytes[7] == 2)
    #expect(try Audit(store.bytes).isClean)
    let kinds = try runs(try open(store.bytes), 2 * 4096..<4 * 4096).map(\.kind)
    #expect(kinds.allSatisfy { $0 == (hasBacking ? .data : .absent) })
    #expect(try guestBytes(try open(store.bytes)) == guestBytes(try open(image)))
  }

  /// qemu-img does the same; we refused both.
  @Test("downgrading gives up zstd where nothing is packed with it", arguments: [false, true])
  func downgradeZstd(isPacked: Bool) throws {
    var image = image()
    image.compressionType = 1
    guard !isPacked else {
      let error = #expect(throws: ImageError.self) { try amended(image, ["compat": "0.10"]) }
      #expect(error?.code == .unsupported)
      return
    }
    image.entries = [0: .data(filled(1, 4096)), 2: .zero]
    let store = try amended(image, ["compat": "0.10"])
    #expect(store.bytes[7] == 2)
    #expect(try Audit(store.bytes).isClean)
    #expect(try guestBytes(try open(store.bytes)) == guestBytes(try open(image)))
  }

  @Test("upgrading gives snapshots of version 2 the size that they lack")
  func upgrade() throws {
    var image = image()
    image.version = 2
    image.entries[2] = nil
    image.entries[3] = nil
    image.snapshots = [.init(id: "1", name: "old", entries: [0: .data(filled(7, 4096))])]
    let store = try amended(image, ["compat": "1.1", "lazy_refcounts": "on"])
    #expect(store.bytes[7] == 3)
    #expect(try Audit(store.bytes).isClean)
    let map = try open(store.bytes)
    #expect(map.facts.snapshots[0].diskByteCount == 40 * 4096)
    #expect(try guestBytes(try map.snapshot(named: "old"))[0] == 7)
  }

  @Test(
    "what cannot be changed is refused",
    arguments: [
      ["cluster_size": "4096"], ["compat": "2"], ["no_such": "1"], ["data_file_raw": "on"],
      ["compat": "0.10", "lazy_refcounts": "on"], ["compat": "0.10", "refcount_bits": "8"],
    ])
  func refused(options: [String: String]) throws {
    #expect(throws: ImageError.self) { try amended(image(), options) }
  }

  @Test(
    "what takes long tells how far it is",
    arguments: [
      // One L1 entry for each tree; one refcount block.
      (["compat": "0.10"], 0, [[1, 1]]), (["compat": "0.10"], 2, [[1, 3], [2, 3], [3, 3]]),
      (["refcount_bits": "64"], 0, [[1, 1]]), (["lazy_refcounts": "on"], 0, []),
    ] as [([String: String], Int, [[UInt64]])])
  func progress(options: [String: String], snapshotCount: Int, steps: [[UInt64]]) throws {
    var image = image()
    image.snapshots = (0..<snapshotCount).map { .init(id: "\($0)", name: "s\($0)", entries: [:]) }
    let store = MemoryStore(image.build().bytes)
    let map = try #require(try writer(store) as? any AmendableMap)
    try map.prepareToWrite(noBarrier)
    let told = Mutex<[[UInt64]]>([])
    var request = AmendRequest(options)
    request.progress = { done, total in told.withLock { $0.append([done, total]) } }
    try map.amend(request, noBarrier)
    try map.close(noBarrier)
    #expect(told.withLock { $0 } == steps)
  }

  @Test("another backing file's name goes into the header in one write, or not at all")
  func backing() throws {
    let store = MemoryStore(image().build().bytes)
    let map = try #require(try writer(store) as? any RebaseableMap)
    try map.prepareToWrite(noBarrier)
    try map.setBacking(Array("base.qcow2".utf8), format: "qcow2", noBarrier)
    let opened = try open(store.bytes)
    #expect(opened.backing?.displayName == "base.qcow2")
    #expect(opened.backing?.formatName == "qcow2")
    let error = #expect(throws: ImageError.self) {
      try map.setBacking(filled(65, 1024), format: "raw", noBarrier)
    }
    #expect(error?.code == .unsupported)
    try map.setBacking(nil, format: nil, noBarrier)
    try map.close(noBarrier)
    #expect(try open(store.bytes).backing == nil)
    #expect(try Audit(store.bytes).isClean)
  }
}
