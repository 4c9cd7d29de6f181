import PlatterCore
import PlatterQCOW2
import TestSupport
import Testing

private func bitmapMap(_ store: any ByteStore) throws -> any BitmapMap {
  let map = try #require(try writer(store) as? any BitmapMap)
  try map.prepareToWrite(noBarrier)
  return map
}

private func image() -> QCOW2Builder {
  var image = QCOW2Builder(byteCount: 64 * 4096, clusterBits: 12)
  image.entries = [0: .data(filled(1, 4096))]
  image.bitmaps = [
    .init(name: "on", granularityBits: 12), .init(name: "off", granularityBits: 13, flags: 0),
    .init(name: "lost", granularityBits: 12, flags: 3),
  ]
  return image
}

private func dirty(_ map: any BitmapMap, _ name: String) throws -> [Range<UInt64>] {
  var ranges: [Range<UInt64>] = []
  try map.dirtyRanges(ofBitmapNamed: name) { ranges.append($0) }
  return ranges
}

@Suite struct BitmapWriteTests {
  @Test("an enabled bitmap records writes in place, new clusters and releases; the others do not")
  func records() throws {
    let store = MemoryStore(image().build().bytes)
    var map = try bitmapMap(store)
    #expect(try Audit(store.bytes).bitmapFlags == ["on": 3, "off": 1, "lost": 3])
    try write(map, filled(2, 4096), at: 0)
    try write(map, filled(3, 4096), at: 5 * 4096)
    _ = try map.release(9 * 4096..<11 * 4096, as: .zero)
    try map.close(noBarrier)
    #expect(try Audit(store.bytes).isClean)
    #expect(try Audit(store.bytes).bitmapFlags == ["on": 2, "off": 0, "lost": 3])
    map = try bitmapMap(store)
    #expect(try dirty(map, "on") == [0..<4096, 5 * 4096..<6 * 4096, 9 * 4096..<11 * 4096])
    #expect(try dirty(map, "off") == [])
    try map.mergeBitmap(named: "on", into: "off")
    #expect(try dirty(map, "off") == [0..<8192, 4 * 4096..<6 * 4096, 8 * 4096..<12 * 4096])
    try map.clearBitmap(named: "on")
    try map.setBitmap(named: "on", isEnabled: false)
    try map.close(noBarrier)
    #expect(try Audit(store.bytes).isClean)
    #expect(try Audit(store.bytes).bitmapFlags == ["on": 0, "off": 0, "lost": 3])
  }

  @Test("a bitmap that was not saved can only be removed")
  func inconsistent() throws {
    let store = MemoryStore(image().build().bytes)
    let map = try bitmapMap(store)
    #expect(map.bitmaps.map(\.isInconsistent) == [false, false, true])
    #expect(throws: ImageError.self) { try map.clearBitmap(named: "lost") }
    #expect(throws: ImageError.self) { try map.mergeBitmap(named: "lost", into: "on") }
    #expect(throws: ImageError.self) { try map.resize(to: 4096, noBarrier) }
    for name in ["lost", "on", "off"] { try map.removeBitmap(named: name) }
    try map.close(noBarrier)
    #expect(try Audit(store.bytes).isClean)
    #expect(try Audit(store.bytes).bitmapFlags.isEmpty)
    // No bitmap, no autoclear bit.
    #expect(store.bytes[95] == 0)
  }

  @Test("resizing keeps bitmaps right: what comes back is not dirty")
  func resizes() throws {
    // What one cluster of bits stands for.
    let one: UInt64 = 1 << 27
    var builder = image()
    builder.bitmaps.removeLast()
    let store = MemoryStore(builder.build().bytes)
    var map = try bitmapMap(store)
    try map.markDirty([0..<64 * 4096], inBitmapNamed: "on")
    try map.resize(to: 10 * 4096, noBarrier)
    #expect(try dirty(map, "on") == [0..<10 * 4096])
    try map.close(noBarrier)
    map = try bitmapMap(store)
    try map.resize(to: 3 * one, noBarrier)
    #expect(try dirty(map, "on") == [0..<10 * 4096])
    try map.markDirty([0..<one + 1], inBitmapNamed: "on")
    try map.close(noBarrier)
    map = try bitmapMap(store)
    #expect(try dirty(map, "on") == [0..<one, one..<one + 4096])
    #expect(try Audit(store.bytes).tooLow.isEmpty)
  }

  @Test("a write that fails anywhere leaves bitmaps that are right or not trusted")
  func failingWrites() throws {
    let start = image().build().bytes
    var count = 0
    while true {
      count += 1
      let store = MemoryStore(start)
      do {
        let map = try bitmapMap(FaultyStore(store, .failWrite(nth: count)))
        try write(map, filled(2, 4096), at: 0)
        try map.addBitmap(named: "new", granularity: nil, isEnabled: true)
        try map.removeBitmap(named: "off")
        try map.close(noBarrier)
        break
      } catch {}
      #expect(try Audit(store.bytes).isSafe, "write \(count)")
      let map = try bitmapMap(store)
      let isStored = map.bitmaps.first?.isInconsistent == false
      if isStored, try guestBytes(map)[0] == 2 { #expect(try dirty(map, "on") == [0..<4096]) }
    }
    #expect(count > 5)
  }
}
