import Platter
import PlatterCore
import PlatterQED
import Synchronization
import TestSupport
import Testing

private func runs(_ builder: QEDBuilder) throws -> [Extent] { try runs(QED.open(builder.store(), OpenContext())) }

private func mapError(_ builder: QEDBuilder) throws -> ImageError? {
  let image = try QED.open(builder.store(), OpenContext())
  return #expect(throws: ImageError.self) { _ = try runs(image) }
}

@Suite("QED: mapping") struct MapTests {
  @Test("an image without an L2 table is one absent run")
  func empty() throws {
    #expect(try runs(QEDBuilder(size: 64 << 20)) == [.absent(start: 0, byteCount: 64 << 20)])
  }

  @Test("unallocated, zero and data clusters, joined with their neighbours")
  func kinds() throws {
    var builder = QEDBuilder(size: 8 * 4096)
    let first = builder.fill(1, with: 1)
    builder.fill(2, with: 2)
    builder.set(3, 1)
    builder.set(4, 1)
    let last = builder.fill(6, with: 3)
    #expect(
      try runs(builder) == [
        .absent(start: 0, byteCount: 4096), .data(start: 4096, byteCount: 8192, store: 0, offset: first),
        .zero(start: 12288, byteCount: 8192), .absent(start: 20480, byteCount: 4096),
        .data(start: 24576, byteCount: 4096, store: 0, offset: last), .absent(start: 28672, byteCount: 4096),
      ])
  }

  @Test(
    "runs go on over the border of two L2 tables, and the answer does not depend on the limit", arguments: [1, 2, 7])
  func tableBorder(limit: Int) throws {
    var builder = QEDBuilder(size: 4 << 20)
    builder.set(511, 0)
    builder.set(512, 0)
    let place = builder.fill(511, with: 1)
    builder.fill(512, with: 2)
    builder.set(513, 1)
    let image = try QED.open(builder.store(), OpenContext())
    let all = try runs(image)
    #expect(all.contains(.data(start: 511 * 4096, byteCount: 8192, store: 0, offset: place)))
    #expect(try runs(image, limit: limit) == all)
  }

  @Test("a part of a cluster is mapped to the part of its bytes")
  func partOfCluster() throws {
    var builder = QEDBuilder()
    let place = builder.fill(3, with: 9)
    let image = try QED.open(builder.store(), OpenContext())
    var part: [Extent] = []
    let end = try image.map(3 * 4096 + 100..<3 * 4096 + 300, limit: 5, into: &part)
    #expect(end == 3 * 4096 + 300)
    #expect(part == [.data(start: 3 * 4096 + 100, byteCount: 200, store: 0, offset: place + 100)])
  }

  @Test("the last cluster of an image whose size is no multiple of the cluster ends with the image")
  func oddSize() throws {
    var builder = QEDBuilder(size: 4096 + 512)
    let place = builder.fill(1, with: 9)
    #expect(try runs(builder).last == .data(start: 4096, byteCount: 512, store: 0, offset: place))
  }

  @Test("what the file's last cluster lacks is zero; a cluster behind the end is an error")
  func cutLastCluster() throws {
    var builder = QEDBuilder(size: 2 * 4096)
    let place = builder.fill(0, with: 9)
    let image = try QED.open(MemoryStore(Array(builder.bytes.dropLast(3000))), OpenContext())
    #expect(
      try runs(image) == [
        .data(start: 0, byteCount: 1096, store: 0, offset: place), .zero(start: 1096, byteCount: 3000),
        .absent(start: 4096, byteCount: 4096),
      ])
    #expect(try runs(image, limit: 1) == runs(image))
    let cut = try QED.open(MemoryStore(Array(builder.bytes.dropLast(4096))), OpenContext())
    let error = #expect(throws: ImageError.self) { try runs(cut) }
    #expect(
      error?.message == "L2 entry 0 of the table at 0x2000 points to byte 0x3000, past the end of the file (0x3000)")
  }

  @Test(
    "an L2 entry that names no cluster fails the request, with the entry and its value",
    arguments: [(2, "no multiple"), (0x3200, "no multiple"), (0x10_0000, "past"), (.max - 4095, "past")]
      as [(UInt64, String)])
  func badCluster(entry: UInt64, reason: String) throws {
    var builder = QEDBuilder()
    builder.set(5, entry)
    let error = try #require(try mapError(builder))
    #expect(error.code == .corrupt)
    #expect(error.description.hasPrefix("disk.qed: L2 entry 5 of the table at 0x2000 points to byte \(entry.hex), "))
    #expect(error.description.contains(reason))
  }

  @Test(
    "an L1 entry that names no table fails the request, with the entry and its value",
    arguments: [(1, "no multiple"), (0x2000, "past the end"), (.max - 4095, "past the end")] as [(UInt64, String)])
  func badTable(entry: UInt64, reason: String) throws {
    var builder = QEDBuilder()
    builder.setFirst(0, entry)
    let error = try #require(try mapError(builder))
    #expect(error.description.hasPrefix("disk.qed: L1 entry 0 points to byte \(entry.hex), "))
    #expect(error.description.contains(reason))
  }

  @Test(
    "of a table that the file's end cuts, the entries that are there are mapped, and asking for the others fails",
    arguments: [1, 2] as [UInt64])
  func cutTable(tableClusters: UInt64) throws {
    // 512 or 1024 entries; the data lies before the table.
    var builder = QEDBuilder(tableClusters: tableClusters, size: 512 * tableClusters * 4096)
    let data = builder.append([UInt8](repeating: 5, count: 4096), clusters: 1)
    let table = builder.append([], clusters: tableClusters)
    builder.setFirst(0, table)
    for cluster: UInt64 in [0, 100, 400] { builder.set(cluster, data) }
    // Ends inside the entry of cluster 300.
    let bytes = Array(builder.bytes.prefix(Int(table) + 300 * 8 + 3))
    let image = try QED.open(MemoryStore(bytes, name: "disk.qed"), OpenContext())
    var part: [Extent] = []
    #expect(try image.map(0..<image.byteCount, limit: 10, into: &part) == 300 * 4096)
    #expect(part.map(\.kind) == [.data, .absent, .data, .absent])
    let error = #expect(throws: ImageError.self) { try image.map(300 * 4096..<image.byteCount, limit: 10, into: &part) }
    #expect(error?.code == .truncated)
    #expect(
      error?.message
        == "L2 entry 300 of the table at \(table.hex) lies past the end of the file (\(UInt64(bytes.count).hex))")
    let report = try (image as? any CheckableMap)?.check(workers: 1) { _ in true }
    #expect(report?.corruptions == 1)
  }

  @Test("salvage of a file that was cut inside an L2 table keeps what the entries that are there name")
  func salvagedTable() throws {
    var builder = QEDBuilder(size: 512 * 4096)
    let data = builder.append([UInt8](repeating: 5, count: 4096), clusters: 1)
    let table = builder.append([], clusters: 1)
    builder.setFirst(0, table)
    for cluster: UInt64 in [0, 299, 300, 400] { builder.set(cluster, data) }
    let bytes = Array(builder.bytes.prefix(Int(table) + 300 * 8))
    let image = try DiskImage.open(MemoryStore(bytes, name: "disk.qed"), OpenOptions(format: "qed"))
    let losses = Mutex<[Range<UInt64>]>([])
    let salvaged = image.salvaging(Salvage { loss in losses.withLock { $0.append(loss.range) } })
    let disk = try salvaged.read(Int(image.byteCount), at: 0)
    for cluster in 0..<512 {
      let byte: UInt8 = cluster == 0 || cluster == 299 ? 5 : 0
      #expect(disk[cluster * 4096..<(cluster + 1) * 4096].allSatisfy { $0 == byte }, "cluster \(cluster)")
    }
    let lost: [Range<UInt64>] = (UInt64(300)..<512).map { cluster in cluster * 4096..<(cluster + 1) * 4096 }
    #expect(losses.withLock { $0 } == lost)
  }

  @Test("a bad entry does not hide what comes before it, whatever is asked for")
  func beforeBadEntry() throws {
    var builder = QEDBuilder()
    builder.set(3, 1)
    builder.set(5, 0x10_0000)
    let image = try QED.open(builder.store(), OpenContext())
    var part: [Extent] = []
    #expect(try image.map(0..<image.byteCount, limit: 10, into: &part) == 5 * 4096)
    #expect(part.map(\.kind) == [.absent, .zero, .absent])
    #expect(try image.map(6 * 4096..<image.byteCount, limit: 10, into: &part) == image.byteCount)
  }

  @Test("entries inside the header clusters are refused")
  func headerReferences() throws {
    var builder = QEDBuilder()
    builder.headerClusters = 2
    builder.set(0, 4096)
    let error = try #require(try mapError(builder))
    #expect(error.description.contains("points to byte 0x1000, inside the header clusters"))
  }

  @Test("a table longer than a cached page is mapped whole", .timeLimit(.minutes(1)))
  func longTable() throws {
    // 32768 entries a table: 256 KiB, four pages.
    var builder = QEDBuilder(cluster: 65536, tableClusters: 4, size: 3 << 30)
    builder.set(8191, 1)
    builder.set(8192, 1)
    builder.set(32767, 1)
    builder.set(32768, 1)
    let zeros = try runs(builder).filter { $0.kind == .zero }
    #expect(zeros.map(\.start) == [0x1fff_0000, 0x7fff_0000])
    #expect(zeros.map(\.byteCount) == [131072, 131072])
  }

  @Test("the largest image maps at once, reading nothing but its L1 table", .timeLimit(.minutes(1)))
  func hugeEmpty() throws {
    let builder = QEDBuilder(cluster: 4 << 20, tableClusters: 4, size: (1 << 63) - 512)
    let image = try QED.open(builder.store(), OpenContext())
    var part: [Extent] = []
    let end = try image.map(0..<image.byteCount, limit: 1, into: &part)
    #expect(end == part[0].end)
    #expect(part == [.absent(start: 0, byteCount: end)])
    #expect(end >= 1 << 50)
  }
}
