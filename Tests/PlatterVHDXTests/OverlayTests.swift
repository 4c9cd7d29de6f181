import PlatterCore
import PlatterVHDX
import TestSupport
import Testing

@Suite struct OverlayTests {
  @Test("a replayed file tells its holes: zeroed ranges and what lies past the file's end")
  func segments() throws {
    var entry = LogCase.entry()
    entry.last = 7 << 20
    entry.changes += [
      .zero(at: 4 << 20, 1 << 20), .page(at: 4 << 20 + 8192, [UInt8](repeating: 1, count: 4096)),
    ]
    let store = try open(MemoryStore(LogCase([(0, entry)]).bytes)).stores[0]
    func segment(_ offset: UInt64) throws -> StoreSegment { try store.segment(at: offset, limit: 1 << 30) }
    let batPage = UInt64(VHDXBuilder.batOffset)
    #expect(try segment(0) == StoreSegment(isHole: false, byteCount: batPage))
    #expect(try segment(batPage) == StoreSegment(isHole: false, byteCount: 4096))
    #expect(try segment(4 << 20) == StoreSegment(isHole: true, byteCount: 8192))
    #expect(try segment(4 << 20 + 8193) == StoreSegment(isHole: false, byteCount: 4095))
    #expect(try segment(4 << 20 + 12288) == StoreSegment(isHole: true, byteCount: 1 << 20 - 12288))
    #expect(try segment(5 << 20) == StoreSegment(isHole: true, byteCount: 2 << 20))
    #expect(try store.segment(at: 4 << 20, limit: 100) == StoreSegment(isHole: true, byteCount: 100))
  }

  @Test("a replayed file refuses every change")
  func readOnly() throws {
    let store = try open(MemoryStore(LogCase([(0, LogCase.entry())]).bytes, name: "a.vhdx")).stores[0]
    #expect(!store.isWritable)
    #expect(store.name == "a.vhdx")
    let error = #expect(throws: ImageError.self) { try store.write([1].rawBytes, at: 0) }
    #expect(error?.file == "a.vhdx")
    #expect(throws: ImageError.self) { try store.zero(0..<1) }
    #expect(throws: ImageError.self) { try store.punch(0..<1) }
    #expect(throws: ImageError.self) { try store.allocate(0..<1) }
    #expect(throws: ImageError.self) { try store.resize(to: 0) }
    try store.flush()
  }

  @Test("random changes read as a model of the file has them", arguments: 1...6)
  func model(seed: UInt64) throws {
    var generator = SeededGenerator(seed: seed)
    var log = LogCase([])
    log.fileByteCount = 5 << 20
    var model = log.bytes
    model += [UInt8](repeating: 0, count: 1 << 20)
    var sector = Int.random(in: 0..<256, using: &generator)
    let tail = UInt32(sector * 4096)
    for sequence in 1...12 {
      var entry = VHDXLogEntry(sequenceNumber: UInt64(sequence), tail: tail, flushed: 0, last: 6 << 20)
      for _ in 0..<Int.random(in: 0...5, using: &generator) {
        let target = 4 << 20 + Int.random(in: 0..<40, using: &generator) * 4096
        if Bool.random(using: &generator) {
          let page = [UInt8].pattern(generator.next(), count: 4096)
          entry.changes.append(.page(at: UInt64(target), page))
          model.replaceSubrange(target..<target + 4096, with: page)
        } else {
          let count = Int.random(in: 0...9, using: &generator) * 4096
          entry.changes.append(.zero(at: UInt64(target), UInt64(count)))
          model.replaceSubrange(target..<target + count, with: [UInt8](repeating: 0, count: count))
        }
      }
      log.builder.log.append((sector, entry.encoded()))
      sector = (sector + entry.sectorCount) % 256
    }
    let bytes = log.bytes
    let store = try open(MemoryStore(bytes)).stores[0]
    let area = 4 << 20..<6 << 20
    #expect(try store.byteCount() == 6 << 20)
    for _ in 0..<40 {
      let start = Int.random(in: area, using: &generator)
      let count = min(Int.random(in: 1..<200_000, using: &generator), area.upperBound - start)
      #expect(try store.readFully("part", at: UInt64(start), count: count) == Array(model[start..<start + count]))
    }
    let disk = MemoryStore(bytes)
    _ = try open(disk, isWritable: true)
    #expect(disk.bytes[area] == model[area])
  }
}
