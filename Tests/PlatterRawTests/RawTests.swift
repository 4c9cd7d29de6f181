import PlatterCore
import PlatterRaw
import Testing

@Suite struct RawTests {
  private func open(_ byteCount: Int, _ options: [String: String] = [:]) throws(ImageError) -> any ImageMap {
    try Raw.open(MemoryStore([UInt8](repeating: 1, count: byteCount), name: "disk.raw"), OpenContext(options: options))
  }

  @Test("a raw image is its file, byte for byte, of any size", arguments: [0, 1, 511, 512, 100_001])
  func identity(byteCount: Int) throws {
    let map = try open(byteCount)
    #expect(map.byteCount == UInt64(byteCount))
    guard byteCount > 1 else { return }
    var extents: [Extent] = []
    #expect(try map.map(1..<UInt64(byteCount), limit: 1, into: &extents) == UInt64(byteCount))
    #expect(
      extents == [.data(start: 1, byteCount: UInt64(byteCount) - 1, store: 0, offset: 1, isSparse: true)])
  }

  @Test(
    "offset and size pick a part",
    arguments: [
      (["offset": "512"], 512, 3584), (["offset": "1k", "size": "2K"], 1024, 2048), (["size": "7"], 0, 7),
      (["size": "7b"], 0, 7), (["offset": "4096"], 4096, 0), (["offset": "1024", "size": "3072"], 1024, 3072),
    ] as [([String: String], UInt64, UInt64)])
  func part(options: [String: String], offset: UInt64, byteCount: UInt64) throws {
    let map = try open(4096, options)
    #expect(map.byteCount == byteCount)
    guard byteCount > 0 else { return }
    var extents: [Extent] = []
    _ = try map.map(0..<byteCount, limit: 1, into: &extents)
    #expect(extents.first?.offset == offset)
  }

  @Test(
    "a part that leaves the file or is no number is refused",
    arguments: [
      ["offset": "4097"], ["size": "4097"], ["offset": "4095", "size": "2"],
      ["offset": "18446744073709551615", "size": "2"],
      ["size": "16E"], ["size": "1x"], ["size": "-1"], ["size": ""], ["offset": "k"],
    ])
  func refusal(options: [String: String]) throws {
    let error = #expect(throws: ImageError.self) { try open(4096, options) }
    #expect(error?.code == .invalidArgument)
    #expect(error?.file == "disk.raw")
  }

  /// Whoever tries out which alignment direct I/O needs reads there, and learns nothing from a hole.
  @Test("a new disk has its first block", arguments: [0, 512, 4096, 1 << 20] as [UInt64])
  func firstBlock(byteCount: UInt64) throws {
    let file = try FileStore.temporary()
    try Raw.create(in: file, CreationRequest(byteCount: byteCount))
    #expect(try file.byteCount() == byteCount)
    #expect(try (file.allocatedByteCount() == 0) == (byteCount == 0))
    guard byteCount > 4096 else { return }
    #expect(try file.segment(at: 0, limit: byteCount) == StoreSegment(isHole: false, byteCount: 4096))
  }

  @Test("anything may be raw, least surely")
  func probe() throws {
    let bytes: [UInt8] = [0x51, 0x46, 0x49, 0xfb]
    #expect(try Raw.probe(bytes.rawBytes, MemoryStore(bytes)) == 1)
  }
}
