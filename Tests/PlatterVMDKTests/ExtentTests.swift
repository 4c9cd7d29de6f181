import Platter
import PlatterCore
import PlatterVMDK
import Synchronization
import SystemPackage
import TestSupport
import Testing

/// A folder with a disk of several files.
private struct Disk {
  let folder: ScratchDirectory

  init(_ extents: String, type: String = "custom", more: String = "", encoding: String? = nil) throws {
    folder = try ScratchDirectory()
    let encodingLine = encoding.map { "encoding=\"\($0)\"\n" } ?? ""
    let text = SparseBuilder.descriptor(extents, type: type, more: encodingLine + more)
    _ = try folder.write(Array(text.utf8), to: "disk.vmdk")
  }

  func map(_ policy: ReferencePolicy = .siblings, _ context: OpenContext = OpenContext()) throws(ImageError)
    -> any ImageMap
  {
    var context = context
    context.path = folder.file("disk.vmdk")
    context.resolver = ReferenceResolver(policy)
    return try VMDK.open(try FileStore(folder.file("disk.vmdk")), context)
  }

  func refusal(_ policy: ReferencePolicy = .siblings) -> ImageError? {
    do {
      _ = try map(policy)
      return nil
    } catch { return error }
  }

  func bytes(_ count: Int, at offset: UInt64) throws -> [UInt8] {
    try DiskImage.open(folder["disk.vmdk"], OpenOptions(format: "vmdk")).read(count, at: offset)
  }
}

private func sectors(_ byte: UInt8, _ count: Int) -> [UInt8] { [UInt8](repeating: byte, count: count * 512) }

@Suite("VMDK: disks of several files") struct ExtentTests {
  @Test("flat extents with offsets, ZERO extents between them; RDONLY is read; extents follow in the order of lines")
  func flat() throws {
    let disk = try Disk("RW 3 FLAT \"a.bin\" 1\nRW 5 ZERO\nRDONLY 2 VMFS \"b.bin\"\nRW 1 FLAT \"a.bin\" 0\n")
    _ = try disk.folder.write(sectors(1, 1) + sectors(2, 3), to: "a.bin")
    _ = try disk.folder.write(sectors(3, 2), to: "b.bin")
    let image = try disk.map()
    #expect(image.stores.count == 3)
    #expect(image.allocationUnit == nil)
    let expected: [Extent] = [
      .data(start: 0, byteCount: 1536, store: 1, offset: 512, isSparse: true), .zero(start: 1536, byteCount: 2560),
      .data(start: 4096, byteCount: 1024, store: 2, offset: 0, isSparse: true),
      .data(start: 5120, byteCount: 512, store: 1, offset: 0, isSparse: true),
    ]
    #expect(try runs(image) == expected)
    #expect(try runs(image, limit: 1) == expected)
    #expect(try disk.bytes(5632, at: 0) == sectors(2, 3) + sectors(0, 5) + sectors(3, 2) + sectors(1, 1))
    #expect(image.facts.references == ["a.bin", "b.bin"])
    let extents = image.facts.specific?["extents"]
    guard case .list(let list) = extents else {
      Issue.record("no extents")
      return
    }
    #expect(list.map { $0["format"] } == [.text("FLAT"), .text("ZERO"), .text("VMFS"), .text("FLAT")])
    #expect(list[0]["filename"] == .text(disk.folder["a.bin"]))
    #expect(list[0]["cluster-size"] == nil)
  }

  @Test("sparse extents side by side, with an odd last one; descriptors inside them do not count")
  func split() throws {
    let disk = try Disk("RW 8192 SPARSE \"d-s001.vmdk\"\nRW 333 SPARSE \"d-s002.vmdk\"\n", type: "twoGbMaxExtentSparse")
    var first = SparseBuilder()
    first.grains = [1023: .filled(1)]
    var second = SparseBuilder()
    second.capacity = 333
    second.descriptor = nil
    second.grains = [0: .filled(2)]
    _ = try disk.folder.write(first.build(), to: "d-s001.vmdk")
    _ = try disk.folder.write(second.build(), to: "d-s002.vmdk")
    #expect(try disk.map().allocationUnit == 4096)
    #expect(try disk.map().byteCount == 8525 * 512)
    #expect(try disk.bytes(4, at: 8192 * 512 - 2) == [1, 1, 2, 2])
  }

  @Test("a split streamOptimized disk has a footer for each file, and sectors count from the extent's start")
  func splitStream() throws {
    let disk = try Disk("RW 8192 SPARSE \"a\"\nRW 8192 SPARSE \"b\"\n", type: "streamOptimized")
    var builder = SparseBuilder.stream()
    builder.grains = [1: .filled(1)]
    _ = try disk.folder.write(builder.build(), to: "a")
    builder.grains = [1: .filled(2)]
    _ = try disk.folder.write(builder.build(), to: "b")
    #expect(try disk.bytes(1, at: 4096) == [1])
    #expect(try disk.bytes(1, at: (4 << 20) + 4096) == [2])
  }

  @Test("a NOACCESS extent is no part that vanishes: reading it is an error, the others are read")
  func noAccess() throws {
    let disk = try Disk("RW 1 FLAT \"a\" 0\nNOACCESS 8 FLAT \"secret\" 0\nRW 1 FLAT \"a\" 1\n")
    _ = try disk.folder.write(sectors(1, 1) + sectors(2, 1), to: "a")
    #expect(try disk.map().byteCount == 5120)
    #expect(try disk.bytes(1, at: 4608) == [2])
    let error = #expect(throws: ImageError.self) { try disk.bytes(1, at: 512) }
    #expect(error?.code == .forbidden)
    #expect(error?.message == "extent 2 is marked NOACCESS: it must not be read")
  }

  @Test("files outside the folder, protocols and the policy \"none\" are refused: no file is disclosed")
  func references() throws {
    for name in ["/etc/hostname", "../x", "nbd://host/disk", "json:{}", "sub/../../x"] {
      let disk = try Disk("RW 1 FLAT \"\(name)\" 0\n")
      #expect(disk.refusal()?.code == .forbidden, "\(name)")
    }
    let disk = try Disk("RW 1 FLAT \"a\" 0\n")
    _ = try disk.folder.write(sectors(1, 1), to: "a")
    #expect(disk.refusal(.none)?.code == .forbidden)
    #expect(disk.refusal(.none)?.message.hasPrefix("the extent 1 \"a\" is not opened") == true)
    #expect(disk.refusal() == nil)
  }

  @Test("a descriptor that names itself as its extent is refused")
  func selfReference() throws {
    let disk = try Disk("RW 1 FLAT \"disk.vmdk\" 0\n")
    #expect(disk.refusal(.any)?.message == "the extent 1 \"disk.vmdk\" is the descriptor itself")
    let sparse = try Disk("RW 1 SPARSE \"./disk.vmdk\"\n")
    #expect(sparse.refusal(.any)?.code == .corrupt)
  }

  @Test("an extent that is missing is an error, but not where only facts are wanted")
  func missing() throws {
    let disk = try Disk("RW 1 FLAT \"gone\" 0\n")
    #expect(disk.refusal()?.code == .notFound)
    let image = try disk.map(.siblings, OpenContext(isForFactsOnly: true))
    #expect(image.byteCount == 512)
    #expect(image.facts.warnings.count == 1)
    #expect(throws: ImageError.self) { try runs(image) }
  }

  static let badExtents: [(String, String)] = [
    (
      "RW 18014398509481982 FLAT \"a\" 2",
      "the flat extent (18014398509481982 sectors from sector 2) lies past the end of the file (0x400)"
    ),
    ("RW 1 VMFSRDM \"a\"", "extent 1 is a device (VMFSRDM), which is not opened"),
    ("RW 1 SPARSE \"a\"", "the header does not start with \"KDMV\""),
    ("RW 1 VMFSSPARSE \"a\"", "the header does not start with \"COWD\""),
    ("RW 1 SESPARSE \"a\"", "the header does not start with 0xcafebabe"),
    ("RW 8193 SPARSE \"b\"", "the header's capacity is 8192 sectors, fewer than the descriptor's 8193"),
    ("RW 0 ZERO", "extent 1 has 0 sectors"),
    ("# nothing", "the descriptor lists no extent"),
  ]

  @Test("an extent that is not what its line says is refused", arguments: badExtents)
  func refused(line: String, sentence: String) throws {
    let disk = try Disk(line + "\n")
    _ = try disk.folder.write(sectors(1, 2), to: "a")
    var builder = SparseBuilder()
    _ = try disk.folder.write(builder.build(), to: "b")
    #expect(disk.refusal()?.message == sentence)
  }

  @Test(
    "a flat file that is too short is read as far as it goes; the rest is an error, and zeros to who salvages",
    arguments: [(700, 0), (512, 1), (0, 3), (1024, 0)])
  func shortFlat(fileByteCount: Int, offset: Int) throws {
    let disk = try Disk("RW 2 ZERO\nRW 3 FLAT \"a\" \(offset)\nRW 1 FLAT \"b\" 0\n")
    let file = [UInt8](repeating: 7, count: fileByteCount)
    _ = try disk.folder.write(file, to: "a")
    _ = try disk.folder.write(sectors(9, 1), to: "b")
    let present = Array(file.dropFirst(offset * 512))
    let warnings = Mutex<[String]>([])
    let map = try disk.map(.siblings, OpenContext(warn: { text in warnings.withLock { $0.append(text) } }))
    let fault =
      "the flat extent (3 sectors from sector \(offset)) lies past the end of the file (\(UInt64(fileByteCount).hex))"
    #expect(warnings.withLock { $0 } == ["\(disk.folder["a"]): \(fault), and reading it there fails"])
    let report = try (map as? any CheckableMap)?.check(workers: 1) { _ in true }
    #expect(report?.messages == ["\(disk.folder["a"]): \(fault)"])
    #expect(report?.corruptions == 1)
    #expect(try runs(map, limit: 1) == runs(map))

    let image = try DiskImage.open(disk.folder["disk.vmdk"], OpenOptions(format: "vmdk"))
    #expect(try image.read(present.count, at: 1024) == present)
    let error = #expect(throws: ImageError.self) { try image.read(1, at: UInt64(1024 + present.count)) }
    #expect(error?.code == .truncated)
    #expect(error?.message.hasSuffix("but the file ends at \(UInt64(fileByteCount).hex)") == true)
    let losses = Mutex<[Range<UInt64>]>([])
    let salvaged = image.salvaging(Salvage { loss in losses.withLock { $0.append(loss.range) } })
    let rest = [UInt8](repeating: 0, count: 1536 - present.count)
    let whole: [UInt8] = sectors(0, 2) + present + rest + sectors(9, 1)
    #expect(try salvaged.read(3072, at: 0) == whole)
    let lost = UInt64(1024 + present.count)..<2560
    #expect(losses.withLock { $0 } == [lost])
  }

  @Test("a flat file that is too short is not opened for writing")
  func shortFlatWritable() throws {
    let disk = try Disk("RW 3 FLAT \"a\" 0\n")
    _ = try disk.folder.write(sectors(1, 2), to: "a")
    let error = #expect(throws: ImageError.self) { try disk.map(.siblings, OpenContext(isWritable: true)) }
    #expect(error?.message == "the flat extent (3 sectors from sector 0) lies past the end of the file (0x400)")
  }

  /// Trying every sector behind the end of the file took as long as a disk of that size.
  @Test("what a flat file lacks costs salvage nothing", .timeLimit(.minutes(1)))
  func longLoss() throws {
    let disk = try Disk("RW 2147483648 FLAT \"a\" 0\n")
    _ = try disk.folder.write(sectors(1, 2), to: "a")
    let image = try DiskImage.open(disk.folder["disk.vmdk"], OpenOptions(format: "vmdk"))
    let losses = Mutex<[Range<UInt64>]>([])
    let salvaged = image.salvaging(Salvage { loss in losses.withLock { $0.append(loss.range) } })
    #expect(try salvaged.read(1 << 26, at: 1 << 39).allSatisfy { $0 == 0 })
    #expect(losses.withLock { $0.count } <= 64)
  }

  @Test("extents that are together longer than any disk are refused")
  func sum() throws {
    let line = "RW 18014398509481982 ZERO\n"
    #expect(try Disk(line).refusal() == nil)
    #expect(try Disk(line + "RW 2 ZERO\n").refusal()?.code == .corrupt)
  }

  @Test("a header without capacity carries the descriptor of a disk in other files, one step deep")
  func emptyHeader() throws {
    let folder = try ScratchDirectory()
    var builder = SparseBuilder()
    builder.capacity = 0
    builder.descriptor = SparseBuilder.descriptor("RW 2 FLAT \"a\" 0\n")
    _ = try folder.write(builder.build(), to: "disk.vmdk")
    _ = try folder.write(sectors(7, 2), to: "a")
    let image = try DiskImage.open(folder["disk.vmdk"])
    #expect(try image.read(1024, at: 0) == sectors(7, 2))
    // The file itself as its extent would have no sectors, and is refused.
    builder.descriptor = SparseBuilder.descriptor("RW 2 SPARSE \"disk.vmdk\"\n")
    _ = try folder.write(builder.build(), to: "disk.vmdk")
    #expect(throws: ImageError.self) { try DiskImage.open(folder["disk.vmdk"]) }
  }

  @Test("names in folders below, with blanks and beyond ASCII; backslashes separate where no such file is")
  func names() throws {
    let disk = try Disk("RW 1 FLAT \"part s/ä b中.bin\" 0\nRW 1 FLAT \"part s\\x.bin\" 0\n", encoding: "UTF-8")
    _ = try disk.folder.write(sectors(1, 1), to: "part s/ä b中.bin")
    _ = try disk.folder.write(sectors(2, 1), to: "part s/x.bin")
    #expect(try disk.bytes(1024, at: 0) == sectors(1, 1) + sectors(2, 1))
  }

  static let encodedNames: [(String, [UInt8], String)] = [
    ("windows-1252", [0xe4, 0x80, 0x2e, 0x62], "ä€.b"), ("GBK", [0xd6, 0xd0, 0x2e, 0x62], "中.b"),
    ("Big5", [0xa4, 0xa4, 0x2e, 0x62], "中.b"), ("Shift_JIS", [0x83, 0x5c, 0x2e, 0x62], "ソ.b"),
  ]

  @Test(
    "names in the descriptor's encoding find files in UTF-8, and files with those very bytes", arguments: encodedNames)
  func encodings(encoding: String, bytes: [UInt8], name: String) throws {
    let folder = try ScratchDirectory()
    let text = Array("# Disk DescriptorFile\nversion=1\nencoding=\"\(encoding)\"\nCID=1\nRW 1 FLAT \"".utf8)
    _ = try folder.write(text + bytes + Array("\" 0\n".utf8), to: "disk.vmdk")
    _ = try folder.write(sectors(5, 1), to: name)
    let image = try DiskImage.open(folder["disk.vmdk"])
    #expect(try image.read(1, at: 0) == [5])
    let raw = try #require(FilePath(bytes: bytes))
    try writeFile(sectors(6, 1), to: folder.path.pushing(raw))
    #expect(try DiskImage.open(folder["disk.vmdk"]).read(1, at: 0) == [6])
  }

  @Test("seSparse: unallocated, unmapped, zeroed and allocated grains, by the two parts of their number")
  func seSparse() throws {
    let disk = try Disk("RW 32768 SESPARSE \"se\"\n", type: "seSparse")
    var builder = SESparseBuilder()
    builder.entries = [
      1: 0x1000_0000_0000_0000, 2: 0x2000_0000_0000_0000, 3: 0x3001_0000_0000_0000, 4: 0x3000_0000_0000_0000,
    ]
    builder.grainBytes = [8, 9]
    _ = try disk.folder.write(builder.build(), to: "se")
    #expect(try runs(disk.map()).map(\.kind) == [.absent, .zero, .data, .data, .absent])
    #expect(try disk.bytes(2, at: 4 * 4096 - 1) == [9, 8])
  }

  @Test("seSparse: the top twelve bits of a grain's number come from bits 48 to 59")
  func seSparseNumbers() throws {
    let disk = try Disk("RW 32768 SESPARSE \"se\"\n", type: "seSparse")
    var builder = SESparseBuilder()
    // Grain 0x1000: the low part shifted by 12.
    builder.entries = [0: 0x3000_0000_0000_0001]
    builder.grainBytes = [1]
    _ = try disk.folder.write(builder.build(), to: "se")
    let error = #expect(throws: ImageError.self) { try runs(disk.map()) }
    #expect(error?.message.hasPrefix("entry 0 of grain table 0 names grain 4096, past the end of the file") == true)
  }

  static let seSparseFaults: [(Int, UInt64, String)] = [
    (1, 0x2_0000_0002, "the header has version 0x200000002, not 0x200000001"),
    (2, 1 << 60, "the header's capacity, 1152921504606846976 sectors, is more than a file can have"),
    (3, 16, "the header's grain size is 16 sectors, not 8"),
    (4, 32, "the header's grain tables have 32 sectors, not 64"), (5, 1, "the header has unknown flags 0x1"),
    (8, 1, "the header's reserved fields are not 0"),
    (10, 0, "the volatile header does not start with 0xcafecafe"),
    (10, .max, "the volatile header at sector 18446744073709551615 lies past the end of the file"),
    (16, .max, "the grain directory at sector 18446744073709551615 lies past the end of the file"),
    (17, 0, "the header's grain directory has 0 sectors, too few for 1 entries"),
  ]

  @Test("seSparse: a bad header is refused with the field and its value", arguments: seSparseFaults)
  func seSparseHeader(word: Int, value: UInt64, sentence: String) throws {
    let disk = try Disk("RW 32768 SESPARSE \"se\"\n", type: "seSparse")
    var builder = SESparseBuilder()
    builder.words = [word: value]
    _ = try disk.folder.write(builder.build(), to: "se")
    #expect(disk.refusal()?.message == sentence)
  }

  @Test("seSparse: a journal that waits for replay is refused")
  func seSparseJournal() throws {
    let disk = try Disk("RW 32768 SESPARSE \"se\"\n", type: "seSparse")
    _ = try disk.folder.write(SESparseBuilder(replay: 1).build(), to: "se")
    #expect(disk.refusal()?.message == "the journal must be replayed first, which is not supported")
  }

  @Test(
    "seSparse: directory entries without their mark or outside the file are errors",
    arguments: [1, 0x2000_0000_0000_0000, 0x1000_0000_0000_0001, 0x1000_0000_ffff_ffff] as [UInt64])
  func seSparseDirectory(entry: UInt64) throws {
    let disk = try Disk("RW 32768 SESPARSE \"se\"\n", type: "seSparse")
    _ = try disk.folder.write(SESparseBuilder(directoryEntry: entry).build(), to: "se")
    #expect(throws: ImageError.self) { try runs(disk.map()) }
    let map = try #require(try disk.map() as? any CheckableMap)
    #expect(try map.check(workers: 1) { _ in true }.corruptions == 1)
  }
}
