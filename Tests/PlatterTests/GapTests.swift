import Platter
import PlatterCore
import SystemPackage
import TestSupport
import Testing

/// `convert -S`: which zeros among data become holes.
@Suite struct GapTests {
  private static let sector = 512

  /// Sectors of data, and between them ever longer zeros: 1, 2, 3 … sectors.
  private static let content: [UInt8] = {
    var bytes = [UInt8](repeating: 0, count: 1 << 20)
    var place = 0
    for count in 1... {
      guard place < 2047 else { break }
      bytes.replaceSubrange(place * sector..<(place + 1) * sector, with: [UInt8](repeating: 0x11, count: sector))
      place += 1 + count
    }
    bytes.replaceSubrange(2047 * sector..<2048 * sector, with: [UInt8](repeating: 0x11, count: sector))
    return bytes
  }()

  /// The rule in other words: zeros in whole aligned steps, the largest power of two in the length that was asked for,
  /// are holes where they are as long as that.
  private static func holes(_ shortest: Int) -> [Range<Int>] {
    var step = sector
    while step * 2 <= shortest { step *= 2 }
    var found: [Range<Int>] = []
    for start in stride(from: 0, to: content.count, by: step)
    where content[start..<start + step].allSatisfy({ $0 == 0 }) {
      if let last = found.last, last.upperBound == start {
        found[found.count - 1] = last.lowerBound..<start + step
      } else {
        found.append(start..<start + step)
      }
    }
    return found.filter { $0.count >= shortest }
  }

  private func convert(_ shortest: Int, to target: ConvertTarget, in folder: ScratchDirectory) throws {
    try folder.write(Self.content, to: "disk.raw")
    var options = Convert.Options()
    options.workerCount = 2
    options.sparseByteCount = shortest
    try Convert(
      sources: [try DiskImage.open(folder["disk.raw"], OpenOptions(format: "raw"))], target: target, options: options
    ).run()
  }

  /// A length that is no power of two was rounded down to one.
  @Test(
    "in an image of small clusters zeros are left out from this length on",
    arguments: [512, 1024, 1536, 2048, 3072, 4096, 5120, 8192, 12288, 20480, 65536])
  func units(shortest: Int) throws {
    let folder = try ScratchDirectory()
    let create = Create(
      folder.file("disk.qcow2"), format: try TargetFormats.named("qcow2"), byteCount: nil,
      options: ["cluster_size": "512"])
    try convert(shortest, to: .newImage(create), in: folder)
    let image = try DiskImage.open(folder["disk.qcow2"], OpenOptions(format: "qcow2"))
    #expect(try image.read(Self.content.count, at: 0) == Self.content)
    var found: [Range<Int>] = []
    var position: UInt64 = 0
    while position < image.byteCount {
      var runs: [Extent] = []
      position = try image.layers[0].map.map(position..<image.byteCount, limit: 64, into: &runs)
      for run in runs where run.kind == .absent {
        if let last = found.last, last.upperBound == Int(run.start) {
          found[found.count - 1] = last.lowerBound..<Int(run.end)
        } else {
          found.append(Int(run.start)..<Int(run.end))
        }
      }
    }
    #expect(found == Self.holes(shortest))
  }

  @Test("in a raw disk they become holes from this length on", arguments: [4096, 5120, 8192, 12288, 20480])
  func holes(shortest: Int) throws {
    let folder = try ScratchDirectory()
    try convert(shortest, to: .newFile(folder.file("copy.raw")), in: folder)
    #expect(try folder.read("copy.raw") == Self.content)
    let store = try FileStore(folder.file("copy.raw"))
    var found: [Range<Int>] = []
    var position: UInt64 = 0
    while position < UInt64(Self.content.count) {
      let segment = try store.segment(at: position, limit: .max >> 1)
      if segment.isHole { found.append(Int(position)..<Int(position + segment.byteCount)) }
      position += segment.byteCount
    }
    #expect(found == Self.holes(shortest))
  }

  /// qemu-img 7.2 makes its first hole there. [observed]
  @Test(
    "the first hole is where qemu-img makes it",
    arguments: zip([1024, 1536, 2048, 3072, 4096, 5120, 12288], [6, 10, 16, 36, 56, 136, 528]))
  func observed(shortest: Int, firstSector: Int) {
    #expect(Self.holes(shortest).first?.lowerBound == firstSector * Self.sector)
  }
}
