import PlatterCore
import PlatterVHDX
import TestSupport
import Testing

@Suite struct HeaderTests {
  @Test("the valid header with the larger number counts", arguments: [(1, 2, 1), (9, 2, 0), (.max, 0, 0)])
  func current(first: UInt64, second: UInt64, slot: Int) throws {
    var builder = VHDXBuilder()
    builder.headers[0].sequenceNumber = first
    builder.headers[1].sequenceNumber = second
    let map = try open(builder.store())
    #expect(map.headers.currentSlot == slot)
    #expect(map.headers.current.sequenceNumber == max(first, second))
    #expect(map.facts.warnings.isEmpty)
  }

  @Test("with one header damaged the other counts, and a warning says so", arguments: [0, 1])
  func fallback(damaged: Int) throws {
    var builder = VHDXBuilder()
    builder.blocks = [0: .present([7])]
    var bytes = builder.build()
    bytes[(64 << 10) * (damaged + 1) + 100] ^= 1
    let map = try open(MemoryStore(bytes))
    #expect(map.headers.currentSlot == 1 - damaged)
    #expect(try readGuest([map], 0..<1) == [7])
    #expect(map.facts.warnings.count == 1)
    #expect(map.facts.warnings.first?.hasPrefix("header \(damaged + 1) has checksum") == true)
    #expect(try map.check(workers: 1) { _ in true }.corruptions == 1)
  }

  @Test("a header of another version is no header, whatever its number")
  func newerVersion() throws {
    var builder = VHDXBuilder()
    builder.headers[1].version = 2
    #expect(try open(builder.store()).headers.currentSlot == 0)
  }

  /// Disk2vhd writes the same header, number and all, to both slots.
  @Test("equal numbers are accepted where the headers are equal")
  func equalNumbers() throws {
    var builder = VHDXBuilder()
    builder.headers[0].sequenceNumber = 2
    #expect(try open(builder.store()).headers.current.sequenceNumber == 2)
  }

  @Test("a file without a log opens when no entries wait in it, whatever the log's version")
  func noLog() throws {
    var builder = VHDXBuilder()
    for slot in 0..<2 {
      builder.headers[slot].logByteCount = 0
      builder.headers[slot].logOffset = 0
      builder.headers[slot].logVersion = 5
    }
    // Nothing else may be tested against the log's place then.
    builder.editRegions = { $0.append(.init(guid: Refusal.unknown, offset: 1 << 20, byteCount: 1 << 20, flags: 0)) }
    #expect(try readGuest([open(builder.store())], 0..<4096).allSatisfy { $0 == 0 })
  }

  @Test("an update goes to the other slot first, then to both, each flushed, with growing numbers")
  func update() throws {
    let store = RecordingStore(VHDXBuilder().build())
    var headers = try open(store).headers
    let guid = GUID.random()
    try headers.update(store) { $0.fileWriteGUID = guid }
    let steps = store.operations.map { operation -> String in
      switch operation {
      case .write(let offset, let bytes): "\(offset.hex) \(bytes.count)"
      case .flush: "flush"
      case .zero, .resize: "unexpected"
      }
    }
    #expect(steps == ["0x10000 4096", "flush", "0x20000 4096", "flush"])
    let after = try open(store).headers
    #expect(after.current.sequenceNumber == 4)
    #expect(after.current.fileWriteGUID == guid)
    #expect(after.current.dataWriteGUID == GUID(0x2222_2222_2222_2222, 0x2222_2222_2222_2222))
    #expect(after.faults == [nil, nil])
    // A cut between the two leaves the old header or the new one.
    for count in 0...steps.count {
      let disk = MemoryStore(try store.content(afterOperations: count, survives: { _ in false }))
      #expect([2, 3, 4].contains(try open(disk).headers.current.sequenceNumber))
    }
  }

  @Test("a number that cannot grow is an error, not an overflow")
  func numberAtTheEnd() throws {
    var builder = VHDXBuilder()
    builder.headers[1].sequenceNumber = .max
    let store = builder.store()
    var headers = try open(store).headers
    #expect(throws: ImageError.self) { try headers.update(store) { _ in } }
    #expect(store.bytes == builder.build())
  }
}

@Suite struct RegionTests {
  /// QEMU 7.2 reads the first copy only, and refuses this.
  @Test("with one region table damaged the other counts", arguments: [0, 1])
  func fallback(damaged: Int) throws {
    var builder = VHDXBuilder()
    builder.blocks = [0: .present([7])]
    var bytes = builder.build()
    bytes[(192 + 64 * damaged) << 10 | 20] ^= 1
    let map = try open(MemoryStore(bytes))
    #expect(try readGuest([map], 0..<1) == [7])
    #expect(map.facts.warnings.first?.hasPrefix("region table \(damaged + 1) has checksum") == true)
    #expect(try map.check(workers: 1) { _ in true }.corruptions == 1)
  }

  @Test("region tables that differ are found by check")
  func difference() throws {
    var builder = VHDXBuilder()
    builder.editRegionTable = { copy, bytes in if copy == 1 { bytes.put(UInt32(0), at: 44) } }
    let report = try open(builder.store()).check(workers: 1) { _ in true }
    #expect(report.messages == ["region table 2 differs from region table 1"])
    #expect(report.corruptions == 1)
  }

  /// QEMU writes its regions without the required bit; Disk2vhd writes the metadata first.
  @Test("BAT and metadata may come in either order, and need not say that they are required")
  func variants() throws {
    var builder = VHDXBuilder()
    builder.blocks = [0: .present([7])]
    builder.editRegions = { regions in
      regions.reverse()
      for index in regions.indices { regions[index].flags = 0 }
    }
    #expect(try readGuest([open(builder.store())], 0..<1) == [7])
  }

  @Test("an unknown region that is not required is kept, and no block may lie in it")
  func unknownRegion() throws {
    var builder = VHDXBuilder()
    builder.blocks = [0: .present([7]), 1: .entry(6 | 8 << 20)]
    builder.editRegions = { $0.append(.init(guid: Refusal.unknown, offset: 8 << 20, byteCount: 1 << 20, flags: 0)) }
    var bytes = builder.build()
    bytes += [UInt8](repeating: 1, count: 10 << 20 - bytes.count)
    let map = try open(MemoryStore(bytes))
    #expect(map.regions.table.entries.count == 3)
    #expect(try readGuest([map], 0..<1) == [7])
    #expect(throws: ImageError.self) { try readGuest([map], 1 << 20..<2 << 20) }
  }

  @Test("unknown metadata of system and user is skipped, empty items too")
  func unknownMetadata() throws {
    var builder = VHDXBuilder()
    builder.editItems = { items in
      items.insert(.init(guid: Refusal.unknown, content: [1, 2, 3], flags: 0), at: 0)
      // The same GUID once for the system and once for the user are two items.
      items.append(.init(guid: Refusal.unknown, content: [], flags: 1))
      items.append(.init(guid: VHDXBuilder.diskSize, content: UInt64(512).bytes, flags: 1))
    }
    #expect(try open(builder.store()).byteCount == 4 << 20)
  }
}
