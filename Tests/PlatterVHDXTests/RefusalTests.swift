import PlatterCore
import PlatterVHDX
import TestSupport
import Testing

/// A file that must not open, and the sentence that says why.
struct Refusal: Sendable, CustomTestStringConvertible {
  var testDescription: String
  var code: ImageError.Code
  /// A part of the sentence.
  var sentence: String
  var change: @Sendable (inout VHDXBuilder) -> Void

  init(
    _ name: String, _ code: ImageError.Code, _ sentence: String,
    _ change: @escaping @Sendable (inout VHDXBuilder) -> Void
  ) {
    testDescription = name
    self.code = code
    self.sentence = sentence
    self.change = change
  }

  static let unknown = "01020304-0506-0708-090a-0b0c0d0e0f10"

  static let headers = [
    Refusal("no header", .corrupt, "no header is valid") { $0.editHeader = { _, bytes in bytes.put("dead", at: 0) } },
    Refusal("version 2", .unsupported, "has version 2, not 1") {
      for slot in 0..<2 { $0.headers[slot].version = 2 }
    },
    Refusal("equal numbers, different headers", .corrupt, "both headers have sequence number 2 and differ") {
      $0.headers[0].sequenceNumber = 2
      $0.headers[0].dataWriteGUID = unknown
    },
    Refusal("log version 1 with entries", .unsupported, "the log has version 1") {
      $0.headers[1].logVersion = 1
      $0.headers[1].logGUID = VHDXBuilder.logGUID
    },
    Refusal("entries, but no log", .corrupt, "the log has no bytes") {
      $0.headers[1].logByteCount = 0
      $0.headers[1].logGUID = VHDXBuilder.logGUID
    },
    Refusal("log over 1 GiB", .corrupt, "the log has 1074790400 bytes") { $0.headers[1].logByteCount = 1025 << 20 },
    Refusal("log length not whole MiB", .corrupt, "whole MiB") { $0.headers[1].logByteCount = 1 << 20 | 4096 },
    Refusal("log offset not whole MiB", .corrupt, "whole MiB") { $0.headers[1].logOffset = 1 << 20 | 4096 },
    Refusal("log inside the first MiB", .corrupt, "whole MiB") { $0.headers[1].logOffset = 0 },
    Refusal("log at the end of numbers", .corrupt, "whole MiB") { $0.headers[1].logOffset = .max << 20 },
    Refusal("log past the end of the file", .truncated, "past the end of the file") {
      $0.headers[1].logOffset = 1 << 40
      $0.headers[1].logGUID = VHDXBuilder.logGUID
    },
  ]

  static let regions = [
    Refusal("both tables damaged", .corrupt, "no region table is valid") {
      $0.editRegionTable = { _, bytes in bytes.put("iger", at: 0) }
    },
    Refusal("2048 entries", .corrupt, "has 2048 entries") {
      $0.editRegionTable = { _, bytes in bytes.put(UInt32(2048), at: 8) }
    },
    Refusal("count at the end of numbers", .corrupt, "has 4294967295 entries") {
      $0.editRegionTable = { _, bytes in bytes.put(UInt32.max, at: 8) }
    },
    Refusal("no BAT", .corrupt, "no entry for the BAT") { $0.editRegions = { $0.remove(at: 0) } },
    Refusal("no metadata", .corrupt, "no entry for the metadata") { $0.editRegions = { $0.remove(at: 1) } },
    Refusal("two BATs", .corrupt, "listed twice") { $0.editRegions = { $0.append($0[0]) } },
    Refusal("unknown and required", .unsupported, "is required, and unknown") {
      $0.editRegions = { $0.append(.init(guid: unknown, offset: 16 << 20, byteCount: 1 << 20, flags: 1)) }
    },
    Refusal("reserved flags", .corrupt, "reserved flags 0x3") { $0.editRegions = { $0[0].flags = 3 } },
    Refusal("length 0", .corrupt, "whole MiB") { $0.editRegions = { $0[0].byteCount = 0 } },
    Refusal("length not whole MiB", .corrupt, "whole MiB") { $0.editRegions = { $0[0].byteCount = 4096 } },
    Refusal("offset not whole MiB", .corrupt, "whole MiB") { $0.editRegions = { $0[0].offset += 4096 } },
    Refusal("offset inside the first MiB", .corrupt, "whole MiB") { $0.editRegions = { $0[0].offset = 0 } },
    Refusal("offset at the end of numbers", .corrupt, "whole MiB") { $0.editRegions = { $0[0].offset = .max << 20 } },
    Refusal("BAT on top of the metadata", .corrupt, "inside region") {
      $0.editRegions = { $0[0].offset = $0[1].offset }
    },
    Refusal("BAT on top of the log", .corrupt, "inside") { $0.editRegions = { $0[0].offset = 1 << 20 } },
    Refusal("unknown region on top of the BAT", .corrupt, "inside region") {
      $0.editRegions = { $0.append(.init(guid: unknown, offset: $0[0].offset, byteCount: 1 << 20, flags: 0)) }
    },
    Refusal("BAT over 513 MiB", .corrupt, "the BAT region has 538968064 bytes") {
      $0.editRegions = { $0[0].byteCount = 514 << 20 }
    },
    Refusal("metadata over 128 MiB", .corrupt, "the metadata region has 135266304 bytes") {
      $0.editRegions = {
        $0[1].offset = 1 << 30
        $0[1].byteCount = 129 << 20
      }
    },
    Refusal("BAT past the end of the file", .truncated, "the BAT (32 bytes at 0x40000000) lies past the end") {
      $0.editRegions = { $0[0].offset = 1 << 30 }
    },
    Refusal("metadata past the end of the file", .truncated, "the metadata table") {
      $0.editRegions = { $0[1].offset = 1 << 30 }
    },
    Refusal("BAT one entry too short", .corrupt, "needs 131073 entries of 8 bytes") {
      $0.batRegionByteCount = 1 << 20
      $0.editItems = { $0[1].content = (UInt64(131042) << 20).bytes }
    },
    Refusal("BAT too short for the bitmap entries of a child", .corrupt, "needs 131104 entries of 8 bytes") {
      $0.parent = [("parent_linkage", "{\(unknown)}"), ("relative_path", "a.vhdx")]
      $0.fileFlags = 2
      $0.editItems = { $0[1].content = (UInt64(131040) << 20).bytes }
    },
  ]

  static let metadata =
    [
      Refusal("no signature", .corrupt, "\"metadata\"") { $0.editMetadataTable = { $0.put("datameta", at: 0) } },
      Refusal("2048 entries", .corrupt, "has 2048 entries") { $0.editMetadataTable = { $0.put(UInt16(2048), at: 10) } },
      Refusal("unknown and required", .unsupported, "is required, and unknown") {
        $0.editItems = { $0.append(.init(guid: unknown, content: [1], flags: 4)) }
      },
      Refusal("the user's and required", .corrupt, "is the user's, and required") {
        $0.editItems = { $0.append(.init(guid: unknown, content: [1], flags: 5)) }
      },
      Refusal("listed twice", .corrupt, "listed twice") { $0.editItems = { $0.append($0[0]) } },
      Refusal("reserved flags", .corrupt, "reserved bits") { $0.editItems = { $0[0].flags = 12 } },
      Refusal("reserved field", .corrupt, "reserved bits") { $0.editItems = { $0[0].reserved = 1 } },
      Refusal("item over 1 MiB", .corrupt, "at most 1048576") { $0.editItems = { $0[0].byteCount = 1 << 20 + 1 } },
      Refusal("item inside the table", .corrupt, "leaves the items' part") { $0.editItems = { $0[0].offset = 32 } },
      Refusal("item past its region", .corrupt, "leaves the items' part") {
        $0.editItems = { $0[0].offset = 1 << 20 - 4 }
      },
      Refusal("item at the end of numbers", .corrupt, "leaves the items' part") {
        $0.editItems = { $0[0].offset = UInt32.max - 3 }
      },
      Refusal("empty item with a place", .corrupt, "has 0 bytes at 0x10000") {
        $0.editItems = { $0.append(.init(guid: unknown, content: [], flags: 0, offset: 0x10000)) }
      },
      Refusal("items overlap", .corrupt, "overlap") { $0.editItems = { $0[1].offset = 0x10004 } },
      Refusal("1024 items of the system", .corrupt, "1024 items of the system") {
        $0.editItems = { items in
          while items.count < 1024 { items.append(.init(guid: numbered(items.count), content: [], flags: 0)) }
        }
      },
      Refusal("1025 items of the user", .corrupt, "1025 of the user") {
        $0.editItems = { items in
          while items.count < 1030 { items.append(.init(guid: numbered(items.count), content: [], flags: 1)) }
        }
      },
      Refusal("42 MiB of items of one kind", .corrupt, "metadata items of one kind have") {
        $0.editRegions = { regions in
          regions[0].offset = 200 << 20
          regions[1].byteCount = 100 << 20
        }
        $0.editItems = { items in
          for index in 1...42 {
            items.append(
              .init(
                guid: numbered(index), content: [], flags: 0, offset: UInt32(index) << 20, byteCount: 1 << 20))
          }
        }
      },
      Refusal("block size 0", .corrupt, "the block size is 0") {
        $0.editItems = { $0[0].content.put(UInt32(0), at: 0) }
      },
      Refusal("block size 512 KiB", .corrupt, "the block size is 524288") {
        $0.editItems = { $0[0].content.put(UInt32(512 << 10), at: 0) }
      },
      Refusal("block size 3 MiB", .corrupt, "the block size is 3145728") {
        $0.editItems = { $0[0].content.put(UInt32(3 << 20), at: 0) }
      },
      Refusal("block size 512 MiB", .corrupt, "the block size is 536870912") {
        $0.editItems = { $0[0].content.put(UInt32(512 << 20), at: 0) }
      },
      Refusal("reserved file flags", .corrupt, "reserved flags 0x4") { $0.fileFlags = 4 },
      Refusal("logical sector 1024", .corrupt, "the logical sector size is 1024") {
        $0.editItems = { $0[2].content = UInt32(1024).bytes }
      },
      Refusal("logical sector 0", .corrupt, "the logical sector size is 0") {
        $0.editItems = { $0[2].content = UInt32(0).bytes }
      },
      Refusal("physical sector 2048", .corrupt, "the physical sector size is 2048") {
        $0.editItems = { $0[3].content = UInt32(2048).bytes }
      },
      Refusal("disk of 0 bytes", .corrupt, "the virtual disk size is 0") {
        $0.editItems = { $0[1].content = UInt64(0).bytes }
      },
      Refusal("half a sector", .corrupt, "not a whole number of sectors of 512 bytes") {
        $0.editItems = { $0[1].content = UInt64(768).bytes }
      },
      Refusal("a 512-byte sector on a disk of 4096", .corrupt, "not a whole number of sectors of 4096 bytes") {
        $0.logicalSectorByteCount = 4096
        $0.editItems = { $0[1].content = UInt64(4096 + 512).bytes }
      },
      Refusal("a sector more than 64 TiB", .corrupt, "70368744177664 are allowed") {
        $0.editItems = { $0[1].content = UInt64(64 << 40 + 512).bytes }
      },
      // QEMU 7.2 multiplies this to a BAT of 13 entries and crashes on a read far out.
      Refusal("32 PiB, whose BAT wraps around 32 bits", .corrupt, "70368744177664 are allowed") {
        $0.editItems = { $0[1].content = (UInt64(1) << 55 + 13 << 20).bytes }
      },
      Refusal("parent, but no locator", .corrupt, "no parent locator") { $0.fileFlags = 2 },
      Refusal("locator, but no parent", .corrupt, "but a parent locator") {
        $0.parent = [("parent_linkage", "{\(unknown)}"), ("relative_path", "a.vhdx")]
      },
    ]
    + [
      (0, "file parameters", 8), (1, "virtual disk size", 8), (2, "logical sector size", 4),
      (3, "physical sector size", 4), (4, "page 83 data", 16),
    ].flatMap { index, name, count in
      [
        Refusal("no \(name)", .corrupt, "\"\(name)\" is missing") { $0.editItems = { $0.remove(at: index) } },
        Refusal("the user's \(name)", .corrupt, "\"\(name)\" is missing") { $0.editItems = { $0[index].flags = 1 } },
        Refusal("\(name) too long", .corrupt, "has \(count + 1) bytes, not \(count)") {
          $0.editItems = { $0[index].content.append(0) }
        },
      ]
    }

  static let locators = [
    Refusal("unknown type", .unsupported, "which is not that of a VHDX parent") {
      $0.editItems = { $0[5].content.put(guid: unknown, at: 0) }
    },
    Refusal("257 pairs", .corrupt, "has 257 pairs") { $0.editItems = { $0[5].content.put(UInt16(257), at: 18) } },
    Refusal("more pairs than bytes", .corrupt, "overlap at pair 2") {
      $0.editItems = { $0[5].content.put(UInt16(256), at: 18) }
    },
    Refusal("no linkage", .corrupt, "has no parent_linkage") { $0.parent?.remove(at: 0) },
    Refusal("linkage is no GUID", .corrupt, "parent_linkage of the parent locator is no GUID") {
      $0.parent?[0].1 = "yes"
    },
    Refusal("linkage2 is no GUID", .corrupt, "parent_linkage2 of the parent locator is no GUID") {
      $0.parent?.append(("parent_linkage2", "{}"))
    },
    Refusal("no file", .corrupt, "names no file") { $0.parent?.remove(at: 1) },
    Refusal("two values for a key", .corrupt, "for one key") { $0.parent?.append(("relative_path", "b.vhdx")) },
    Refusal("odd length", .corrupt, "is no text") { $0.editItems = { $0[5].content.put(UInt16(3), at: 28) } },
    Refusal("empty key", .corrupt, "is no text") { $0.editItems = { $0[5].content.put(UInt16(0), at: 28) } },
    Refusal("empty value", .corrupt, "is no text") { $0.editItems = { $0[5].content.put(UInt16(0), at: 30) } },
    Refusal("text outside", .corrupt, "is no text") { $0.editItems = { $0[5].content.put(UInt32.max, at: 20) } },
    Refusal("NUL in a text", .corrupt, "holds a NUL") { $0.parent?[1].1 = "a\0b" },
    Refusal("texts on top of each other", .corrupt, "overlap") {
      $0.editItems = { items in for pair in 0..<2 { items[5].content.put(UInt16(200), at: 20 + pair * 12 + 10) } }
    },
  ]

  private static func numbered(_ number: Int) -> String {
    "aaaaaaaa-0000-0000-0000-" + String(repeating: "0", count: 12 - String(number).count) + String(number)
  }
}

@Suite struct RefusalTests {
  private func expect(_ refusal: Refusal, _ builder: VHDXBuilder) {
    let error = sentenceOfRefusal(builder)
    #expect(error?.code == refusal.code)
    #expect(error?.message.contains(refusal.sentence) == true, "\(error.map(\.message) ?? "opened")")
    #expect(error?.file == "disk.vhdx")
  }

  @Test("a file whose identifier, headers or log place are bad is refused", arguments: Refusal.headers)
  func headers(refusal: Refusal) {
    var builder = VHDXBuilder()
    refusal.change(&builder)
    expect(refusal, builder)
  }

  @Test("a file that does not begin with its identifier is refused, and not probed as VHDX")
  func identifier() throws {
    var bytes = VHDXBuilder().build()
    bytes[3] ^= 1
    let store = MemoryStore(bytes)
    #expect(throws: ImageError.self) { try VHDX.open(store, OpenContext()) }
    #expect(try VHDX.probe(bytes.rawBytes.extracting(0..<4096), store) == 0)
    bytes[3] ^= 1
    #expect(try VHDX.probe(bytes.rawBytes.extracting(0..<4096), store) == 100)
    #expect(try VHDX.probe([UInt8]("vhdx".utf8).rawBytes, store) == 0)
  }

  @Test("a file whose region table is bad is refused", arguments: Refusal.regions)
  func regions(refusal: Refusal) {
    var builder = VHDXBuilder()
    refusal.change(&builder)
    expect(refusal, builder)
  }

  @Test("a file whose metadata is bad is refused", arguments: Refusal.metadata)
  func metadata(refusal: Refusal) {
    var builder = VHDXBuilder()
    refusal.change(&builder)
    expect(refusal, builder)
  }

  @Test("a file whose parent locator is bad is refused", arguments: Refusal.locators)
  func locators(refusal: Refusal) {
    var builder = VHDXBuilder()
    builder.fileFlags = 2
    builder.parent = [("parent_linkage", "{\(Refusal.unknown)}"), ("relative_path", "a.vhdx")]
    refusal.change(&builder)
    expect(refusal, builder)
  }

  @Test(
    "a bad BAT entry is refused where it is used, and nowhere else",
    arguments: [
      (4, .corrupt, "reserved state"), (6 | 4 << 20 | 8, .corrupt, "reserved bits"),
      (6 | 4 << 20 | 0x80000, .corrupt, "reserved bits"), (6, .corrupt, "inside the headers"),
      (6 | 1 << 20, .corrupt, "inside the log or a region"), (6 | 2 << 20, .corrupt, "inside the log or a region"),
      (6 | 3 << 20, .corrupt, "inside the log or a region"), (6 | 64 << 20, .truncated, "past the end of the file"),
      (.max << 20 | 6, .truncated, "past the end of the file"), (7 | 4 << 20, .corrupt, "the file has no parent"),
    ] as [(UInt64, ImageError.Code, String)])
  func entries(entry: UInt64, code: ImageError.Code, sentence: String) throws {
    var builder = VHDXBuilder()
    builder.blocks = [0: .present([1]), 1: .entry(entry)]
    let map = try open(builder.store())
    #expect(try readGuest([map], 0..<1 << 20)[0] == 1)
    #expect(try readGuest([map], 2 << 20..<4 << 20).allSatisfy { $0 == 0 })
    let error = #expect(throws: ImageError.self) { try readGuest([map]) }
    #expect(error?.code == code)
    #expect(error?.message.contains(sentence) == true, "\(error.map(\.message) ?? "")")
    #expect(error?.message.contains("BAT entry 1 (block 1)") == true)
    #expect(error?.file == "disk.vhdx")
  }
}
