import PlatterCore
import PlatterQCOW2
import TestSupport
import Testing

@Suite struct FactsTests {
  private func names(_ map: any ImageMap) -> [String] {
    guard case .object(let members) = map.facts.specific else { return [] }
    return members.map(\.name)
  }

  @Test("facts have qemu-img's names and order")
  func order() throws {
    var image = QCOW2Builder(byteCount: 65536)
    image.bitmaps = [.init(name: "b0"), .init(name: "b1", granularityBits: 15, flags: 1)]
    image.compressionType = 1
    image.hasExtendedL2 = true
    let map = try open(image)
    #expect(
      map.facts.specific
        == .object([
          .init("compat", .text("1.1")), .init("compression-type", .text("zstd")),
          .init("lazy-refcounts", .flag(false)),
          .init(
            "bitmaps",
            .list([
              ["flags": .list([.text("auto")]), "name": .text("b0"), "granularity": .unsigned(65536)],
              ["flags": .list([.text("in-use")]), "name": .text("b1"), "granularity": .unsigned(32768)],
            ])),
          .init("refcount-bits", .unsigned(16)), .init("corrupt", .flag(false)), .init("extended-l2", .flag(true)),
        ]))
  }

  @Test("version 2 tells less")
  func versionTwo() throws {
    var image = QCOW2Builder(byteCount: 65536)
    image.version = 2
    #expect(names(try open(image)) == ["compat", "compression-type", "refcount-bits"])
  }

  @Test("bitmaps without their autoclear bit are ignored, with a warning")
  func inconsistentBitmaps() throws {
    var image = QCOW2Builder(byteCount: 65536)
    image.bitmaps = [.init(name: "b0")]
    image.lie(at: 88, UInt64(0))
    let map = try open(image)
    #expect(map.facts.specific?["bitmaps"] == nil)
    #expect(map.facts.warnings.count == 1)
  }

  @Test(
    "a damaged bitmap directory does not hinder reading, but writing",
    arguments: [
      BadWord(at: 0, UInt64(1), "offset 0x1"), BadWord(at: 8, 0x0800_0001_0000_0000, "134217729 entries"),
      BadWord(at: 8, 8, "unknown flags"),
      BadWord(at: 16, 0x0210_0002_0000_0000, "type 2"), BadWord(at: 16, 0x0108_0002_0000_0000, "granularity_bits 8"),
      BadWord(at: 16, 0x0120_0002_0000_0000, "granularity_bits 32"),
      BadWord(at: 16, 0x0110_0000_0000_0000, "name has 0 bytes"),
      BadWord(at: 16, 0x0110_0400_0000_0000, "name has 1024 bytes"),
      BadWord(at: 16, 0x0110_0002_ffff_ffff, "extra data"),
      BadWord(at: 16, 0x0110_0003_0000_0000, "b\u{0}"), BadWord(at: 16, 0x0110_0011_0000_0000, "leaves the directory"),
    ])
  func damagedDirectory(_ bad: BadWord) throws {
    var image = QCOW2Builder(byteCount: 65536)
    image.bitmaps = [.init(name: "b0")]
    image.lie(at: Int(image.build().bitmapDirectoryOffset) + bad.offset, bad.word)
    let map = try open(image)
    if bad.says == "b\u{0}" {
      // Longer by padding only: still inside the entry.
      #expect(map.facts.warnings == [])
    } else {
      #expect(map.facts.warnings.first?.contains(bad.says) == true, "\(map.facts.warnings)")
      #expect(throws: ImageError.self) { try open(image, OpenContext(isWritable: true)) }
    }
  }

  @Test(
    "a bitmaps extension with wrong limits is refused",
    arguments: [
      BadWord(at: 0, UInt64(65_536) << 32, "counts 65536"), BadWord(at: 0, 1 << 32 | 1, "reserved field is 0x1"),
      BadWord(at: 8, 64 << 20 + 1, "67108865 bytes"), BadWord(at: 16, 0x10001, "offset 0x10001"),
      BadWord(at: 16, 0, "offset 0x0"),
    ])
  func badExtension(_ bad: BadWord) throws {
    var image = QCOW2Builder(byteCount: 65536)
    image.bitmaps = [.init(name: "b0")]
    image.lie(at: 120 + bad.offset, bad.word)
    let error = #expect(throws: ImageError.self) { try open(image) }
    #expect(error?.message.contains(bad.says) == true, "\(error?.message ?? "")")
  }
}
