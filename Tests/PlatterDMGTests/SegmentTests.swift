import PlatterCore
import PlatterDMG
import SystemPackage
import TestSupport
import Testing

@Suite("Images in several segments")
struct SegmentTests {
  let scratch: ScratchDirectory
  private let image = DMGBuilder(chunks: [
    .raw(1, sectors: 3), .zlib(2, sectors: 4), .zero(sectors: 2), .bzip2, .raw(3), .end,
  ])

  init() throws { scratch = try ScratchDirectory() }

  /// Cuts the data fork in parts, each with a trailer; the first has the property list.
  private func write(cuts: [Int], change: (Int, inout [UInt8]) -> Void = { _, _ in }) throws -> FilePath {
    let whole = image.build()
    let forkCount = image.partitions[0].chunks.reduce(0) { $0 + $1.payload.count }
    let list = Array(whole[forkCount..<whole.count - 512])
    let bounds = [0] + cuts + [forkCount]
    for number in 1..<bounds.count {
      var fork = Array(whole[bounds[number - 1]..<bounds[number]])
      var trailer = Array(whole.suffix(512))
      func set(_ offset: Int, _ value: [UInt8]) { trailer.replaceSubrange(offset..<offset + value.count, with: value) }
      set(16, bigEndian(UInt64(bounds[number - 1])))
      set(24, bigEndian(UInt64(0)) + bigEndian(UInt64(fork.count)))
      set(56, bigEndian(UInt32(number)) + bigEndian(UInt32(bounds.count - 1)))
      set(216, bigEndian(UInt64(fork.count)) + bigEndian(UInt64(number == 1 ? list.count : 0)))
      change(number, &trailer)
      if number == 1 { fork += list }
      let name = number == 1 ? "disk.dmg" : "disk.00\(number).dmgpart"
      try scratch.write(fork + trailer, to: name)
    }
    return scratch.file("disk.dmg")
  }

  private func open(_ path: FilePath, _ policy: ReferencePolicy) throws -> any ImageMap {
    let context = OpenContext(path: path, resolver: ReferenceResolver(policy))
    return try DMG.open(FileStore(path), context)
  }

  @Test(
    "the data forks follow one another, whatever chunk a cut goes through",
    arguments: [[100], [1536, 2000], [700, 3700]])
  func reads(cuts: [Int]) throws {
    let map = try open(try write(cuts: cuts), .siblings)
    #expect(try contents(map) == image.disk)
    #expect(try check(map).corruptions == 0)
    #expect(map.facts.specific?["segment-count"] == .unsigned(UInt64(cuts.count + 1)))
    #expect(map.facts.references.count == cuts.count)
  }

  @Test("without leave no other file is opened; facts need none")
  func policy() throws {
    let path = try write(cuts: [100])
    let error = #expect(throws: ImageError.self) { try open(path, .none) }
    #expect(error?.code == .forbidden)
    var context = OpenContext(path: path)
    context.isForFactsOnly = true
    let map = try DMG.open(FileStore(path), context)
    #expect(map.byteCount == UInt64(image.disk.count))
  }

  @Test("a missing segment is named")
  func missing() throws {
    let path = try write(cuts: [100]) { _, trailer in trailer.replaceSubrange(60..<64, with: bigEndian(UInt32(3))) }
    let error = #expect(throws: ImageError.self) { try open(path, .siblings) }
    #expect(error?.code == .notFound)
    #expect(error?.message.contains("segment 3") == true)
  }

  @Test("a segment of another image is refused")
  func stranger() throws {
    let path = try write(cuts: [100]) { number, trailer in if number == 2 { trailer[64] ^= 1 } }
    let error = #expect(throws: ImageError.self) { try open(path, .siblings) }
    #expect(error?.message.contains("belongs to another image") == true)
  }

  @Test("a segment in the wrong place is refused")
  func misplaced() throws {
    let path = try write(cuts: [100]) { number, trailer in if number == 2 { trailer[23] ^= 1 } }
    let error = #expect(throws: ImageError.self) { try open(path, .siblings) }
    #expect(error?.message.contains("begins at byte 0x65 of the data fork, not at 0x64") == true)
  }
}
