import Platter
import PlatterCodecs
import PlatterCore
import PlatterQCOW2
import TestSupport
import Testing

/// Where packed clusters go. A plain cluster behind a packed one ended its row once, and what was left of the cluster was
/// lost: an image of many short rows was a percent larger than it had to be.
@Suite struct PackedPlaceTests {
  private static let cluster = 4096
  private let scratch: ScratchDirectory
  private let disk: DiskImage
  private let writer: DiskWriter

  init() throws {
    scratch = try ScratchDirectory()
    let image = QCOW2Builder(byteCount: 64 * UInt64(Self.cluster), clusterBits: 12).build()
    var options = OpenOptions(format: "qcow2")
    options.isWritable = true
    // The image is looked at while its writer lives.
    options.locking = .shared
    disk = try DiskImage.open(path: scratch.write(image.bytes, to: "disk"), options)
    writer = try DiskWriter(disk)
  }

  /// A cluster that packs to a little more than so many bytes.
  private func content(_ count: Int, seed: Int) -> [UInt8] {
    var random = SeededGenerator(seed: UInt64(seed) + 1)
    return (0..<Self.cluster).map { $0 < count ? UInt8.random(in: 0...255, using: &random) : 0 }
  }

  /// Packs a cluster and returns the host cluster that it starts in.
  private func pack(_ index: Int, _ count: Int) throws -> UInt64 {
    let start = UInt64(index * Self.cluster)
    try writer.writeCompressed(content(count, seed: index).rawBytes, at: start)
    let extent = try extent(index)
    #expect(extent.kind == .packed)
    return extent.offset / UInt64(Self.cluster)
  }

  private func writePlain(_ index: Int) throws -> UInt64 {
    try writer.write(content(Self.cluster, seed: index).rawBytes, at: UInt64(index * Self.cluster))
    return try extent(index).offset / UInt64(Self.cluster)
  }

  private func extent(_ index: Int) throws -> Extent {
    var extents: [Extent] = []
    let start = UInt64(index * Self.cluster)
    _ = try disk.layers[0].map.map(start..<start + UInt64(Self.cluster), limit: 1, into: &extents)
    return try #require(extents.first)
  }

  /// Closes the image; it must be sound and have these clusters.
  private func finish(_ counts: [Int: Int]) throws {
    try writer.close()
    let check = QCOW2Checker(PagedBytes(try scratch.read("disk")))
    #expect(check.damages == [] && check.leaks == 0)
    for (index, count) in counts {
      let isSame = try disk.read(Self.cluster, at: UInt64(index * Self.cluster)) == content(count, seed: index)
      #expect(isSame, "cluster \(index)")
    }
  }

  @Test("what a row of packed clusters leaves of its last one is for those that fit into it, the tightest first")
  func leftovers() throws {
    let first = try pack(0, 2000)
    _ = try writePlain(1)
    let second = try pack(2, 2500)
    _ = try writePlain(3)
    #expect(second != first)
    // Room for about 2000 bytes in the first, 1500 in the second.
    #expect(try pack(4, 1800) == first)
    #expect(try pack(5, 1000) == second)
    #expect(try pack(6, 300) == second)
    // Nothing is left but a few bytes.
    let third = try pack(7, 3000)
    #expect(third != first && third != second)
    try finish([0: 2000, 1: 4096, 2: 2500, 3: 4096, 4: 1800, 5: 1000, 6: 300, 7: 3000])
  }

  @Test("a row goes on into the next cluster while that is free")
  func rows() throws {
    let places = try (0..<8).map { try pack($0, 2500) }
    let row = places[0]..<places[0] + 6
    #expect(places.allSatisfy(row.contains))
    try finish(Dictionary(uniqueKeysWithValues: (0..<8).map { ($0, 2500) }))
  }

  @Test("a cluster that was given back and holds plain data now takes no packed ones")
  func reused() throws {
    let first = try pack(0, 1000)
    try writer.flush()
    try writer.discard(0..<UInt64(Self.cluster))
    try writer.flush()
    #expect(try writePlain(1) == first)
    #expect(try pack(2, 1000) != first)
    try finish([1: 4096, 2: 1000])
  }

  @Test("an image of noise and text in turns has no gaps")
  func noGaps() throws {
    let unit = 64 << 10
    var bytes: [UInt8] = []
    var random = SeededGenerator(seed: 7)
    for _ in 0..<40 {
      bytes += (0..<unit).map { _ in UInt8.random(in: 0...255, using: &random) }
      bytes += (0..<unit).map { $0 < 20 << 10 ? UInt8.random(in: 0...255, using: &random) : 1 }
    }
    try scratch.write(bytes, to: "disk.raw")
    let conversion = Conversion("", compressed: true)
    try ConvertImageTests.convert("disk.raw", to: "disk.qcow2", in: scratch, conversion)
    // 40 clusters of noise, 40 units of 20 KiB, and the tables.
    let byteCount = try scratch.read("disk.qcow2").count
    #expect(byteCount <= (40 + 15 + 8) * unit)
    let image = try DiskImage.open(path: scratch.file("disk.qcow2"), OpenOptions(format: "qcow2"))
    let isSame = try image.read(bytes.count, at: 0) == bytes
    #expect(isSame)
  }
}
