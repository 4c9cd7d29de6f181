import PlatterCodecs
import PlatterCore
import TestSupport
import Testing

/// The fixtures of these tests are built from a description. Programs of other people must understand them alike.
@Suite("Other programs read our fixtures as we do")
struct OtherReadersTests {
  let scratch: ScratchDirectory
  init() throws { scratch = try ScratchDirectory() }

  @Test("QEMU: zlib, raw and zeros", .requires(.qemuImg))
  func qemu() throws {
    let image = DMGBuilder(chunks: [.raw(1, sectors: 3), .zlib(2, sectors: 8), .zero(sectors: 5), .raw(3), .end])
    try scratch.write(image.build(), to: "disk.dmg")
    try Tool.qemuImg.succeed("convert", "-f", "dmg", "-O", "raw", scratch["disk.dmg"], scratch["disk.raw"])
    let raw = try readFile(scratch.file("disk.raw"))
    #expect(raw == image.disk)
    #expect(try contents(open(image.build())) == raw)
  }

  /// 7-Zip 26.02 gives the bytes of an uncompressed LZFSE block and then complains; compressed ones are in the corpus.
  @Test("7-Zip: every type of chunk but LZFSE, from property list and resource fork", .requires(.sevenZip))
  func sevenZip() throws {
    var image = DMGBuilder(chunks: OpenTests.everyKind.filter { $0.type != 0x8000_0007 })
    image.partitions[0].name = "whole"
    for store in [DMGBuilder.TableStore.propertyList, .resourceFork] {
      image.tables = store
      try scratch.write(image.build(), to: "disk.dmg")
      let result = try Tool.sevenZip.succeed("e", "-so", "-tdmg", scratch["disk.dmg"])
      #expect(result.output == image.disk)
    }
  }

  @Test("7-Zip: LZFSE by our encoder, a block that has matches only included", .requires(.sevenZip))
  func sevenZipLZFSE() throws {
    // Noise, then so many pieces of it that the first block is nearly full, then zeros: the second block is theirs alone.
    var state: UInt64 = 1
    func next() -> UInt64 {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return state
    }
    let noise = (0..<4096).map { _ in UInt8(next() >> 56) }
    var content = noise
    for _ in 0..<9720 {
      let start = Int((next() >> 40) % 4080)
      content += noise[start..<start + 16]
    }
    content += [UInt8](repeating: 0, count: 400_000)
    content += [UInt8](repeating: 0, count: (512 - content.count % 512) % 512)
    var packed = [UInt8](repeating: 0, count: content.count)
    let count = packed.withMutableRawBytes { LZFSEEncoder().encode(content.rawBytes, into: &$0) }
    packed.removeLast(packed.count - (try #require(count)))
    #expect(literalCounts(packed).contains(0))
    let chunk = DMGBuilder.Chunk(
      type: 0x8000_0007, sectorCount: UInt64(content.count / 512), payload: packed, content: content)
    let image = DMGBuilder(chunks: [chunk, .end])
    try scratch.write(image.build(), to: "disk.dmg")
    let result = try Tool.sevenZip.succeed("e", "-so", "-tdmg", scratch["disk.dmg"])
    #expect(result.output == content)
    #expect(try contents(open(image.build())) == content)
  }

  /// How many literals each packed block of an LZFSE stream has.
  private func literalCounts(_ stream: [UInt8]) -> [Int] {
    var counts: [Int] = []
    var start = 0
    while stream[start...].starts(with: Array("bvx2".utf8)) {
      let words = (0..<3).map { stream.rawBytes.littleEndian(at: start + 8 + 8 * $0, as: UInt64.self) ?? 0 }
      counts.append(Int(words[0] & 0xFFFFF))
      let payloads = words[0] >> 20 & 0xFFFFF + words[1] >> 40 & 0xFFFFF
      start += Int(words[2] & 0xFFFF_FFFF + payloads)
    }
    return counts
  }

  @Test("dmg2img: ADC, bzip2, zlib, raw and zeros", .requires(.dmg2img))
  func dmg2img() throws {
    let image = DMGBuilder(chunks: [
      .raw(1, sectors: 3), .adc(4, sectors: 4), .zlib(2, sectors: 8), .bzip2, .zero(sectors: 5), .raw(3), .end,
    ])
    try scratch.write(image.build(), to: "disk.dmg")
    try Tool.dmg2img.succeed("-s", scratch["disk.dmg"], scratch["disk.raw"])
    let raw = try readFile(scratch.file("disk.raw"))
    #expect(raw == image.disk)
  }
}
