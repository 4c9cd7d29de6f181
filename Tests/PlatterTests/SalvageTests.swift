import Platter
import PlatterCore
import Synchronization
import SystemPackage
import TestSupport
import Testing

/// Reading what can be read.
@Suite struct SalvageTests {
  /// What was told of.
  private final class Losses: Sendable {
    private let losses = Mutex<[Salvage.Loss]>([])
    var all: [Range<UInt64>] {
      losses.withLock { losses in losses.map(\.range).sorted { $0.lowerBound < $1.lowerBound } }
    }
    var areOfMaps: Bool { losses.withLock { losses in losses.allSatisfy(\.isMap) } }
    var salvage: Salvage { Salvage { loss in self.losses.withLock { $0.append(loss) } } }
  }

  private func convert(_ image: DiskImage, _ losses: Losses) throws -> [UInt8] {
    let folder = try ScratchDirectory()
    try Convert(sources: [image.salvaging(losses.salvage)], target: .newFile(folder.file("out"))).run()
    return try folder.read("out")
  }

  @Test("a file that ends early is read up to the sector where it does, and the rest is zeros")
  func endOfFile() throws {
    let bytes = [UInt8](repeating: 5, count: 1 << 20)
    let store = FaultyStore(MemoryStore(bytes, name: "disk.raw"), .endReads(at: 700_000))
    let image = try DiskImage.open(store, OpenOptions(format: "raw"))
    let losses = Losses()
    let read = try convert(image, losses)
    let end = 700_000 / 512 * 512
    #expect(read == [UInt8](repeating: 5, count: end) + [UInt8](repeating: 0, count: bytes.count - end))
    // A loss is told of once for each piece of the copy that it lies in.
    #expect(losses.all.first?.lowerBound == UInt64(end))
    #expect(losses.all.reduce(0) { $0 + $1.upperBound - $1.lowerBound } == UInt64(bytes.count - end))
    #expect(!losses.areOfMaps)
  }

  @Test("a packed unit that cannot be decoded is lost whole, its neighbours are not")
  func packedUnit() throws {
    var builder = QCOW2Builder(byteCount: 4 << 16)
    let unit = [UInt8](repeating: 3, count: 65536)
    builder.entries[0] = .data(unit)
    builder.entries[1] = .packed([0xff, 0xff, 0xff, 0xff])
    builder.entries[2] = .packed(deflateStored(Array(unit.prefix(60_000)) + [UInt8](repeating: 0, count: 5536)))
    let image = try DiskImage.open(
      MemoryStore(builder.build().bytes, name: "disk.qcow2", isWritable: false), OpenOptions(format: "qcow2"))
    let losses = Losses()
    let read = try convert(image, losses)
    #expect(losses.all == [65536..<2 * 65536])
    let zeros = [UInt8](repeating: 0, count: 65536)
    #expect(read == unit + zeros + unit.prefix(60_000) + zeros.prefix(5536) + zeros)
    #expect(throws: ImageError.self) { try image.read(4 << 16, at: 0) }
  }

  @Test("where a table cannot be read, its clusters are lost and those before it are not")
  func table() throws {
    var builder = QCOW2Builder(byteCount: 1 << 30)
    builder.entries[1] = .data([UInt8](repeating: 3, count: 65536))
    builder.entries[8192 + 1] = .data([UInt8](repeating: 4, count: 65536))
    var bytes = builder.build().bytes
    // The second L1 entry names a place past the end of the file.
    let l1 = bytes[40..<48].reduce(0) { $0 << 8 | Int($1) }
    bytes.replaceSubrange(l1 + 8..<l1 + 16, with: [0x80, 0, 0x7f, 0, 0, 0, 0, 0])
    let image = try DiskImage.open(
      MemoryStore(bytes, name: "disk.qcow2", isWritable: false), OpenOptions(format: "qcow2"))
    let losses = Losses()
    let salvaged = image.salvaging(losses.salvage)
    #expect(try salvaged.read(65536, at: 65536) == [UInt8](repeating: 3, count: 65536))
    #expect(try salvaged.read(65536, at: 512 << 20) == [UInt8](repeating: 0, count: 65536))
    #expect(losses.all.count == 1)
    #expect(losses.all.first?.lowerBound == 512 << 20)
    #expect(losses.all.first?.upperBound == (512 << 20) + 65536)
    #expect(losses.areOfMaps)
  }

  @Test("a loss is told of once, though a stream reads everything twice")
  func twice() throws {
    let folder = try ScratchDirectory()
    let store = FaultyStore(
      MemoryStore([UInt8](repeating: 5, count: 1 << 16), name: "disk.raw"), .endReads(at: 40_960))
    let image = try DiskImage.open(store, OpenOptions(format: "raw"))
    let losses = Losses()
    try StreamedImageTests.send(
      [image.salvaging(losses.salvage)], to: "disk.qcow2", in: folder, Conversion("", compressed: true))
    #expect(losses.all == [40_960..<65_536])
    let made = try ConvertImageTests.open(folder.file("disk.qcow2"), format: "qcow2")
    #expect(try made.read(1 << 16, at: 0).prefix(40_960).allSatisfy { $0 == 5 })
  }

  @Test("dd leaves nothing where it fails, and the file that was there as it was")
  func failedDD() throws {
    let folder = try ScratchDirectory()
    try folder.write([1, 2, 3], to: "out")
    let store = FaultyStore(MemoryStore([UInt8](repeating: 5, count: 4 << 20)), .endReads(at: 3 << 20))
    let image = try DiskImage.open(store, OpenOptions(format: "raw"))
    for name in ["out", "new"] {
      for format in ["raw", "qcow2"] {
        #expect(throws: ImageError.self) {
          try DD(image, to: folder.file(name), format: try TargetFormats.named(format)).run()
        }
      }
    }
    #expect(namesInFolder(folder.path) == ["out"])
    #expect(try folder.read("out") == [1, 2, 3])
  }
}

/// Compressed copies into images that are there.
@Suite struct PackedOverwriteTests {
  private func pattern(_ seed: UInt64, _ count: Int) -> [UInt8] {
    var random = SeededGenerator(seed: seed)
    var bytes = [UInt8](repeating: 0, count: count)
    var position = 0
    while position < count {
      let end = min(count, position + Int.random(in: 1...200_000, using: &random))
      switch Int.random(in: 0..<3, using: &random) {
      case 0: break
      case 1: for index in position..<end { bytes[index] = UInt8(truncatingIfNeeded: index / 91) }
      default: for index in position..<end { bytes[index] = UInt8.random(in: 0...255, using: &random) }
      }
      position = end
    }
    return bytes
  }

  @Test(
    "whatever was there is replaced, the rest stays, and the snapshot reads as before", .requires(.qemuImg),
    arguments: ["", "cluster_size=4k", "extended_l2=on", "compat=0.10", "refcount_bits=8,compression_type=zstd"],
    [1, 2] as [UInt64])
  func replaced(_ options: String, seed: UInt64) throws {
    let folder = try ScratchDirectory()
    let old = pattern(seed, 3 << 20)
    try folder.write(old, to: "old.raw")
    let arguments = options.isEmpty ? [] : ["-o", options]
    for (round, packs) in [false, true].enumerated() {
      let name = "disk\(round).qcow2"
      let made = try run(
        Tool.qemuImg.path ?? "qemu-img",
        ["convert", "-f", "raw", "-O", "qcow2"] + (packs ? ["-c"] : []) + arguments + ["old.raw", name],
        in: folder.path)
      #expect(made.succeeded, "\(made.errorText)")
      try Tool.qemuImg.succeed("snapshot", "-c", "before", name, in: folder.path)
      let new = pattern(seed + 100, (2 << 20) + 1536)
      try folder.write(new, to: "new.raw")
      try overwrite(folder.file(name), with: folder.file("new.raw"))
      // -U: a program that another test is starting may hold our descriptor, and with it the lock, until it runs.
      let check = try Tool.qemuImg("check", "-U", name, in: folder.path)
      #expect(check.status == 0, "\(check.outputText)\(check.errorText)")
      try Tool.qemuImg.succeed("convert", "-U", "-O", "raw", name, "after.raw", in: folder.path)
      #expect(try folder.read("after.raw") == new + old[new.count...])
      try Tool.qemuImg.succeed("convert", "-U", "-l", "before", "-O", "raw", name, "before.raw", in: folder.path)
      #expect(try folder.read("before.raw") == old)
    }
  }

  /// The target is closed, and its lock gone, when this returns.
  private func overwrite(_ target: FilePath, with source: FilePath) throws {
    var options = Convert.Options()
    options.isCompressed = true
    options.workerCount = 3
    let target = try ConvertImageTests.open(target, format: "qcow2", isWritable: true)
    try Convert(
      sources: [try ConvertImageTests.open(source, format: "raw")], target: .image(target, isZero: false),
      options: options
    ).run()
  }
}
