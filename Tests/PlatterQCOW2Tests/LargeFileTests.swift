import PlatterCore
import PlatterQCOW2
import SystemPackage
import TestSupport
import Testing

@Suite struct LargeFileTests {
  @Test("a file of more clusters than one window is checked and rebuilt in several")
  func manyWindows() throws {
    // 10,000,000 clusters of 512 bytes; a window has 2^23.
    let far: UInt64 = 10_000_000 * 512
    var image = QCOW2Builder(byteCount: 1 << 20, clusterBits: 9)
    image.entries[0] = .data([1])
    image.entries[1] = .raw(far | 1 << 63)
    image.entries[2] = .data([3])
    let folder = try ScratchDirectory()
    let path = try folder.write(image.build().bytes, to: "far.qcow2")
    let store = try FileStore(path, FileStore.Options(isWritable: true))
    try store.write([UInt8](repeating: 7, count: 512).rawBytes, at: far)
    let map = try #require(try QCOW2.open(store, OpenContext()) as? any CheckableMap)
    let found = try map.check(workers: 2) { _ in true }
    #expect(found.messages.contains("ERROR cluster 10000000 refcount=0 reference=1"))
    #expect(found.imageEndOffset == far + 512)
    let report = try QCOW2.repair(store, OpenContext(), .all, workers: 2) { _ in true }
    #expect(status(report) == 0, "\(report.messages)")
    #expect(try store.readFully("data", at: far, count: 512) == [UInt8](repeating: 7, count: 512))
    if Tool.qemuImg.isInstalled {
      #expect(try Tool.qemuImg("check", path.string).status == 0)
    }
  }

  @Test("a file of 64 TiB with little in it is checked and repaired in a few reads")
  func hugeFile() throws {
    let far: UInt64 = (64 << 40) - 65536
    var image = QCOW2Builder(byteCount: 64 << 40, clusterBits: 16)
    image.entries[0] = .data([1])
    image.entries[1] = .raw(far | 1 << 63)
    image.entries[9000] = .raw(1 << 45 | 1 << 63)
    let disk = PagedStore(PagedBytes(image.build().bytes), name: "huge.qcow2")
    try disk.write([UInt8](repeating: 7, count: 65536).rawBytes, at: far)
    let store = FaultyStore(disk)
    let map = try #require(try QCOW2.open(store, OpenContext()) as? any CheckableMap)
    let found = try map.check(workers: 2) { _ in true }
    #expect(found.messages.contains("ERROR cluster \(far / 65536) refcount=0 reference=1"))
    #expect(found.imageEndOffset == 64 << 40)
    let report = try QCOW2.repair(store, OpenContext(), .all, workers: 2) { _ in true }
    #expect(status(report) == 0, "\(report.messages)")
    #expect(store.counts.reads < 2000)
    #expect(try store.readFully("data", at: far, count: 512) == [UInt8](repeating: 7, count: 512))
  }

  @Test("entries that all name one cluster do not fill the disk")
  func copyBudget() throws {
    var image = QCOW2Builder(byteCount: 1 << 30, clusterBits: 16)
    image.entries[0] = .data([1])
    let host = image.build().hostOffsets[0] ?? 0
    for guest in 1..<8192 { image.entries[guest] = .raw(host | 1 << 63) }
    let (fixed, report) = try repair(image.build().bytes)
    #expect(fixed.count < 80 << 20)
    #expect(status(report) == 2)
    #expect(report.messages.contains { $0.contains("used twice are left") })
  }
}
