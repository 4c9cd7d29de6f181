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
