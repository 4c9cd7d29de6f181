import PlatterCore
import PlatterQCOW2
import SystemPackage
import TestSupport
import Testing

@Suite struct PreallocationTests {
  /// An image of 64 clusters of which the file holds the last half as a hole; one in `step` has refcount 1.
  private func image(in folder: ScratchDirectory, step: Int, refcountOrder: UInt32) throws -> any ImageMap {
    var image = QCOW2Builder(byteCount: 4 << 20)
    image.refcountOrder = refcountOrder
    for guest in 0..<64 { image.entries[guest] = .data([]) }
    var built = image.build()
    // Refcounts by hand: the first 32 clusters are in use, of the others one in `step`.
    let block = Int(built.refcountTableOffset) - 65536
    let bits = 1 << Int(refcountOrder)
    for cluster in 32..<64 where cluster % step != 0 {
      for bit in cluster * bits..<(cluster + 1) * bits { built.bytes[block + bit / 8] &= ~(1 << UInt8(bit % 8)) }
    }
    let path = folder.file("disk.qcow2")
    try writeFile(built.bytes, to: path)
    let store = try FileStore(path, FileStore.Options(isWritable: true))
    try store.punch(32 * 65536..<64 * 65536)
    return try QCOW2.open(try FileStore(path), OpenContext(path: path))
  }

  @Test("data runs may hold holes where more clusters are in use than the file occupies", arguments: [0, 2, 3, 4, 6])
  func preallocated(refcountOrder: UInt32) throws {
    let folder = try ScratchDirectory()
    let map = try image(in: folder, step: 1, refcountOrder: refcountOrder)
    #expect(try runs(map).allSatisfy { $0.kind == .data && $0.isSparse })
  }

  @Test("holes of the file in free clusters mean nothing", arguments: [0, 2, 3, 4, 6])
  func freed(refcountOrder: UInt32) throws {
    let folder = try ScratchDirectory()
    let map = try image(in: folder, step: 64, refcountOrder: refcountOrder)
    #expect(try runs(map).allSatisfy { $0.kind == .data && !$0.isSparse })
  }

  @Test("a refcount table that cannot be read is no reason to fail", arguments: [UInt64(0x7f_0000), 0xffff_0000_0000])
  func damagedTable(offset: UInt64) throws {
    let folder = try ScratchDirectory()
    var image = QCOW2Builder(byteCount: 4 << 20)
    image.entries[0] = .data([])
    image.lie(at: 48, offset)
    let path = folder.file("disk.qcow2")
    try writeFile(image.build().bytes, to: path)
    let store = try FileStore(path, FileStore.Options(isWritable: true))
    try store.resize(to: 1 << 30)
    #expect(try runs(QCOW2.open(store, OpenContext(path: path))).first?.isSparse == false)
  }
}
