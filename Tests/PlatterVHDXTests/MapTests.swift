import PlatterCore
import PlatterVHDX
import TestSupport
import Testing

@Suite struct MapTests {
  @Test("present blocks give their bytes, every other state gives zeros", arguments: [UInt32(0), 1])
  func states(fileFlags: UInt32) throws {
    var builder = VHDXBuilder()
    builder.fileFlags = fileFlags
    builder.diskByteCount = 7 << 20
    let first = [UInt8].pattern(1, count: 1 << 20)
    let last = [UInt8].pattern(2, count: 1 << 20)
    // An undefined or unmapped block may keep its old place, and an absent one anything.
    builder.blocks = [
      0: .present(first), 1: .entry(0 | 99 << 20), 2: .entry(1 | 77 << 20), 3: .entry(2), 4: .entry(3 | 9 << 20),
      5: .entry(5), 6: .present(last),
    ]
    let map = try open(builder.store())
    #expect(try readGuest([map]) == first + [UInt8](repeating: 0, count: 5 << 20) + last)
    #expect(try runs(map).map(\.kind) == [.data, .absent, .zero, .data])
    #expect(map.allocationUnit == 1 << 20)
    #expect(map.backing == nil)
    #expect(map.facts.specific?["subformat"] == .text(fileFlags == 1 ? "fixed" : "dynamic"))
  }

  @Test("neighbouring blocks that lie together in the file are one run")
  func joining() throws {
    var builder = VHDXBuilder()
    builder.blocks = [0: .present([1]), 1: .present([2]), 2: .present([3])]
    let map = try open(builder.store())
    let place = UInt64(builder.firstBlockOffset)
    #expect(
      try runs(map) == [
        .data(start: 0, byteCount: 3 << 20, store: 0, offset: place), .absent(start: 3 << 20, byteCount: 1 << 20),
      ])
    var part: [Extent] = []
    let end = try map.map(1 << 20 + 100..<1 << 20 + 300, limit: 1, into: &part)
    #expect(end == 1 << 20 + 300)
    #expect(part == [.data(start: 1 << 20 + 100, byteCount: 200, store: 0, offset: place + 1 << 20 + 100)])
  }

  @Test("an answer never has more runs than asked for, and joins the last run of the caller's list")
  func limit() throws {
    var builder = VHDXBuilder()
    builder.blocks = [0: .present([1]), 2: .present([3])]
    let map = try open(builder.store())
    for limit in 1...4 {
      var answer: [Extent] = []
      let end = try map.map(0..<4 << 20, limit: limit, into: &answer)
      #expect(answer.count == limit)
      #expect(end == UInt64(limit) << 20)
    }
    var answer: [Extent] = []
    _ = try map.map(0..<1 << 19, limit: 1, into: &answer)
    #expect(try map.map(1 << 19..<4 << 20, limit: 1, into: &answer) == 2 << 20)
    #expect(answer.map(\.byteCount) == [1 << 20, 1 << 20])
  }

  @Test("a bitmap entry stands behind each chunk's blocks", arguments: [UInt32(512), 4096])
  func interleaving(sector: UInt32) throws {
    var builder = VHDXBuilder()
    builder.logicalSectorByteCount = sector
    builder.blockByteCount = 64 << 20
    // A chunk is 2^23 sectors: 64 blocks of 64 MiB, or 512.
    let ratio = sector == 512 ? 64 : 512
    builder.diskByteCount = UInt64(ratio * 2 + 1) * 64 << 20
    builder.blocks = [ratio - 1: .entry(2), ratio: .present([5]), ratio * 2: .present([6])]
    #expect(builder.entryIndex(ofBlock: ratio) == ratio + 1)
    let map = try open(builder.store())
    #expect(map.geometry.chunkRatio == UInt64(ratio))
    #expect(map.geometry.entryCount == UInt64(ratio * 2 + 1 + 2))
    let kinds = try runs(map).filter { $0.kind != .absent }
    #expect(kinds.map { $0.start >> 26 } == [UInt64(ratio - 1), UInt64(ratio), UInt64(ratio * 2)])
    #expect(try readGuest([map], UInt64(ratio) << 26..<UInt64(ratio) << 26 + 2) == [5, 0])
    #expect(try readGuest([map], UInt64(ratio * 2) << 26..<UInt64(ratio * 2) << 26 + 2) == [6, 0])
  }

  @Test("every block size of the format works", arguments: (20...28).map { UInt32(1) << $0 })
  func blockSizes(blockByteCount: UInt32) throws {
    var builder = VHDXBuilder()
    builder.blockByteCount = blockByteCount
    builder.diskByteCount = UInt64(blockByteCount) * 2 + 512
    builder.blocks = [2: .entry(6 | UInt64(builder.firstBlockOffset))]
    var bytes = builder.build()
    // The last block needs only the sector that the disk has of it.
    bytes += [UInt8](repeating: 9, count: 512)
    let map = try open(MemoryStore(bytes))
    #expect(map.byteCount == builder.diskByteCount)
    #expect(try readGuest([map], UInt64(blockByteCount) * 2..<map.byteCount) == [UInt8](repeating: 9, count: 512))
    bytes.removeLast()
    let cut = try open(MemoryStore(bytes))
    #expect(throws: ImageError.self) { try readGuest([cut], UInt64(blockByteCount) * 2..<map.byteCount) }
  }

  @Test("a file that ends inside a block has the sectors before its end, and asking for others is an error")
  func cutBlock() throws {
    var builder = VHDXBuilder()
    builder.blocks = [0: .present([UInt8](repeating: 9, count: 1 << 20))]
    let bytes = builder.build()
    let end = builder.firstBlockOffset + 300_000
    let map = try open(MemoryStore(Array(bytes.prefix(end))))
    let present: UInt64 = 300_000 / 512 * 512
    var answer: [Extent] = []
    #expect(try map.map(0..<1 << 20, limit: 8, into: &answer) == present)
    #expect(answer == [.data(start: 0, byteCount: present, store: 0, offset: UInt64(builder.firstBlockOffset))])
    #expect(try readGuest([map], 1000..<present) == [UInt8](repeating: 9, count: Int(present) - 1000))
    for start in [present, present + 512, UInt64(1 << 20) - 512] {
      let error = #expect(throws: ImageError.self) { _ = try map.map(start..<1 << 20, limit: 8, into: &answer) }
      #expect(error?.message.contains("past the end of the file") == true)
    }
  }

  @Test("a disk of one sector reads")
  func oneSector() throws {
    var builder = VHDXBuilder()
    builder.diskByteCount = 512
    builder.blocks = [0: .present([UInt8].pattern(4, count: 512))]
    #expect(try readGuest([open(builder.store())]) == [UInt8].pattern(4, count: 512))
  }

  @Test("a BAT that fills its region to the last entry is enough")
  func exactTable() throws {
    var builder = VHDXBuilder()
    builder.batRegionByteCount = 1 << 20
    // 131041 blocks and 31 bitmap entries between them: 131072 entries of 8 bytes.
    builder.diskByteCount = 131041 << 20
    #expect(try open(builder.store()).geometry.entryCount == 131072)
  }

  @Test("a disk of 64 TiB opens with a few small reads, and reads no more of the BAT than is asked for")
  func largest() throws {
    var builder = VHDXBuilder()
    builder.blockByteCount = 256 << 20
    builder.diskByteCount = 64 << 40
    builder.blocks = [262143: .entry(6 | 6 << 20)]
    let folder = try ScratchDirectory()
    let store = FaultyStore(try sparseFile(builder, byteCount: 300 << 20, in: folder))
    let map = try open(store)
    #expect(store.counts.reads < 16)
    #expect(store.counts.largestRead <= 64 << 10)
    let before = store.counts.bytesRead
    var answer: [Extent] = []
    let last = map.byteCount - 512
    #expect(try map.map(last..<map.byteCount, limit: 4, into: &answer) == map.byteCount)
    let place: UInt64 = 262 << 20
    #expect(answer == [.data(start: last, byteCount: 512, store: 0, offset: place - 512, isSparse: true)])
    #expect(store.counts.bytesRead - before <= 64 << 10)
  }

  @Test("a map of a huge empty disk does bounded work in each call")
  func boundedWork() throws {
    var builder = VHDXBuilder()
    builder.diskByteCount = 1 << 40
    let store = FaultyStore(builder.store())
    let map = try open(store)
    let before = store.counts.bytesRead
    var answer: [Extent] = []
    let end = try map.map(0..<map.byteCount, limit: 100, into: &answer)
    #expect(end > 0 && end < map.byteCount)
    #expect(store.counts.bytesRead - before <= 64 << 10)
    #expect(try runs(map) == [.absent(start: 0, byteCount: 1 << 40)])
  }

  @Test("any failing read is an error that names the file", arguments: 1...12)
  func failingReads(nth: Int) throws {
    var builder = VHDXBuilder()
    builder.blocks = [0: .present([1])]
    let store = FaultyStore(builder.store(), .failRead(nth: nth))
    let error = #expect(throws: ImageError.self) {
      let map = try open(store)
      _ = try readGuest([map])
    }
    #expect(error?.code == .io)
    #expect(error?.file == "disk.vhdx")
  }
}
