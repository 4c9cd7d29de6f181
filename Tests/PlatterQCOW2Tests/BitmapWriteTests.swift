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
  @Test("an enabled bitmap records what it is told of, writes in place and new clusters; the others do not")
  func records() throws {
    let store = MemoryStore(image().build().bytes)
    var map = try bitmapMap(store)
    #expect(try Audit(store.bytes).bitmapFlags == ["on": 3, "off": 1, "lost": 3])
    try write(map, filled(2, 4096), at: 0)
    try write(map, filled(3, 4096), at: 5 * 4096)
    try map.changed(9 * 4096..<11 * 4096)
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

  @Test("a bitmap with data of somebody else's is used only where it says that it may be", arguments: [UInt32(2), 6])
  func extraData(flags: UInt32) throws {
    var builder = image()
    builder.bitmaps = [.init(name: "more", granularityBits: 12, flags: flags, extra: filled(7, 13))]
    let store = MemoryStore(builder.build().bytes)
    let map = try bitmapMap(store)
    #expect(map.bitmaps.map(\.isInconsistent) == [flags == 2])
    try write(map, filled(2, 4096), at: 0)
    try map.close(noBarrier)
    // What was not kept up must not be believed by those who know the data.
    #expect(try Audit(store.bytes).bitmapFlags == ["more": flags == 2 ? 3 : 6])
    #expect(try Audit(store.bytes).isClean)
    let offset = try #require(store.bytes.firstRange(of: filled(7, 13)))
    #expect(Array(store.bytes[offset.upperBound..<offset.upperBound + 4]) == Array("more".utf8))
  }

  @Test("removing a bitmap that was not saved gives up no more than it can mean")
  func untrustedTable() throws {
    var builder = QCOW2Builder(byteCount: 4096 * 8 << 12, clusterBits: 12)
    builder.entries = [0: .data(filled(1, 4096))]
    // A disk large enough for eight entries of the table.
    builder.bitmaps = [.init(name: "lost", granularityBits: 9, flags: 3)]
    let built = builder.build()
    let table = built.bitmapTableOffsets[0]
    let words: [UInt64] = [
      1, built.l1Offset, built.l2Offsets[0] ?? 0, 4096 * 10_000, UInt64.max, built.refcountTableOffset, 4097,
      built.bitmapDirectoryOffset,
    ]
    builder.lies = [(Int(table), words.flatMap { bigEndianBytes($0) })]
    let store = MemoryStore(builder.build().bytes)
    let map = try bitmapMap(store)
    try map.removeBitmap(named: "lost")
    try map.close(noBarrier)
    #expect(try Audit(store.bytes).isClean)
    #expect(try guestBytes(open(store.bytes)).prefix(4096) == filled(1, 4096)[...])
  }

  @Test("bitmaps that a program without them has left behind are ignored, and make room for new ones")
  func ignored() throws {
    var builder = image()
    builder.lies = [(95, [0])]
    let store = MemoryStore(builder.build().bytes)
    var map = try bitmapMap(store)
    #expect(map.bitmaps.isEmpty)
    try write(map, filled(2, 4096), at: 0)
    try map.close(noBarrier)
    map = try bitmapMap(store)
    try map.addBitmap(named: "on", granularity: nil, isEnabled: true)
    try map.close(noBarrier)
    #expect(try Audit(store.bytes).bitmapFlags == ["on": 2])
    #expect(try Audit(store.bytes).isSafe)
  }

  @Test("a bitmap whose name, bits or place do not fit is refused before anything changes")
  func limits() throws {
    let store = MemoryStore(image().build().bytes)
    let map = try bitmapMap(store)
    for name in ["", String(repeating: "n", count: 1024), "on", "lost"] {
      #expect(throws: ImageError.self) { try map.addBitmap(named: name, granularity: nil, isEnabled: true) }
    }
    for granularity in [0, 256, 1000, 1 << 32] as [UInt64] {
      #expect(throws: ImageError.self) { try map.addBitmap(named: "new", granularity: granularity, isEnabled: true) }
    }
    try map.addBitmap(named: String(repeating: "n", count: 1023), granularity: 1 << 31, isEnabled: false)
    try map.close(noBarrier)
    #expect(try Audit(store.bytes).isClean)

    // The header's cluster has no room for the extension.
    var full = QCOW2Builder(byteCount: 4096, clusterBits: 9)
    full.backingName = [UInt8](repeating: 0x61, count: 380)
    let other = MemoryStore(full.build().bytes)
    let second = try bitmapMap(other)
    #expect(throws: ImageError.self) { try second.addBitmap(named: "new", granularity: nil, isEnabled: true) }
    try second.close(noBarrier)
    #expect(try Audit(other.bytes).isClean)
    #expect(second.bitmaps.isEmpty)
  }

  @Test("reading a bitmap changes nothing and refuses what it cannot mean")
  func reading() throws {
    var builder = image()
    let table = Int(builder.build().bitmapTableOffsets[0])
    builder.lies = [(table, bigEndianBytes(UInt64(1)))]
    let source = try #require(try open(builder) as? any BitmapSource)
    var ranges: [Range<UInt64>] = []
    try source.dirtyRanges(ofBitmapNamed: "on") { ranges.append($0) }
    #expect(ranges == [0..<64 * 4096])
    for (name, code) in [("lost", ImageError.Code.forbidden), ("none", .notFound)] {
      let error = #expect(throws: ImageError.self) { try source.dirtyRanges(ofBitmapNamed: name) { _ in } }
      #expect(error?.code == code)
    }
    for word in [3, 4097, 1 << 40, UInt64.max] {
      builder.lies = [(table, bigEndianBytes(word))]
      let bad = try #require(try open(builder) as? any BitmapSource)
      #expect(throws: ImageError.self) { try bad.dirtyRanges(ofBitmapNamed: "on") { _ in } }
    }
  }
}
