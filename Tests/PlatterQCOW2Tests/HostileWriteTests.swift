import PlatterCore
import PlatterQCOW2
import TestSupport
import Testing

/// Images that would lead their writer astray.
@Suite("Writing into hostile images") struct HostileWriteTests {
  private static let image: QCOW2Builder = {
    var image = QCOW2Builder(byteCount: 40 * 4096, clusterBits: 12)
    image.entries = [0: .data(filled(1, 4096)), 4: .packed(filled(9, 700))]
    return image
  }()

  /// A fuzz target found it: giving up the old blocks ended the program.
  @Test(
    "a refcount table that names a place no block can have is refused before anything is written",
    arguments: [0xffff_ffff_ffff_fe00, 0x1200, 1 << 40] as [UInt64], [false, true])
  func wildBlock(place: UInt64, snapshots: Bool) throws {
    var bytes = Self.image.build().bytes
    let table = Int(bytes.rawBytes.bigEndian(at: 48, as: UInt64.self) ?? 0)
    bytes.put(place.bigEndian, at: table + 8)
    let store = MemoryStore(bytes)
    let map = try writer(store)
    try map.prepareToWrite(noBarrier)
    let error = #expect(throws: ImageError.self) {
      if snapshots {
        _ = try (map as? any SnapshotMap)?.createSnapshot(named: "s", seconds: 0, nanoseconds: 0, noBarrier)
      } else {
        try (map as? any AmendableMap)?.amend(AmendRequest(["refcount_bits": "64"]), noBarrier)
      }
    }
    #expect(error?.code == .corrupt)
    let isSame = store.bytes == bytes
    #expect(isSame)
  }

  /// Its writer looked for a free cluster behind the end of the file, cluster by cluster, as long as the table went on.
  @Test("a refcount table that counts clusters without end behind the file is refused in time")
  func endlessCounts() throws {
    var image = Self.image
    image.refcountOrder = 0
    var bytes = image.build().bytes
    let table = Int(bytes.rawBytes.bigEndian(at: 48, as: UInt64.self) ?? 0)
    // One block, counting everything, named 512 times: 2^24 clusters.
    let block = bytes.count
    bytes += [UInt8](repeating: 0xff, count: 4096)
    for index in 0..<512 { bytes.put(UInt64(block).bigEndian, at: table + 8 * index) }
    let map = try writer(MemoryStore(bytes))
    try map.prepareToWrite(noBarrier)
    let error = #expect(throws: ImageError.self) { try map.allocate(8192..<12288) }
    #expect(error?.code == .corrupt)
  }
}
