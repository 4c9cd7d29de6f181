import PlatterCore
import PlatterVHDX
import TestSupport
import Testing

/// Whatever the bytes, opening, mapping and checking end in an answer or an error.
@Suite struct HostileTests {
  /// A file with everything in it: a log of two entries, a parent, a partial block.
  private static let file: [UInt8] = {
    var builder = child { $0.blocks = [0: .partial([5: [UInt8](repeating: 7, count: 512)]), 1: .present([1, 2, 3])] }
    builder.headers[1].logGUID = VHDXBuilder.logGUID
    let table = Array(builder.build()[VHDXBuilder.batOffset..<VHDXBuilder.batOffset + 4096])
    let page = VHDXLogEntry.Change.page(at: UInt64(VHDXBuilder.batOffset), table)
    let zero = VHDXLogEntry.Change.zero(at: 5 << 20, 4096)
    builder.log = [
      (0, VHDXLogEntry(sequenceNumber: 1, tail: 0, changes: [page]).encoded()),
      (2, VHDXLogEntry(sequenceNumber: 2, tail: 0, changes: [zero]).encoded()),
    ]
    return builder.build()
  }()

  /// Opens, maps and checks; returns whether all of it succeeded. With `isWritable` the log is replayed into the file
  /// as well, unless that grows it beyond what memory is for.
  @discardableResult
  private func use(_ bytes: [UInt8], isWritable: Bool = false) -> Bool {
    do throws(ImageError) {
      let store = MemoryStore(bytes)
      let map = try open(store)
      if isWritable, try map.stores[0].byteCount() <= 64 << 20 { _ = try open(store, isWritable: true) }
      _ = map.facts
      var position: UInt64 = 0
      for _ in 0..<16 where position < map.byteCount {
        var answer: [Extent] = []
        position = try map.map(position..<map.byteCount, limit: 8, into: &answer)
      }
      return try map.check(workers: 1) { _ in true }.corruptions == 0
    } catch {
      return false
    }
  }

  @Test("the file itself is sound")
  func sound() { #expect(use(Self.file)) }

  @Test(
    "a file cut at any place is refused or reads on without a trap",
    arguments: [0, 64, 128, 192, 256, 320, 1024, 2048, 3072, 4096, 5120, 6144])
  func truncation(kibibytes: Int) {
    let lengths = [-4096, -513, -8, -1, 0, 1, 7, 8, 9, 63, 64, 519, 520, 4095, 4096, 65535, 65536, 131_072]
    for length in lengths.map({ kibibytes * 1024 + $0 }) where length >= 0 && length < Self.file.count {
      let isWhole = use(Array(Self.file[..<length]))
      #expect(!isWhole, "cut at \(length)")
    }
  }

  @Test("any byte of the metadata, BAT and bitmap may be anything", arguments: 1...8)
  func wrongBytes(seed: UInt64) {
    var generator = SeededGenerator(seed: seed)
    let areas = [
      2 << 20..<2 << 20 + 224, 2 << 20 + 65536..<2 << 20 + 65536 + 300, 3 << 20..<3 << 20 + 48, 6 << 20..<6 << 20 + 8,
    ]
    for _ in 0..<40 {
      var bytes = Self.file
      // Without its log, or the BAT would be put right again.
      bytes.replaceSubrange(128 << 10..<128 << 10 + 4096, with: [UInt8](repeating: 0, count: 4096))
      for _ in 0..<Int.random(in: 1...3, using: &generator) {
        let area = areas.randomElement(using: &generator) ?? areas[0]
        let place = Int.random(in: area, using: &generator)
        let values: [UInt8] = [0, 1, 0x7f, 0x80, 0xff, UInt8.random(in: 0...255, using: &generator)]
        bytes[place] = values.randomElement(using: &generator) ?? 0
      }
      use(bytes, isWritable: Bool.random(using: &generator))
    }
  }

  @Test("any field of a header, region table or log entry may hold any number, its checksum right", arguments: 1...8)
  func wrongNumbers(seed: UInt64) {
    var generator = SeededGenerator(seed: seed)
    let structures = [(128 << 10, 4096, 80), (192 << 10, 65536, 80), (1 << 20, 8192, 96), (1 << 20 + 8192, 4096, 96)]
    let values: [UInt64] = [0, 1, 4095, 4096, 1 << 20, 1 << 31, 1 << 32 - 1, 1 << 44, 1 << 63, .max - 4095, .max]
    for _ in 0..<40 {
      var bytes = Self.file
      for _ in 0..<Int.random(in: 1...2, using: &generator) {
        let (start, count, fields) = structures.randomElement(using: &generator) ?? structures[0]
        let place = start + 8 + Int.random(in: 0..<(fields - 8) / 4, using: &generator) * 4
        if Bool.random(using: &generator) {
          bytes.put(values.randomElement(using: &generator) ?? 0, at: place)
        } else {
          bytes.put(UInt32(truncatingIfNeeded: values.randomElement(using: &generator) ?? 0), at: place)
        }
        bytes.put(UInt32(0), at: start + 4)
        bytes.put(ReferenceCRC.checksum(Array(bytes[start..<start + count])), at: start + 4)
      }
      use(bytes, isWritable: Bool.random(using: &generator))
    }
  }
}
