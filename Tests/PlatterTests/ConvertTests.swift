import Platter
import PlatterCore
import SystemPackage
import TestSupport
import Testing

@Suite struct ConvertTests {
  /// A disk with data, a hole and zeros written as data.
  static let content: [UInt8] = {
    var bytes = [UInt8](repeating: 0, count: 3 << 20)
    var random = SeededGenerator(seed: 0x5eed)
    for index in 0..<(700 << 10) { bytes[index] = UInt8.random(in: 0...255, using: &random) }
    for index in (2 << 20)..<(2 << 20) + 5000 { bytes[index] = 0xab }
    return bytes
  }()

  @Test("a raw disk in memory is read back whole and in parts")
  func readingMemory() throws {
    var options = OpenOptions(format: "raw")
    options.references = .none
    let disk = try DiskImage.open(MemoryStore(Self.content), options)
    #expect(disk.byteCount == 3 << 20)
    #expect(try disk.read(3 << 20, at: 0) == Self.content)
    #expect(try disk.read(100, at: (2 << 20) + 4990) == Array(Self.content[(2 << 20) + 4990..<(2 << 20) + 5090]))
    #expect(throws: ImageError.self) { try disk.read(2, at: 3 << 20 - 1) }
  }

  /// As with qemu-img, which does not look at the backing image either.
  @Test("measured as an overlay, all of a disk takes space", arguments: [true, false])
  func measuring(isOverlay: Bool) throws {
    let file = try FileStore.temporary()
    try file.resize(to: 1 << 20)
    let disk = try DiskImage.open(file, OpenOptions(format: "raw"))
    let request = CreationRequest(byteCount: 0, options: isOverlay ? ["backing_file": "nowhere"] : [:])
    let measured = try Measure(source: disk, format: TargetFormats.named("qcow2"), request: request).run()
    #expect(measured.fullyAllocated - measured.required == (isOverlay ? 0 : 1 << 20))
  }
}
