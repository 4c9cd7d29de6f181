import PlatterCore
import PlatterVMDK
import TestSupport
import Testing

private func check(_ bytes: [UInt8]) throws -> CheckReport {
  let image = try #require(try open(bytes) as? any CheckableMap)
  return try image.check(workers: 1) { _ in true }
}

@Suite("VMDK: checking") struct CheckTests {
  @Test("sound images have no finding", arguments: [SparseBuilder.Directory.front, .footer, .end])
  func sound(directory: SparseBuilder.Directory) throws {
    var stream = SparseBuilder.stream(directory)
    stream.grains = [0: .filled(1), 700: .filled(2)]
    #expect(try check(stream.build()).messages.isEmpty)
    var plain = SparseBuilder()
    plain.grains = [0: .filled(1), 700: .filled(2)]
    let report = try check(plain.build())
    #expect(report.corruptions == 0 && report.messages.isEmpty)
    #expect(try check(COWDBuilder(grains: [0: 1, 77: 2]).build()).messages.isEmpty)
  }

  @Test("a grain past the end, in the metadata, or used twice is a corruption")
  func grains() throws {
    var builder = SparseBuilder()
    builder.grains = [0: .filled(1)]
    _ = builder.build()
    let sector = UInt32((builder.grainPlaces[0] ?? 0) / 512)
    builder.grains = [0: .filled(1), 1: .entry(1 << 20), 2: .entry(2), 3: .entry(sector)]
    let report = try check(builder.build())
    #expect(report.corruptions == 3)
    #expect(
      report.messages.last == "entry 3 of grain table 0 names the grain at sector \(sector), which is used already")
  }

  @Test("redundant tables and directories that differ are corruptions")
  func copies() throws {
    var builder = SparseBuilder()
    builder.grains = [0: .filled(1)]
    let good = builder.build()
    let entry = good.with(UInt32(0), at: Int(builder.redundantTableSectors[0]) * 512)
    #expect(try check(entry).messages == ["grain table 0 and its redundant copy differ"])
    let table = good.with(UInt32(0), at: Int(builder.redundantSector) * 512 + 4)
    #expect(try check(table).messages == ["grain directory entry 1 and its redundant copy differ"])
  }

  @Test("a damaged first directory is a corruption though the image reads")
  func directory() throws {
    var builder = SparseBuilder()
    let good = builder.build()
    #expect(try check(good.with(UInt64(1 << 40), at: 56)).corruptions == 1)
    #expect(try check(good.with(UInt32.max, at: Int(builder.directorySector) * 512)).corruptions == 1)
  }

  @Test("one grain table named twice costs one reading and is a corruption")
  func sharedTable() throws {
    var builder = SparseBuilder()
    builder.flags = 1
    let good = builder.build()
    let bad = good.with(UInt32(builder.tableSectors[0]), at: Int(builder.directorySector) * 512 + 4)
    #expect(try check(bad).corruptions == 1)
  }

  @Test("markers that name another grain are corruptions")
  func markers() throws {
    var builder = SparseBuilder.stream()
    builder.grains = [0: .filled(1), 3: .marked(2, lba: 8, size: nil)]
    #expect(try check(builder.build()).corruptions == 1)
  }

  @Test("header and footer that name different directories are a corruption")
  func footer() throws {
    var builder = SparseBuilder.stream(.end)
    let bytes = builder.build()
    let bad = bytes.with(builder.directorySector + 1, at: bytes.count - 1024 + 56)
    #expect(try check(bad).messages == ["the header and the footer name different grain directories"])
  }

  @Test("a header and a line that disagree about the size are a corruption")
  func capacity() throws {
    var builder = SparseBuilder()
    builder.descriptor = SparseBuilder.descriptor("RW 8000 SPARSE \"x\"\n")
    #expect(try check(builder.build()).corruptions == 1)
  }

  @Test("a caller can stop it")
  func cancelled() throws {
    var builder = SparseBuilder()
    let image = try #require(try open(builder.build()) as? any CheckableMap)
    let error = #expect(throws: ImageError.self) { try image.check(workers: 1) { _ in false } }
    #expect(error?.code == .cancelled)
  }
}
