import PlatterCore
import PlatterVHDX
import TestSupport
import Testing

/// A file whose BAT is empty, with one block's worth of bytes at its end, and a log that brings it in.
struct LogCase {
  static let payload = [UInt8].pattern(77, count: 1 << 20)
  static let blockOffset: UInt64 = 4 << 20
  static let batOffset = UInt64(VHDXBuilder.batOffset)

  var builder = VHDXBuilder()
  var fileByteCount = 5 << 20

  init(_ entries: [(sector: Int, VHDXLogEntry)]) {
    builder.headers[1].logGUID = VHDXBuilder.logGUID
    for (sector, entry) in entries { builder.log.append((sector, entry.encoded())) }
  }

  /// The first page of the BAT with these entries.
  static func table(_ entries: [Int: UInt64]) -> [UInt8] {
    var page = [UInt8](repeating: 0, count: 4096)
    for (index, value) in entries { page.put(value, at: index * 8) }
    return page
  }

  /// An entry that makes block 0 present.
  static func entry(
    _ sequenceNumber: UInt64 = 1, tail: UInt32 = 0, table entries: [Int: UInt64] = [0: 6 | blockOffset]
  ) -> VHDXLogEntry {
    VHDXLogEntry(
      sequenceNumber: sequenceNumber, tail: tail, flushed: 5 << 20, last: 5 << 20,
      changes: [.page(at: batOffset, table(entries))])
  }

  var bytes: [UInt8] {
    var bytes = builder.build()
    bytes += Self.payload
    bytes += [UInt8](repeating: 0, count: max(0, fileByteCount - bytes.count))
    return Array(bytes[..<fileByteCount])
  }

  /// The guest disk with the log replayed in memory, which must leave the file alone, and then in the file, which must
  /// give the same.
  func guest() throws -> [UInt8] {
    let store = RecordingStore(bytes)
    let inMemory = try open(store)
    let guest = try readGuest([inMemory])
    #expect(store.operations.isEmpty)
    #expect(inMemory.facts.isDirty && inMemory.isReplayedInMemory)
    let inFile = try open(store, isWritable: true)
    #expect(!inFile.headers.current.needsReplay && !inFile.isReplayedInMemory && inFile.replayedEntryCount > 0)
    #expect(try readGuest([inFile]) == guest)
    let again = try open(MemoryStore(store.bytes))
    #expect(again.replayedEntryCount == 0 && !again.facts.isDirty)
    #expect(try readGuest([again]) == guest)
    #expect(again.headers.current.fileWriteGUID != inMemory.headers.current.fileWriteGUID)
    #expect(again.headers.current.dataWriteGUID == inMemory.headers.current.dataWriteGUID)
    return guest
  }

  var error: ImageError? {
    do throws(ImageError) {
      _ = try open(MemoryStore(bytes, name: "disk.vhdx"))
      return nil
    } catch {
      return error
    }
  }
}

@Suite struct LogTests {
  static let shown = LogCase.payload + [UInt8](repeating: 0, count: 3 << 20)
  static let empty = [UInt8](repeating: 0, count: 4 << 20)

  @Test("a dirty log is replayed in memory for readers and into the file for writers")
  func oneEntry() throws {
    #expect(try LogCase([(0, LogCase.entry())]).guest() == Self.shown)
  }

  @Test("an entry may begin anywhere in the ring, and go on around its end", arguments: [0, 1, 100, 254, 255])
  func wraps(start: Int) throws {
    #expect(try LogCase([(start, LogCase.entry(9, tail: UInt32(start * 4096)))]).guest() == Self.shown)
  }

  /// QEMU 7.2 loses the oldest entries of a run that goes around the ring's end.
  @Test("a run that goes around the ring's end is replayed whole, oldest first")
  func runWraps() throws {
    let tail: UInt32 = 254 * 4096
    let case1 = LogCase([
      (254, LogCase.entry(5, tail: tail, table: [0: 6 | 4 << 20, 1: 2])),
      (0, LogCase.entry(6, tail: tail, table: [0: 2])),
      (
        2,
        VHDXLogEntry(
          sequenceNumber: 7, tail: tail, changes: [.page(at: LogCase.batOffset, LogCase.table([3: 6 | 4 << 20]))])
      ),
    ])
    #expect(try case1.guest() == [UInt8](repeating: 0, count: 3 << 20) + LogCase.payload)
    let first = LogCase([
      (254, LogCase.entry(5, tail: tail)), (0, VHDXLogEntry(sequenceNumber: 6, tail: tail)),
      (1, VHDXLogEntry(sequenceNumber: 7, tail: tail)),
    ])
    #expect(try first.guest() == Self.shown)
  }

  @Test("only entries from the newest one's tail on are replayed")
  func tail() throws {
    let log = LogCase([
      (0, LogCase.entry(3, tail: 0, table: [1: 6 | 4 << 20])), (2, LogCase.entry(4, tail: 2 * 4096)),
    ])
    let map = try open(MemoryStore(log.bytes))
    #expect(map.replayedEntryCount == 1)
    #expect(try log.guest() == Self.shown)
  }

  @Test("of several runs the one with the newest last entry counts, if its tail lies in it")
  func severalRuns() throws {
    let log = LogCase([
      (0, LogCase.entry(10, tail: 0, table: [1: 6 | 4 << 20])), (20, LogCase.entry(12, tail: 20 * 4096)),
      // Newer, but its oldest needed entry is gone.
      (40, LogCase.entry(30, tail: 50 * 4096, table: [2: 6 | 4 << 20])),
    ])
    #expect(try log.guest() == Self.shown)
  }

  @Test("a sequence with a gap ends the run")
  func gap() throws {
    let log = LogCase([(0, LogCase.entry(1, tail: 0)), (2, LogCase.entry(3, tail: 0, table: [1: 6 | 4 << 20]))])
    #expect(try log.guest() == Self.shown)
  }

  @Test("entries of another log are not seen")
  func foreignEntries() throws {
    var other = LogCase.entry(99, tail: 8192, table: [2: 2])
    other.guid = Refusal.unknown
    #expect(try LogCase([(0, LogCase.entry()), (2, other)]).guest() == Self.shown)
  }

  @Test("old entries in the log of a clean file are left alone")
  func stale() throws {
    var log = LogCase([(0, LogCase.entry())])
    log.builder.headers[1].logGUID = "00000000-0000-0000-0000-000000000000"
    let store = RecordingStore(log.bytes)
    #expect(try readGuest([open(store, isWritable: true)]) == Self.empty)
    #expect(store.operations.isEmpty)
  }

  @Test("zero descriptors clear ranges, in order with pages", arguments: [true, false])
  func zeros(zeroFirst: Bool) throws {
    let zero = VHDXLogEntry.Change.zero(at: LogCase.blockOffset, 8192)
    let page = VHDXLogEntry.Change.page(at: LogCase.blockOffset + 4096, [UInt8](repeating: 0xab, count: 4096))
    let changes = zeroFirst ? [zero, page] : [page, zero]
    var expected = Self.shown
    for index in 0..<8192 { expected[index] = zeroFirst && index >= 4096 ? 0xab : 0 }
    let together = [(0, LogCase.entry(1)), (2, VHDXLogEntry(sequenceNumber: 2, tail: 0, changes: changes))]
    #expect(try LogCase(together).guest() == expected)
    let first = VHDXLogEntry(sequenceNumber: 2, tail: 0, changes: [changes[0]])
    let second = VHDXLogEntry(sequenceNumber: 3, tail: 0, changes: [changes[1]])
    let apart = [(0, LogCase.entry(1)), (2, first), (2 + first.sectorCount, second)]
    #expect(try LogCase(apart).guest() == expected)
  }

  /// QEMU 7.2 reads each further head sector over the first, and gives up.
  @Test("an entry with more descriptors than its first sector holds is replayed", arguments: [126, 127, 254, 255, 600])
  func manyDescriptors(count: Int) throws {
    var entry = LogCase.entry()
    for index in 1..<count {
      entry.changes.append(.zero(at: LogCase.blockOffset + UInt64(index) * 4096 % (1 << 19), 4096))
    }
    // The last one is seen, too.
    entry.changes[count - 1] = .page(at: LogCase.blockOffset + 1 << 19, [UInt8](repeating: 3, count: 4096))
    let guest = try LogCase([(0, entry)]).guest()
    #expect(Array(guest[1 << 19..<1 << 19 + 4096]) == [UInt8](repeating: 3, count: 4096))
    #expect(guest[4096..<8192].allSatisfy { $0 == 0 })
    #expect(Array(guest[1 << 19 + 4096..<1 << 20]) == Array(LogCase.payload[(1 << 19 + 4096)...]))
  }

  @Test("pages keep their first 8 and last 4 bytes, which stand in the descriptor")
  func pageEdges() throws {
    let page = [UInt8].pattern(5, count: 4096)
    var entry = LogCase.entry(UInt64(7) << 32 | 0x8899_aabb)
    entry.changes.append(.page(at: LogCase.blockOffset, page))
    let log = LogCase([(0, entry)])
    #expect(Array(try log.guest()[..<4096]) == page)
    // Reads that touch a page anywhere see it.
    let map = try open(MemoryStore(log.bytes))
    let expected = Array((page + LogCase.payload[4096...]).prefix(10000))
    for start in [0, 1, 7, 8, 9, 4091, 4092, 4095, 4096, 4097] {
      for count in [1, 3, 4096, 5000] {
        #expect(
          try map.stores[0].readFully("part", at: LogCase.blockOffset + UInt64(start), count: count)
            == Array(expected[start..<start + count]))
      }
    }
  }

  /// QEMU 7.2 grows the file only to lengths that are no whole MiB, so that such a block lies past its end.
  @Test("the file grows to the newest entry's length, in memory too", arguments: [5 << 20, 5 << 20 + 4096])
  func grows(last: UInt64) throws {
    var entry = LogCase.entry()
    entry.flushed = 4 << 20
    entry.last = last
    var log = LogCase([(0, entry)])
    log.fileByteCount = 4 << 20
    #expect(try log.guest() == Self.empty)
    let store = MemoryStore(log.bytes)
    let map = try open(store)
    #expect(try map.stores[0].byteCount() == last)
    #expect(try runs(map).first?.kind == .data)
    #expect(store.bytes.count == 4 << 20)
    _ = try open(store, isWritable: true)
    #expect(store.bytes.count == Int(last))
  }

  @Test("a file that another file's log made longer is never cut")
  func neverShrinks() throws {
    var entry = LogCase.entry()
    entry.last = 1 << 20
    #expect(try LogCase([(0, entry)]).guest() == Self.shown)
  }

  @Test("the changes of the log may be to region tables and metadata")
  func tablesInLog() throws {
    let good = LogCase([]).builder.build()
    var entry = LogCase.entry()
    entry.changes.append(.page(at: 192 << 10, Array(good[192 << 10..<196 << 10])))
    entry.changes.append(.page(at: UInt64(VHDXBuilder.metadataOffset), Array(good[2 << 20..<2 << 20 + 4096])))
    var bytes = LogCase([(0, entry)]).bytes
    for start in [192 << 10, 2 << 20] {
      bytes.replaceSubrange(start..<start + 4096, with: [UInt8](repeating: 9, count: 4096))
    }
    bytes[256 << 10] = 0
    #expect(try readGuest([open(MemoryStore(bytes))]) == Self.shown)
  }

  @Test("an entry torn at any of its sectors is not replayed; the run before it is", arguments: 0..<6, [0x00, 0xff])
  func torn(sector: Int, filler: Int) throws {
    // Two head sectors and four data sectors.
    var second = LogCase.entry(2, tail: 250 * 4096, table: [1: 6 | 4 << 20])
    for index in 1..<4 {
      second.changes.append(.page(at: LogCase.blockOffset + UInt64(index) * 4096, Self.empty.prefix(4096) + []))
    }
    for index in 0..<130 { second.changes.append(.zero(at: LogCase.blockOffset + UInt64(index) * 4096, 4096)) }
    #expect(second.sectorCount == 6)
    var log = LogCase([(250, LogCase.entry(1, tail: 250 * 4096)), (252, second)])
    #expect(try open(MemoryStore(log.bytes)).replayedEntryCount > 0)
    log.builder.log[1].bytes.replaceSubrange(
      sector * 4096..<(sector + 1) * 4096, with: [UInt8](repeating: UInt8(filler), count: 4096))
    #expect(try log.guest() == Self.shown)
  }

  @Test(
    "one wrong bit anywhere in an entry makes it none",
    arguments: [0, 5, 9, 13, 17, 25, 33, 49, 57, 64, 70, 90, 4096, 4101, 5000, 8191])
  func wrongBit(offset: Int) throws {
    var log = LogCase([(0, LogCase.entry())])
    log.builder.log[0].bytes[offset] ^= 0x10
    let error = try #require(log.error)
    #expect(error.code == .corrupt)
    #expect(error.message.contains("the log holds no whole entry"))
  }

  @Test("a header that names a log without any of its entries is refused")
  func noEntry() {
    #expect(LogCase([]).error?.message.contains("the log holds no whole entry") == true)
  }

  @Test("a file shorter than its log knows it to be is refused")
  func truncated() {
    var entry = LogCase.entry()
    entry.flushed = 6 << 20
    let error = LogCase([(0, entry)]).error
    #expect(error?.code == .truncated)
    #expect(error?.message.contains("its end was cut off") == true)
  }

  @Test(
    "an entry that changes what it may not is refused before anything is changed",
    arguments: [
      (.zero(at: 4 << 20 + 512, 4096), "not whole pages"), (.zero(at: 4 << 20, 512), "not whole pages"),
      (.zero(at: 0, 4096), "inside the headers"), (.zero(at: 188 << 10, 4096), "inside the headers"),
      (.zero(at: 1 << 20, 4096), "inside the log"), (.zero(at: 192 << 10, 1 << 20), "inside the log"),
      (.zero(at: 5 << 20, 4096), "past the end of the file"),
      (.zero(at: .max - 4095, 4096), "past the end of the file"),
      (.zero(at: 4 << 20, .max - 4095), "past the end of the file"), (.zero(at: 1 << 62, 1 << 62), "past the end"),
      (.page(at: 64 << 10, [UInt8](repeating: 0, count: 4096)), "inside the headers"),
      (.page(at: 1 << 60, [UInt8](repeating: 0, count: 4096)), "past the end"),
      (.page(at: 2 << 20 - 4096, [UInt8](repeating: 0, count: 4096)), "inside the log"),
    ] as [(VHDXLogEntry.Change, String)])
  func targets(change: VHDXLogEntry.Change, sentence: String) throws {
    var entry = LogCase.entry()
    entry.changes.append(change)
    let store = RecordingStore(LogCase([(0, entry)]).bytes)
    for isWritable in [false, true] {
      let error = #expect(throws: ImageError.self) { try open(store, isWritable: isWritable) }
      #expect(error?.code == .corrupt)
      #expect(error?.message.contains(sentence) == true)
    }
    #expect(store.operations.isEmpty)
  }

  @Test("a log that wants a file beyond the format's reach is refused")
  func lengthLimit() {
    var entry = LogCase.entry()
    entry.last = 1 << 48 + 1
    #expect(LogCase([(0, entry)]).error?.message.contains("wants the file to have") == true)
  }

  @Test("a log with more zero ranges than are kept is refused")
  func zeroLimit() {
    var entries: [(sector: Int, VHDXLogEntry)] = []
    // 256 entries of one sector hold 126 each, which is within the limit for a log of 1 MiB; one of 2 MiB holds more.
    for index in 0..<300 {
      var entry = VHDXLogEntry(sequenceNumber: UInt64(index) + 1, tail: 0)
      entry.changes = (0..<126).map { .zero(at: LogCase.blockOffset + UInt64($0) * 4096, 4096) }
      entries.append((index, entry))
    }
    var log = LogCase(entries)
    for slot in 0..<2 {
      log.builder.headers[slot].logByteCount = 2 << 20
      log.builder.headers[slot].logOffset = 5 << 20
    }
    log.fileByteCount = 7 << 20
    #expect(log.error?.message.contains("zeroes more than 32768 ranges") == true)
    log.builder.log.removeLast(300 - 256)
    #expect(log.error == nil)
  }

  @Test("a cut of power during replay, at any operation, leaves a file that reads the same")
  func powerCut() throws {
    let zero = VHDXLogEntry.Change.zero(at: LogCase.blockOffset, 8192)
    var entry = LogCase.entry(1)
    entry.flushed = 4 << 20
    let log = LogCase([
      (0, entry), (2, VHDXLogEntry(sequenceNumber: 2, tail: 0, last: 5 << 20 + 4096, changes: [zero])),
    ])
    let store = RecordingStore(log.bytes)
    // The blocks that the log touches, and one beside.
    let part: Range<UInt64> = 0..<16384
    let guest = try readGuest([open(store)], part)
    #expect(guest == [UInt8](repeating: 0, count: 8192) + LogCase.payload[8192..<16384])
    _ = try open(store, isWritable: true)
    let count = store.operations.count
    #expect(count >= 7)
    for cut in 0...count {
      for survives in [{ _ in true }, { _ in false }, { $0 % 2 == 0 }, { $0 % 2 == 1 }] as [(Int) -> Bool] {
        let disk = MemoryStore(try store.content(afterOperations: cut, survives: survives))
        #expect(try readGuest([open(disk)], part) == guest)
        #expect(try readGuest([open(disk, isWritable: true)], part) == guest)
      }
    }
  }

  @Test(
    "a failing write, resize or flush during replay is reported, and the next opening replays again", arguments: 1...6)
  func failingWrites(nth: Int) throws {
    let bytes = LogCase([(0, LogCase.entry())]).bytes
    for fault in [FaultyStore.Fault.failWrite(nth: min(nth, 3)), .failFlush(nth: min(nth, 3))] {
      let disk = MemoryStore(bytes)
      #expect(throws: ImageError.self) { try open(FaultyStore(disk, fault), isWritable: true) }
      #expect(try readGuest([open(disk)]) == Self.shown)
    }
  }
}
