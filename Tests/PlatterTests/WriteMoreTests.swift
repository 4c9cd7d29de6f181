import Platter
import PlatterCore
import PlatterQCOW2
import SystemPackage
import TestSupport
import Testing

/// Zeros that stand, space that is given in advance, the room for a machine's state, and disks over disks.
@Suite("Further requests of the writer") struct WriteMoreTests {
  private let scratch: ScratchDirectory

  init() throws { scratch = try ScratchDirectory() }

  private func open(_ name: String, writable: Bool = true) throws -> DiskImage {
    var options = OpenOptions()
    options.isWritable = writable
    // Images are looked at while their writers live.
    options.locking = .shared
    return try DiskImage.open(scratch[name], options)
  }

  private func content(_ name: String) throws -> [UInt8] {
    let disk = try open(name, writable: false)
    return try disk.read(Int(disk.byteCount), at: 0)
  }

  /// What the image itself says, as kinds and lengths.
  private func own(_ name: String) throws -> [String] {
    let disk = try open(name, writable: false)
    var extents: [Extent] = []
    _ = try disk.layers[0].map.map(0..<disk.byteCount, limit: 1000, into: &extents)
    return extents.map { "\($0.kind) \($0.byteCount)" }
  }

  private func expectSound(_ name: String) throws {
    let check = QCOW2Checker(PagedBytes(try scratch.read(name)))
    #expect(check.damages == [] && check.leaks == 0, "\(name): \(check.damages), \(check.leaks) leaks")
  }

  /// 4 KiB clusters, each of one byte.
  private func make(
    _ name: String, _ bytes: [Int: UInt8], clusters: Int, over backing: String? = nil, version: UInt32 = 3
  ) throws {
    var image = QCOW2Builder(byteCount: UInt64(clusters) * 4096, clusterBits: 12)
    image.version = version
    if let backing {
      image.backingName = Array(backing.utf8)
      image.backingFormat = "qcow2"
    }
    for (index, byte) in bytes { image.entries[index] = .data([UInt8](repeating: byte, count: 4096)) }
    try scratch.write(image.build().bytes, to: name)
  }

  // MARK: Long rows of writes

  @Test(
    "a long row of writes makes the file longer seldom, and its store knows of a flush that will come",
    arguments: [OpenOptions.CacheMode.writeback, .unsafe])
  func longRow(cache: OpenOptions.CacheMode) throws {
    let image = QCOW2Builder(byteCount: 128 << 20, clusterBits: 16).build()
    let file = try FileStore(scratch.write(image.bytes, to: "long"), FileStore.Options(isWritable: true))
    let store = FaultyStore(file)
    let map = try QCOW2.open(store, OpenContext(isWritable: true))
    let disk = DiskImage(layers: [DiskImage.Layer(name: "long", map: map)])
    let writer = try DiskWriter(disk, cache: cache, writesMuch: true)
    let pieces = (1...128).map { [UInt8](repeating: $0, count: 1 << 20) }
    for (index, piece) in pieces.enumerated() { try writer.write(piece.rawBytes, at: UInt64(index) << 20) }
    #expect(store.counts.resizes < 20)
    try writer.close()
    #expect(store.counts.flushesExpected == (cache == .unsafe ? 0 : 1))
    // Nothing stays behind the last cluster.
    #expect(try file.byteCount() < 129 << 20)
    let written = try open("long", writable: false)
    for (index, piece) in pieces.enumerated() { #expect(try written.read(1 << 20, at: UInt64(index) << 20) == piece) }
    #expect(written.byteCount == 128 << 20)
  }

  @Test("a packed cluster where another one was is not taken for that one")
  func reusedPlace() throws {
    try make("disk", [:], clusters: 8)
    let disk = try open("disk")
    let writer = try DiskWriter(disk)
    var places: [UInt64] = []
    for (index, byte) in [UInt8(1), 2].enumerated() {
      let start = UInt64(index) * 4096
      try writer.writeCompressed([UInt8](repeating: byte, count: 4096).rawBytes, at: start)
      // A part of a cluster is read from the whole one, which is kept.
      var part = [UInt8](repeating: 0, count: 100)
      try part.withMutableRawBytes { bytes throws(ImageError) in try writer.read(into: &bytes, at: start + 50) }
      #expect(part == [UInt8](repeating: byte, count: 100))
      var extents: [Extent] = []
      _ = try disk.layers[0].map.map(start..<start + 4096, limit: 1, into: &extents)
      places += extents.map(\.offset)
      try writer.flush()
      try writer.discard(start..<start + 4096)
      try writer.flush()
    }
    #expect(places.count == 2 && places[0] == places[1])
    try writer.close()
    try expectSound("disk")
  }

  /// What could not be linked was given back twice: the next publish found clusters that were free already, called the
  /// image damaged, and ended the writer.
  @Test("space in advance stands a disk that fails once", arguments: FaultyStore.Request.allCases, [9, 14])
  func failingPreallocation(request: FaultyStore.Request, clusterBits: Int) throws {
    let clusters = 300
    var image = QCOW2Builder(byteCount: UInt64(clusters) << clusterBits, clusterBits: clusterBits)
    image.hasExtendedL2 = clusterBits == 14
    let built = PagedBytes(image.build().bytes)
    for nth in 1... {
      let store = PagedStore(built, name: "disk")
      let faulty = FaultyStore(store, .failOnce(request, nth: nth))
      // Opening reads, and may fail already.
      guard let map = try? QCOW2.open(faulty, OpenContext(isWritable: true)) else { continue }
      let disk = DiskImage(layers: [DiskImage.Layer(name: "disk", map: map)])
      guard let writer = try? DiskWriter(disk) else { continue }
      try? writer.preallocate(0..<disk.byteCount, .metadata)
      // Takes what the failed request has given back.
      let payload = [UInt8](repeating: 7, count: 1 << (clusterBits + 1))
      do throws(ImageError) {
        try writer.write(payload.rawBytes, at: 0)
        try writer.close()
      } catch {
        // Nobody knows what is on a disk after a write or flush that failed in a publish.
        #expect(request != .read && error.code == .io, "\(request) \(nth): \(error)")
      }
      #expect(QCOW2Checker(store.bytes, countsLeaks: false).damages == [], "\(request) \(nth)")
      let met = faulty.counts
      if nth > [.read: met.reads, .write: met.writes][request] ?? met.flushes { return #expect(nth > 2) }
    }
  }

  /// A cluster of subclusters that a snapshot shares is copied whole when its end gets space, and what the guest had in its
  /// start was not: it read as zeros afterwards.
  @Test(
    "space in advance behind bytes that a snapshot shares leaves them", arguments: Preallocation.allCases,
    [true, false])
  func preallocationBesideShared(mode: Preallocation, isExtended: Bool) throws {
    let old = 36 << 10
    var image = QCOW2Builder(byteCount: UInt64(old), clusterBits: 16)
    image.hasExtendedL2 = isExtended
    try scratch.write(image.build().bytes, to: "disk")
    let writer = try DiskWriter(open("disk"))
    try writer.write([UInt8](repeating: 5, count: old).rawBytes, at: 0)
    try writer.restructure { (map, barrier) throws(ImageError) in
      _ = try (map as? any SnapshotMap)?.createSnapshot(named: "s", seconds: 1, nanoseconds: 2, barrier)
    }
    try writer.resize(to: 1 << 20)
    try writer.preallocate(UInt64(old)..<1 << 20, mode)
    try writer.close()
    let bytes = try content("disk")
    #expect(bytes[..<old].allSatisfy { $0 == 5 })
    #expect(bytes[old...].allSatisfy { $0 == 0 })
    try expectSound("disk")
  }

  // MARK: Zeros

  /// A writer left alone what read as zeros already, so zeros written into a part of a cluster came and went with the
  /// backing image.
  @Test("zeros written over a backing image are the overlay's own", arguments: [UInt32(2), 3])
  func standingZeros(version: UInt32) throws {
    try make("base", [:], clusters: 4, version: version)
    try make("other", [0: 9, 1: 9, 2: 9, 3: 9], clusters: 4, version: version)
    try make("top", [:], clusters: 4, over: "base", version: version)
    let writer = try DiskWriter(open("top"))
    try writer.zero(1000..<9000, mayUnmap: true)
    try writer.close()
    try Rebase(open("top"), onto: .init(name: Array("other".utf8), format: "qcow2")).renameOnly()
    let bytes = try content("top")
    #expect(bytes[1000..<9000].allSatisfy { $0 == 0 })
    #expect(bytes[12288...].allSatisfy { $0 == 9 })
    try expectSound("top")
  }

  @Test("a part of a cluster that reads as zeros anyway becomes a zero cluster, one with bytes does not")
  func partialZeros() throws {
    try make("base", [2: 5], clusters: 4)
    try make("top", [1: 7], clusters: 4, over: "base")
    let writer = try DiskWriter(open("top"))
    for start: UInt64 in [100, 4196, 8292] { try writer.zero(start..<start + 50, mayUnmap: false) }
    try writer.close()
    #expect(try own("top") == ["zero 4096", "data 4096", "data 4096", "absent 4096"])
    var expected = [UInt8](repeating: 0, count: 16384)
    for index in 4096..<8192 { expected[index] = 7 }
    for index in 8192..<12288 { expected[index] = 5 }
    for start in [4196, 8292] { for index in start..<start + 50 { expected[index] = 0 } }
    #expect(try content("top") == expected)
    try expectSound("top")
  }

  // MARK: Space in advance

  @Test("a disk grows with its new space settled", arguments: [Preallocation.metadata, .falloc, .full], [false, true])
  func grow(mode: Preallocation, hasBacking: Bool) throws {
    try make("base", [0: 3, 9: 3], clusters: 20)
    try make("top", [1: 7], clusters: 5, over: hasBacking ? "base" : nil)
    let before = try content("top")
    let writer = try DiskWriter(open("top"))
    try writer.resize(to: 15 * 4096)
    try writer.preallocate(5 * 4096..<15 * 4096, mode)
    try writer.close()
    #expect(try content("top") == before + [UInt8](repeating: 0, count: 10 * 4096))
    let disk = try open("top", writable: false)
    var extents: [Extent] = []
    _ = try disk.layers[0].map.map(5 * 4096..<disk.byteCount, limit: 100, into: &extents)
    #expect(extents.allSatisfy(\.hasOffset) && extents.allSatisfy { $0.kind == .data })
    try expectSound("top")
  }

  @Test("a raw disk has no tables to fill in advance")
  func rawMetadata() throws {
    try scratch.write([1, 2, 3], to: "disk")
    var options = OpenOptions(format: "raw")
    options.isWritable = true
    let writer = try DiskWriter(try DiskImage.open(scratch["disk"], options))
    #expect(!writer.supports(.metadata) && writer.supports(.falloc) && writer.supports(.full))
    try writer.resize(to: 100_000)
    try writer.preallocate(3..<100_000, .full)
    try writer.close()
    #expect(try scratch.read("disk") == [1, 2, 3] + [UInt8](repeating: 0, count: 99_997))
  }

  // MARK: Machine state

  @Test("a machine's state lies behind the disk, whatever the disk's size", arguments: [1, 5, 512, 513])
  func machineState(clusters: Int) throws {
    try make("disk", [0: 3], clusters: clusters)
    let before = try content("disk")
    let image = try open("disk")
    let map = try #require(image.layers[0].map as? any MachineStateMap)
    // One L1 entry covers 512 clusters.
    let start = map.machineStateOffset
    #expect(start == UInt64((clusters + 511) / 512 * 512) * 4096)
    var layer = image.layers[0]
    layer.map = try map.machineState()
    let state = DiskImage(layers: [layer])
    let disk = try DiskWriter(image)
    let room = try DiskWriter(state)
    let bytes = [UInt8](repeating: 0xaa, count: 10_000)
    for offset: UInt64 in [100, 3 << 20] { try room.write(bytes.rawBytes, at: start + offset) }
    try disk.write([UInt8](repeating: 4, count: 100).rawBytes, at: 50)
    try room.flush()
    try disk.close()
    #expect(try content("disk") == before[..<50] + [UInt8](repeating: 4, count: 100) + before[150...])
    let again = try open("disk", writable: false)
    let reader = try #require(again.layers[0].map as? any MachineStateMap)
    layer.map = try reader.machineState()
    let saved = DiskImage(layers: [layer])
    #expect(
      try saved.read(10_200, at: start) == [UInt8](repeating: 0, count: 100) + bytes + [UInt8](repeating: 0, count: 100)
    )
    #expect(try saved.read(10_000, at: start + 3 << 20) == bytes)
    try expectSound("disk")
  }

  // MARK: Disks over disks

  @Test("a temporary overlay takes all writes, and the image keeps every byte")
  func temporaryOverlay() throws {
    try make("disk", [1: 7, 3: 8], clusters: 5)
    let file = try scratch.read("disk")
    let over = try open("disk", writable: false).withTemporaryOverlay()
    let writer = try DiskWriter(over)
    try writer.write([UInt8](repeating: 1, count: 5000).rawBytes, at: 6000)
    try writer.flush()
    var expected = try content("disk")
    for index in 6000..<11000 { expected[index] = 1 }
    #expect(try over.read(Int(over.byteCount), at: 0) == expected)
    try writer.close()
    #expect(try scratch.read("disk") == file)
  }

  @Test("what is copied up is the overlay's own, zeros too, and nothing else is")
  func copyUp() throws {
    try make("base", [1: 7, 3: 8], clusters: 8)
    try make("top", [3: 9], clusters: 8, over: "base")
    let before = try content("top")
    let image = try open("top")
    let writer = try DiskWriter(image)
    try image.copyUp(5000..<13000, writer)
    try image.copyUp(20000..<20000, writer)
    try writer.close()
    #expect(try own("top") == ["absent 4096", "data 4096", "zero 4096", "data 4096", "absent 16384"])
    #expect(try content("top") == before)
    try expectSound("top")
  }

  @Test("rebase compresses what it must keep", arguments: [0, 1, 3])
  func compressedRebase(seed: Int) throws {
    try make("old", [0: 1, 2: 2, 3: 3, 6: 9], clusters: 8)
    try make("new", seed == 0 ? [:] : [0: 1, 1: 5, 3: UInt8(seed)], clusters: 7)
    try make("top", [5: 6], clusters: 9, over: "old")
    let before = try content("top")
    var rebase = Rebase(try open("top"), onto: .init(name: Array("new".utf8), format: "qcow2"))
    rebase.isCompressed = true
    try rebase.run(newBase: try open("new", writable: false))
    #expect(try content("top") == before)
    #expect(try own("top").contains { $0.hasPrefix("packed") })
    try expectSound("top")
  }

  // MARK: Nodes

  @Test("the caller's word on the backing image goes before the image's own")
  func backingNode() throws {
    try make("base", [0: 1], clusters: 2)
    try make("other", [0: 2], clusters: 2)
    try make("top", [1: 7], clusters: 2, over: "base")
    let top = scratch["top"]
    func first(_ more: [String: String]) throws -> UInt8 {
      let node = ["driver": "qcow2", "file.filename": top].merging(more) { $1 }
      return try DiskImage.open(node: node, OpenOptions(references: .any)).read(1, at: 0)[0]
    }
    #expect(try first([:]) == 1)
    #expect(try first(["backing.driver": "qcow2"]) == 1)
    #expect(try first(["backing.file.filename": scratch["other"]]) == 2)
    #expect(try first(["backing.driver": "qcow2", "backing.file.filename": scratch["other"]]) == 2)
    #expect(try first(["backing": ""]) == 0)
    #expect(throws: ImageError.self) { try first(["backing.driver": "foo"]) }
    // Another name for the file itself, where QEMU's test filter stands before it.
    #expect(
      try first(["file.driver": "blkdebug", "file.image.filename": top, "file.align": "4k", "file.filename": top]) == 1)
    #expect(throws: ImageError.self) {
      try first(["file.driver": "blkdebug", "file.image.filename": top, "file.config": "rules"])
    }
  }

  @Test("null-co is a disk of zeros")
  func nullDisk() throws {
    let disk = try DiskImage.open(node: ["driver": "null-co", "size": "0x10000"], OpenOptions())
    #expect(disk.formatName == "null-co" && disk.byteCount == 65536)
    #expect(try disk.read(100, at: 65_000) == [UInt8](repeating: 0, count: 100))
  }

  @Test("a bench writes each place once, starting over at the disk's beginning", arguments: [0, 3])
  func bench(flushInterval: UInt64) throws {
    try scratch.write([UInt8](repeating: 0, count: 4096), to: "disk")
    var options = OpenOptions(format: "raw")
    options.isWritable = true
    let image = try DiskImage.open(scratch["disk"], options)
    let writer = try DiskWriter(image)
    var bench = Bench(image, writer: writer)
    bench.byteCount = 512
    bench.stepByteCount = 1024
    bench.offset = 2048
    bench.requestCount = 3
    bench.pattern = 6
    bench.depth = 2
    bench.flushInterval = flushInterval
    _ = try bench.run()
    try writer.close()
    let expected = [6, 0, 0, 0, 6, 0, 6, 0].flatMap { [UInt8](repeating: $0, count: 512) }
    #expect(try scratch.read("disk") == expected)
    bench.byteCount = 4097
    #expect(throws: ImageError.self) { try bench.run() }
  }
}
