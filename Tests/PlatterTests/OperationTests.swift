import Platter
import PlatterCore
import PlatterQCOW2
import SystemPackage
import TestSupport
import Testing

/// Commit, rebase and resize on files, beside what the disks held before.
@Suite("Operations that write disks") struct OperationTests {
  private let scratch: ScratchDirectory

  init() throws { scratch = try ScratchDirectory() }

  private func open(_ name: String, writable: Bool = true, depth: Int? = nil) throws -> DiskImage {
    var options = OpenOptions()
    options.isWritable = writable
    options.writableDepth = depth
    return try DiskImage.open(scratch[name], options)
  }

  private func content(_ name: String) throws -> [UInt8] {
    let disk = try open(name, writable: false)
    return try disk.read(Int(disk.byteCount), at: 0)
  }

  /// An image of 4 KiB clusters: data of this byte, zeros and gaps.
  private func make(
    _ name: String, _ byte: UInt8, clusters: Int, seed: UInt64, over backing: String? = nil, version: UInt32 = 3
  ) throws {
    var random = SeededGenerator(seed: seed)
    var image = QCOW2Builder(byteCount: UInt64(clusters) * 4096 - 512, clusterBits: 12)
    image.version = version
    if let backing {
      image.backingName = Array(backing.utf8)
      image.backingFormat = "qcow2"
    }
    for index in 0..<clusters {
      switch Int.random(in: 0..<4, using: &random) {
      case 0: image.entries[index] = .data([UInt8](repeating: byte &+ UInt8(index), count: 4096))
      case 1 where version >= 3: image.entries[index] = .zero
      default: break
      }
    }
    try scratch.write(image.build().bytes, to: name)
  }

  private func expectSound(_ name: String) throws {
    let check = QCOW2Checker(PagedBytes(try scratch.read(name)))
    #expect(check.damages == [] && check.leaks == 0, "\(name): \(check.damages), \(check.leaks) leaks")
  }

  @Test(
    "commit moves what the overlay has, and empties it",
    arguments: 0..<10 as Range<UInt64>, [(20, 30), (30, 20), (25, 25)])
  func commit(seed: UInt64, sizes: (overlay: Int, backing: Int)) throws {
    try make("base", 1, clusters: sizes.backing, seed: seed)
    try make("top", 101, clusters: sizes.overlay, seed: seed + 1000, over: "base")
    let before = try content("top")
    try Commit(open("top", depth: 1)).run()
    let base = try content("base")
    #expect(base.count == max(sizes.overlay, sizes.backing) * 4096 - 512)
    #expect(Array(base.prefix(before.count)) == before)
    #expect(try content("top") == before)
    let top = try open("top", writable: false)
    var extents: [Extent] = []
    _ = try top.layers[0].map.map(0..<top.byteCount, limit: 9, into: &extents)
    #expect(extents.map(\.kind) == [.absent])
    for name in ["base", "top"] { try expectSound(name) }
  }

  @Test("commit through images between takes their bytes along", arguments: 0..<10 as Range<UInt64>)
  func commitDeep(seed: UInt64) throws {
    try make("base", 1, clusters: 30, seed: seed)
    // Shorter than its neighbours: what lies behind its end is zero.
    try make("middle", 51, clusters: 14, seed: seed + 500, over: "base")
    try make("top", 101, clusters: 25, seed: seed + 1000, over: "middle")
    let before = try content("top")
    #expect(Commit.depth(ofImageNamed: "base", in: try open("top", writable: false)) == 2)
    try Commit(open("top", depth: 2), depth: 2).run()
    #expect(Array(try content("base").prefix(before.count)) == before)
    #expect(try content("top") == before)
    try expectSound("base")
  }

  @Test("an overlay that keeps its bytes is not touched")
  func commitKeeping() throws {
    try make("base", 1, clusters: 20, seed: 1)
    try make("top", 101, clusters: 20, seed: 2, over: "base")
    let file = try scratch.read("top")
    var commit = try Commit(open("top", depth: 1))
    commit.keepsOverlay = true
    try commit.run()
    #expect(try scratch.read("top") == file)
  }

  @Test(
    "rebase keeps what the guest sees", arguments: 0..<10 as Range<UInt64>, [UInt32(2), 3])
  func rebase(seed: UInt64, version: UInt32) throws {
    try make("old", 1, clusters: 12 + Int(seed), seed: seed, version: version)
    try make("new", 31, clusters: 24 - Int(seed), seed: seed + 500, version: version)
    try make("top", 101, clusters: 20, seed: seed + 1000, over: "old", version: version)
    let before = try content("top")
    try Rebase(open("top"), onto: .init(name: Array("new".utf8), format: "qcow2"))
      .run(newBase: open("new", writable: false))
    #expect(try open("top", writable: false).layers[0].map.backing?.displayName == "new")
    #expect(try content("top") == before)
    try expectSound("top")
    try Rebase(open("top"), onto: nil).run(newBase: nil)
    #expect(try open("top", writable: false).layers.count == 1)
    #expect(try content("top") == before)
    try expectSound("top")
  }

  @Test("renaming alone changes the name alone")
  func rename() throws {
    try make("old", 1, clusters: 12, seed: 1)
    try make("new", 31, clusters: 12, seed: 2)
    try make("top", 101, clusters: 12, seed: 3, over: "old")
    let length = try scratch.read("top").count
    try Rebase(open("top"), onto: .init(name: Array("new".utf8), format: "qcow2")).renameOnly()
    #expect(try scratch.read("top").count == length)
    let disk = try open("top", writable: false)
    #expect(disk.layers[1].name.hasSuffix("new"))
    try expectSound("top")
  }

  @Test("resize: by and to, up and down", arguments: ["raw", "qcow2"])
  func resize(format: String) throws {
    if format == "raw" {
      try scratch.write([UInt8](repeating: 7, count: 10_240), to: "disk")
    } else {
      var image = QCOW2Builder(byteCount: 10_240, clusterBits: 12)
      for index in 0..<3 { image.entries[index] = .data([UInt8](repeating: 7, count: 4096)) }
      try scratch.write(image.build().bytes, to: "disk")
    }
    var options = OpenOptions(format: format)
    options.isWritable = true
    func apply(_ change: Resize.Change, mayShrink: Bool = false) throws {
      var resize = Resize(try DiskImage.open(scratch["disk"], options), change)
      resize.mayShrink = mayShrink
      try resize.run()
    }
    #expect(throws: ImageError.self) { try apply(.to(1024)) }
    #expect(throws: ImageError.self) { try apply(.shrinking(by: 20_000), mayShrink: true) }
    try apply(.shrinking(by: 5120), mayShrink: true)
    try apply(.growing(by: 100_000_256))
    let disk = try DiskImage.open(scratch["disk"], options)
    #expect(disk.byteCount == 100_005_376)
    #expect(try disk.read(9000, at: 0) == [UInt8](repeating: 7, count: 5120) + [UInt8](repeating: 0, count: 3880))
    if format == "qcow2" { try expectSound("disk") }
  }

  @Test("growth over a longer backing image reads zeros", arguments: [UInt32(2), 3])
  func growOverBacking(version: UInt32) throws {
    try make("base", 1, clusters: 40, seed: 1, version: version)
    try make("top", 101, clusters: 10, seed: 2, over: "base", version: version)
    let before = try content("top")
    try Resize(open("top"), .to(30 * 4096)).run()
    #expect(try content("top") == before + [UInt8](repeating: 0, count: 30 * 4096 - before.count))
    try expectSound("top")
  }
}
