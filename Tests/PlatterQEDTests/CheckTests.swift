import PlatterCore
import PlatterQED
import Testing

private func check(_ builder: QEDBuilder) throws -> CheckReport {
  let image = try #require(try QED.open(builder.store(), OpenContext()) as? any CheckableMap)
  return try image.check(workers: 1) { _ in true }
}

@Suite("QED: checking") struct CheckTests {
  @Test("a sound image has no finding, and its clusters are counted")
  func sound() throws {
    var builder = QEDBuilder(size: 10 * 4096)
    builder.fill(0, with: 1)
    builder.fill(1, with: 1)
    builder.fill(5, with: 1)
    builder.set(6, 1)
    let report = try check(builder)
    #expect(report.corruptions == 0)
    #expect(report.leaks == 0)
    #expect(report.messages.isEmpty)
    #expect(report.totalClusters == 10)
    #expect(report.allocatedClusters == 3)
    #expect(report.fragmentedClusters == 0)
  }

  @Test("clusters out of order are fragmented")
  func fragmented() throws {
    var builder = QEDBuilder()
    builder.fill(1, with: 1)
    builder.fill(0, with: 1)
    #expect(try check(builder).fragmentedClusters == 1)
  }

  @Test("a cluster that nothing names is a leak; the cut end of the file is none")
  func leak() throws {
    var builder = QEDBuilder()
    _ = builder.append([1, 2, 3], clusters: 2)
    let report = try check(builder)
    #expect(report.leaks == 2)
    #expect(report.corruptions == 0)
    let cut = try #require(
      try QED.open(MemoryStore(Array(builder.bytes.dropLast(1))), OpenContext()) as? any CheckableMap)
    #expect(try cut.check(workers: 1) { _ in true }.leaks == 1)
  }

  @Test("no false leak in a file past the length at which QEMU's division errs, 4 KiB clusters over 16 MiB")
  func longFile() throws {
    var builder = QEDBuilder(size: 32 << 20)
    for cluster in 0..<UInt64(4200) { builder.fill(cluster, with: 1) }
    let report = try check(builder)
    #expect(report.leaks == 0)
    #expect(report.allocatedClusters == 4200)
  }

  @Test("two entries for one cluster, a table naming itself or the L1 table are corruptions")
  func duplicates() throws {
    var builder = QEDBuilder()
    let place = builder.fill(0, with: 1)
    builder.set(1, place)
    builder.set(2, 0x2000)
    builder.set(3, 0x1000)
    let report = try check(builder)
    #expect(report.corruptions == 3)
    #expect(report.messages.count == 3)
  }

  @Test("one L2 table named by every L1 entry costs one reading", .timeLimit(.minutes(1)))
  func sharedTable() throws {
    var builder = QEDBuilder(size: 1 << 30)
    builder.fill(0, with: 1)
    for index in 1..<UInt64(512) { builder.setFirst(index, 0x2000) }
    let report = try check(builder)
    #expect(report.corruptions == 511)
    #expect(report.allocatedClusters == 1)
  }

  @Test("entries that name no place are corruptions, not errors")
  func badEntries() throws {
    var builder = QEDBuilder(size: 4 << 20)
    builder.set(0, 0x1234)
    builder.set(1, 1 << 40)
    builder.setFirst(1, 1 << 40)
    let report = try check(builder)
    #expect(report.corruptions == 3)
    #expect(report.messages.last == "L1 entry 1 points to byte 0x10000000000, past the end of the file (0x3000)")
  }

  @Test("a caller can stop it")
  func cancelled() throws {
    let image = try #require(try QED.open(QEDBuilder().store(), OpenContext()) as? any CheckableMap)
    let error = #expect(throws: ImageError.self) { try image.check(workers: 1) { _ in false } }
    #expect(error?.code == .cancelled)
  }
}
