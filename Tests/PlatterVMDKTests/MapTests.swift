import PlatterCore
import PlatterVMDK
import Synchronization
import TestSupport
import Testing

@Suite("VMDK: mapping sparse extents") struct MapTests {
  @Test("grains that are there, that read as zeros, that are absent; joined with their neighbours")
  func kinds() throws {
    var builder = SparseBuilder()
    builder.flags = 7
    builder.grains = [1: .filled(1), 2: .filled(2), 3: .entry(1), 4: .entry(1), 511: .filled(3), 512: .filled(4)]
    let image = try open(builder.build())
    let first = try #require(builder.grainPlaces[1])
    let last = try #require(builder.grainPlaces[511])
    let expected: [Extent] = [
      .absent(start: 0, byteCount: 4096), .data(start: 4096, byteCount: 8192, store: 0, offset: first),
      .zero(start: 12288, byteCount: 8192), .absent(start: 20480, byteCount: 506 * 4096),
      .data(start: 511 * 4096, byteCount: 8192, store: 0, offset: last),
      .absent(start: 513 * 4096, byteCount: 511 * 4096),
    ]
    #expect(try runs(image) == expected)
    for limit in [1, 2, 3] { #expect(try runs(image, limit: limit) == expected) }
    #expect(try guestBytes(builder.bytes, 3, at: 513 * 4096 - 2) == [4, 4, 0])
  }

  @Test("a table that is not there is absent; with zeroed grains allowed, a directory entry of 1 is zeros")
  func missingTables() throws {
    var builder = SparseBuilder()
    builder.missingTables = [0]
    builder.grains = [512: .filled(1)]
    #expect(try runs(open(builder.build())).first == .absent(start: 0, byteCount: 2 << 20))
    builder.flags = 7
    let bytes = builder.build()
    let zeros = bytes.with(UInt32(1), at: Int(builder.directorySector) * 512)
    #expect(try runs(open(zeros)).first == .zero(start: 0, byteCount: 2 << 20))
  }

  @Test("grains of 512 bytes and of 1 MiB", arguments: [1, 2048] as [UInt64])
  func grainSizes(sectors: UInt64) throws {
    var builder = SparseBuilder()
    builder.grainSectors = sectors
    builder.grains = [3: .filled(5)]
    let place = try #require(try runs(open(builder.build())).first { $0.kind == .data })
    #expect(
      place == .data(start: 3 * sectors * 512, byteCount: sectors * 512, store: 0, offset: builder.grainPlaces[3] ?? 0))
  }

  @Test("a capacity that is no multiple of the grain ends with the disk")
  func oddCapacity() throws {
    var builder = SparseBuilder()
    builder.capacity = 4097
    builder.descriptor = SparseBuilder.descriptor("RW 4097 SPARSE \"x\"\n")
    builder.grains = [512: .filled(9)]
    let image = try open(builder.build())
    #expect(image.byteCount == 4097 * 512)
    #expect(try runs(image).last?.byteCount == 512)
  }

  @Test("what the last grain of a cut file lacks is zero; a grain behind the end is an error")
  func cutGrain() throws {
    var builder = SparseBuilder()
    builder.grains = [0: .filled(7), 1: .filled(8)]
    let bytes = builder.build()
    let place = try #require(builder.grainPlaces[0])
    let cut = Array(bytes.dropLast(3000))
    let expected: [Extent] = [
      .data(start: 0, byteCount: 5192, store: 0, offset: place), .zero(start: 5192, byteCount: 3000),
    ]
    #expect(try Array(runs(open(cut)).prefix(2)) == expected)
    #expect(try Array(runs(open(cut), limit: 1).prefix(2)) == expected)
    let error = try #require(try mapError(Array(bytes.dropLast(4096))))
    let sector = (builder.grainPlaces[1] ?? 0) / 512
    let length = UInt64(bytes.count - 4096).hex
    #expect(
      error.description
        == "disk.vmdk: entry 1 of grain table 0 points to sector \(sector), past the end of the file (\(length))")
  }

  @Test("entry 1 of an extent that allows no zeroed grains is an error")
  func entryOne() throws {
    var builder = SparseBuilder()
    builder.grains = [5: .entry(1)]
    let error = try #require(try mapError(builder.build()))
    #expect(error.message == "entry 5 of grain table 0 is 1, and the header does not allow zeroed grains")
  }

  @Test("sector numbers up to the largest are no trap", arguments: [UInt32.max, 0x8000_0000, 0x0100_0000])
  func largeEntries(entry: UInt32) throws {
    var builder = SparseBuilder()
    builder.flags = 1
    builder.grains = [5: .entry(entry)]
    #expect(try mapError(builder.build())?.code == .truncated)
    builder.grains = [:]
    let bytes = builder.build()
    let bad = bytes.with(entry, at: Int(builder.directorySector) * 512)
    #expect(
      try mapError(bad)?.message.hasPrefix("grain directory entry 0 points to sector \(entry), where no ") == true)
  }

  @Test("where the first directory lies outside the file the redundant one is used, with a warning")
  func redundantDirectory() throws {
    var builder = SparseBuilder()
    builder.grains = [0: .filled(6), 700: .filled(7)]
    let good = builder.build()
    let warnings = Mutex<[String]>([])
    let context = OpenContext(warn: { text in warnings.withLock { $0.append(text) } })
    let image = try open(good.with(UInt64(1 << 40), at: 56), context)
    #expect(warnings.withLock { $0.count } == 1)
    #expect(warnings.withLock { $0[0] }.hasSuffix("the redundant grain directory is used instead"))
    #expect(try runs(image) == runs(open(good)))
    // Without the flag the second directory is not to be trusted.
    builder.flags = 1
    #expect(refusal(builder.build().with(UInt64(1 << 40), at: 56)) != nil)
  }

  @Test("where entries of the first directory are damaged the redundant ones are used, with one warning")
  func redundantEntries() throws {
    var builder = SparseBuilder()
    builder.grains = [0: .filled(6), 700: .filled(7)]
    let good = builder.build()
    let place = Int(builder.directorySector) * 512
    let warnings = Mutex<[String]>([])
    let context = OpenContext(warn: { text in warnings.withLock { $0.append(text) } })
    let image = try open(good.with(UInt32.max, at: place).with(UInt32.max, at: place + 4), context)
    #expect(try runs(image) == runs(open(good)))
    #expect(warnings.withLock { $0.count } == 1)
  }

  @Test("both directories damaged is an error")
  func bothDamaged() throws {
    var builder = SparseBuilder()
    let good = builder.build()
    let bad = good.with(UInt32.max, at: Int(builder.directorySector) * 512)
      .with(UInt32.max, at: Int(builder.redundantSector) * 512)
    #expect(try mapError(bad)?.code == .truncated)
    #expect(refusal(good.with(UInt64(1 << 40), at: 56).with(UInt64(1 << 40), at: 48))?.code == .truncated)
  }

  @Test("an empty disk of 16 TiB maps at once", .timeLimit(.minutes(1)))
  func large() throws {
    var builder = SparseBuilder()
    builder.flags = 1
    builder.descriptor = nil
    builder.grainSectors = 128
    builder.missingTables = Set(0..<512)
    builder.capacity = 512 * 512 * 128
    let image = try open(builder.build())
    #expect(image.byteCount == 16 << 30)
    #expect(try runs(image) == [.absent(start: 0, byteCount: 16 << 30)])
  }

  @Test("VMFSSPARSE: tables of 4096 entries, grains of a sector")
  func vmfsSparse() throws {
    var builder = COWDBuilder()
    builder.grains = [0: 1, 4095: 2]
    let bytes = builder.build()
    let runs = try runs(open(bytes))
    #expect(runs.map(\.kind) == [.data, .absent, .data, .absent])
    #expect(runs.map(\.byteCount) == [512, 4094 * 512, 512, 4096 * 512])
    #expect(try guestBytes(bytes, 2, at: 4096 * 512 - 1) == [2, 0])
  }

  static let cowdFaults: [(Int, UInt32, String)] = [
    (4, 2, "the header has version 2, not 1"),
    (16, 3, "the header's grain size, 3 sectors, is no power of two up to 2097152"),
    (16, 0, "the header's grain size, 0 sectors, is no power of two up to 2097152"),
    (24, 1, "the header's grain directory has 1 entries, and its capacity, 8192 sectors, needs 2"),
    (20, 0, "the grain directory is at sector 0, which is no place for it"),
    (20, .max, "the grain directory (8 bytes at 0x1fffffffe00) lies past the end of the file (0x4a00)"),
  ]

  @Test("VMFSSPARSE: a bad header is refused with the field and its value", arguments: cowdFaults)
  func vmfsSparseFaults(field: Int, value: UInt32, sentence: String) throws {
    #expect(refusal(COWDBuilder().build().with(value, at: field))?.message == sentence)
  }

  @Test("VMFSSPARSE: a table past the end is an error; an unclean shutdown is told")
  func vmfsSparseTables() throws {
    let bad = COWDBuilder().build().with(UInt32(6), at: 2048)
    #expect(
      try mapError(bad)?.message.hasPrefix("grain directory entry 0 points to sector 6, where no grain table") == true)
    #expect(try open(COWDBuilder(unclean: 1).build()).facts.isDirty)
  }
}

@Suite("VMDK: cut files") struct TruncationTests {
  static let builders: [SparseBuilder] = [SparseBuilder(), .stream(.footer), .stream(.end)].map { builder in
    var builder = builder
    builder.grains = [0: .filled(1), 1: .filled(2), 600: .filled(3)]
    return builder
  }

  @Test("cut at any sector, a file is refused, or reads as it was but for the end of its last grain", arguments: 0..<3)
  func cut(layout: Int) throws {
    var builder = Self.builders[layout]
    let bytes = builder.build()
    for length in stride(from: 0, to: bytes.count, by: 512) {
      let part = Array(bytes.prefix(length))
      guard let image = try? open(part), image.byteCount > 0 else { continue }
      for (grain, value) in [(0, 1), (1, 2), (600, 3)] as [(UInt64, UInt8)] {
        guard let content = try? guestBytes(part, 4096, at: grain * 4096) else { continue }
        let kept = content.prefix { $0 == value }.count
        #expect(content.dropFirst(kept).allSatisfy { $0 == 0 })
        let place = Int(builder.grainPlaces[grain] ?? 0)
        #expect(kept == (layout == 0 ? min(4096, length - place) : 4096), "grain \(grain) of \(length) bytes")
      }
    }
  }
}
