import PlatterCore
import PlatterVHDX
import SystemPackage
import TestSupport
import Testing

/// A child over whatever has the builders' data GUID.
func child(_ change: (inout VHDXBuilder) -> Void = { _ in }) -> VHDXBuilder {
  var builder = VHDXBuilder()
  builder.fileFlags = 2
  builder.parent = [
    ("parent_linkage", "{22222222-2222-2222-2222-222222222222}"), ("relative_path", ".\\base.vhdx"),
  ]
  change(&builder)
  return builder
}

@Suite struct DifferencingTests {
  @Test("sectors of a partial block come from the child where its bitmap says so, else from the parent")
  func partialBlocks() throws {
    let below = [UInt8].pattern(1, count: 2 << 20)
    var base = VHDXBuilder()
    base.diskByteCount = 2 << 20
    base.blocks = [0: .present(Array(below[..<(1 << 20)])), 1: .present(Array(below[(1 << 20)...]))]
    let sectors = Dictionary(
      uniqueKeysWithValues: [0, 1, 7, 8, 63, 64, 65, 2047].map { number in
        (number, [UInt8].pattern(UInt64(number) + 100, count: 512))
      })
    let top = child {
      $0.diskByteCount = 2 << 20
      $0.blocks = [1: .partial(sectors)]
    }
    var expected = below
    for (number, bytes) in sectors {
      expected.replaceSubrange(1 << 20 + number * 512..<1 << 20 + (number + 1) * 512, with: bytes)
    }
    let chain = [try open(top.store()), try open(base.store())]
    try chain[0].accept(parent: chain[1])
    for limit in [1, 2, 100] { #expect(try readGuest(chain, limit: limit) == expected) }
    // Ranges need not keep to sectors.
    let megabyte = 1 << 20
    for (start, end) in [
      (megabyte + 700, megabyte + 1500), (megabyte - 3, megabyte + 3), (2 * megabyte - 700, 2 * megabyte - 1),
    ] {
      #expect(try readGuest(chain, UInt64(start)..<UInt64(end)) == Array(expected[start..<end]))
    }
    let kinds = try runs(chain[0])
    #expect(kinds.map(\.kind) == [.absent, .data, .absent, .data, .absent, .data, .absent, .data])
    #expect(kinds.map { $0.byteCount / 512 } == [2048, 2, 5, 2, 54, 3, 1981, 1])
  }

  /// libvhdi 20210425 shows the parent through a zero block.
  @Test("a block that is zero, undefined or unmapped hides the parent; one that is not present shows it")
  func states() throws {
    let below = [UInt8].pattern(3, count: 1 << 20)
    var base = VHDXBuilder()
    base.diskByteCount = 5 << 20
    base.blocks = Dictionary(uniqueKeysWithValues: (0..<5).map { ($0, .present(below)) })
    let top = child {
      $0.diskByteCount = 5 << 20
      $0.blocks = [0: .entry(0), 1: .entry(1), 2: .entry(2), 3: .entry(3), 4: .entry(5)]
    }
    let guest = try readGuest([open(top.store()), open(base.store())])
    #expect(Array(guest[..<(1 << 20)]) == below)
    #expect(guest[(1 << 20)...].allSatisfy { $0 == 0 })
  }

  @Test("a chain of any depth and any mix of block sizes reads like its layers laid on each other", arguments: 1...4)
  func chains(seed: UInt64) throws {
    var generator = SeededGenerator(seed: seed)
    let size = 6 << 20
    var model = [UInt8](repeating: 0, count: size)
    var chain: [VHDXMap] = []
    for layer in 0..<4 {
      var builder = layer == 0 ? VHDXBuilder() : child()
      builder.diskByteCount = UInt64(size)
      builder.blockByteCount = [1 << 20, 2 << 20, 4 << 20].randomElement(using: &generator) ?? 1 << 20
      let block = Int(builder.blockByteCount)
      for number in 0..<builder.blockCount where Bool.random(using: &generator) {
        let range = number * block..<min((number + 1) * block, size)
        switch Int.random(in: 0..<(layer == 0 ? 2 : 4), using: &generator) {
        case 0:
          builder.blocks[number] = .entry(2)
          model.replaceSubrange(range, with: [UInt8](repeating: 0, count: range.count))
        case 1:
          let bytes = [UInt8].pattern(generator.next(), count: range.count)
          builder.blocks[number] = .present(bytes)
          model.replaceSubrange(range, with: bytes)
        default:
          var sectors: [Int: [UInt8]] = [:]
          for _ in 0..<20 {
            let first = Int.random(in: 0..<range.count / 512, using: &generator)
            for sector in first..<min(first + Int.random(in: 1..<70, using: &generator), range.count / 512) {
              let bytes = [UInt8].pattern(generator.next(), count: 512)
              sectors[sector] = bytes
              model.replaceSubrange(
                range.lowerBound + sector * 512..<range.lowerBound + (sector + 1) * 512, with: bytes)
            }
          }
          builder.blocks[number] = .partial(sectors)
        }
      }
      chain.insert(try open(builder.store()), at: 0)
    }
    for (one, parent) in zip(chain, chain.dropFirst()) { try one.accept(parent: parent) }
    #expect(try readGuest(chain) == model)
  }

  @Test("sectors of 4096 bytes have a bit each")
  func largeSectors() throws {
    let mine = [UInt8].pattern(9, count: 4096)
    var base = VHDXBuilder()
    base.logicalSectorByteCount = 4096
    base.blocks = [0: .present([UInt8].pattern(8, count: 1 << 20))]
    let top = child {
      $0.logicalSectorByteCount = 4096
      $0.blocks = [0: .partial([3: mine])]
    }
    let chain = [try open(top.store()), try open(base.store())]
    try chain[0].accept(parent: chain[1])
    var expected = [UInt8].pattern(8, count: 1 << 20)
    expected.replaceSubrange(3 * 4096..<4 * 4096, with: mine)
    #expect(try readGuest(chain, 0..<1 << 20) == expected)
  }

  @Test("the second chunk has a bitmap of its own")
  func secondChunk() throws {
    let top = child {
      $0.blockByteCount = 256 << 20
      $0.diskByteCount = 17 * 256 << 20
      $0.batEntries = [0: 7 | 8 << 20, 16: 6 | 4 << 20, 17: 7 | 264 << 20, 33: 6 | 5 << 20]
    }
    #expect(top.entryIndex(ofBitmap: 0) == 16 && top.entryIndex(ofBlock: 16) == 17 && top.entryIndex(ofBitmap: 1) == 33)
    let folder = try ScratchDirectory()
    let store = try sparseFile(top, byteCount: 520 << 20, in: folder)
    try store.write([UInt8]([0b10]).rawBytes, at: 4 << 20)
    // Block 16 is the first of its chunk.
    try store.write([UInt8]([0, 0b1]).rawBytes, at: 5 << 20)
    let data = try runs(open(store)).filter { $0.kind == .data }
    let block: UInt64 = 256 << 20
    let first: UInt64 = 8 << 20
    #expect(
      data == [
        .data(start: 512, byteCount: 512, store: 0, offset: first + 512, isSparse: true),
        .data(start: 16 * block + 4096, byteCount: 512, store: 0, offset: block + first + 4096, isSparse: true),
      ])
  }

  @Test(
    "a partial block whose bitmap is missing, reserved or misplaced is refused",
    arguments: [
      0, 1, 2, 3, 4, 5, 7 | 5 << 20, 6, 6 | 8, 6 | 3 << 20, 6 | 1 << 40,
    ] as [UInt64])
  func badBitmap(entry: UInt64) throws {
    var top = child { $0.blocks = [0: .partial([0: [UInt8](repeating: 1, count: 512)])] }
    top.batEntries = [top.entryIndex(ofBitmap: 0): entry]
    let map = try open(top.store())
    let error = #expect(throws: ImageError.self) { try readGuest([map], 0..<512) }
    #expect(error?.message.contains("(sector bitmap 0)") == true)
    #expect(try map.check(workers: 1) { _ in true }.corruptions > 0)
  }

  @Test("a parent that is smaller reads as zeros past its end")
  func smallerParent() throws {
    var base = VHDXBuilder()
    base.diskByteCount = 512
    base.blocks = [0: .present([UInt8](repeating: 5, count: 512))]
    let chain = [try open(child().store()), try open(base.store())]
    try chain[0].accept(parent: chain[1])
    let guest = try readGuest(chain)
    #expect(guest == [UInt8](repeating: 5, count: 512) + [UInt8](repeating: 0, count: 4 << 20 - 512))
  }
}

@Suite struct ParentTests {
  @Test("either linkage may name the parent's data GUID")
  func linkage() throws {
    let base = try open(VHDXBuilder().store())
    let other = "{\(Refusal.unknown)}"
    let second = child {
      $0.parent?[0].1 = other
      $0.parent?.append(("parent_linkage2", "{22222222-2222-2222-2222-222222222222}"))
    }
    try open(second.store()).accept(parent: base)
    let neither = child {
      $0.parent?[0].1 = other
      $0.parent?.append(("parent_linkage2", other))
    }
    let error = #expect(throws: ImageError.self) { try open(neither.store()).accept(parent: base) }
    #expect(error?.code == .corrupt)
    #expect(error?.message.contains("it is another disk, or was changed since") == true)
  }

  @Test("a parent with sectors of another size is refused, and so is an image without parent")
  func otherParents() throws {
    var base = VHDXBuilder()
    base.logicalSectorByteCount = 4096
    let large = try open(base.store())
    let error = #expect(throws: ImageError.self) { try open(child().store()).accept(parent: large) }
    #expect(error?.message.contains("has sectors of 4096 bytes") == true)
    #expect(throws: ImageError.self) { try large.accept(parent: large) }
  }

  @Test(
    "the relative path comes first, then bare names in the image's folder",
    arguments: [
      ([("relative_path", "..\\disks\\base.vhdx")], ["../disks/base.vhdx", "base.vhdx"], "../disks/base.vhdx"),
      ([("relative_path", ".\\base.vhdx")], ["./base.vhdx", "base.vhdx"], "./base.vhdx"),
      (
        [("absolute_win32_path", "\\\\?\\C:\\vm\\old.vhdx"), ("relative_path", "new.vhdx")], ["new.vhdx", "old.vhdx"],
        "new.vhdx"
      ),
      ([("absolute_win32_path", "C:\\vm\\a b\u{e9}.vhdx")], ["a b\u{e9}.vhdx"], "C:\\vm\\a b\u{e9}.vhdx"),
      ([("volume_path", "\\\\?\\Volume{1}\\vm\\x.vhdx")], ["x.vhdx"], "\\\\?\\Volume{1}\\vm\\x.vhdx"),
      ([("relative_path", "..\\..")], ["../.."], "../.."),
    ] as [([(String, String)], [String], String)])
  func names(paths: [(String, String)], names: [String], display: String) throws {
    let image = child { $0.parent = [("parent_linkage", "{\(Refusal.unknown)}")] + paths }
    let backing = try #require(try open(image.store()).backing)
    #expect(backing.names == names.map { FilePath($0) })
    #expect(backing.formatName == "vhdx")
    #expect(backing.displayName == display)
  }

  @Test("the facts tell of the parent, and escape what could drive a terminal")
  func facts() throws {
    let image = child {
      $0.parent?[1].1 = "a\u{1b}[2J.vhdx"
      $0.creator = Array("Maker\u{7}".utf16)
      $0.parent?.append(("volume_path", "\\\\?\\Volume{1}\\b.vhdx"))
    }
    let facts = try open(image.store()).facts
    #expect(facts.specific?["subformat"] == .text("differencing"))
    #expect(facts.specific?["block-size"] == .unsigned(1 << 20))
    #expect(facts.specific?["logical-sector-size"] == .unsigned(512))
    #expect(facts.specific?["physical-sector-size"] == .unsigned(4096))
    #expect(facts.specific?["log-replayed"] == .flag(false))
    #expect(facts.specific?["page-83-id"] == .text("04030201-0605-0807-090a-0b0c0d0e0f10"))
    #expect(facts.specific?["creator"] == .text("Maker\\x07"))
    let parent = facts.specific?["parent"]
    #expect(parent?["linkage"] == .text("22222222-2222-2222-2222-222222222222"))
    #expect(parent?["relative-path"] == .text("a\\x1b[2J.vhdx"))
    #expect(parent?["volume-path"] == .text("\\\\?\\Volume{1}\\b.vhdx"))
    #expect(parent?["absolute-path"] == nil)
  }

  @Test("a creator may fill its field to the last character")
  func longCreator() throws {
    var builder = VHDXBuilder()
    builder.creator = [UInt16](repeating: 0xe9, count: 256)
    let map = try open(builder.store())
    #expect(map.identifier.creator == String(repeating: "\u{e9}", count: 256))
  }
}
