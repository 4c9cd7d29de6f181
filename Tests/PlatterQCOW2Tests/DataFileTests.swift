import PlatterCore
import PlatterQCOW2
import SystemPackage
import TestSupport
import Testing

@Suite struct DataFileTests {
  private func image() -> QCOW2Builder {
    var image = QCOW2Builder(byteCount: 4 * 65536 - 100)
    image.dataFileName = "disk.data"
    image.entries = [0: .data([]), 1: .data([]), 2: .zero, 3: .data([])]
    return image
  }

  private func context(_ folder: ScratchDirectory, options: [String: String] = [:], factsOnly: Bool = false)
    -> OpenContext
  {
    OpenContext(
      path: folder.file("disk.qcow2"), resolver: ReferenceResolver(.siblings), options: options,
      isForFactsOnly: factsOnly)
  }

  @Test("guest bytes lie in the data file beside the image, at the guest's offset")
  func besideTheImage() throws {
    let folder = try ScratchDirectory()
    try folder.write(filled(5, 4 * 65536 - 100), to: "disk.data")
    let map = try open(image(), context(folder))
    #expect(map.stores.count == 2)
    let expected: [Extent] = [
      .data(start: 0, byteCount: 2 * 65536, store: 1, offset: 0), .zero(start: 2 * 65536, byteCount: 65536),
      .data(start: 3 * 65536, byteCount: 65536 - 100, store: 1, offset: 3 * 65536),
    ]
    #expect(try runs(map) == expected)
    #expect(map.facts.references == ["disk.data"])
    #expect(map.facts.specific?["data-file"] == .text("disk.data"))
    #expect(map.facts.specific?["data-file-raw"] == .flag(false))
  }

  @Test("the caller may name another data file")
  func named() throws {
    let folder = try ScratchDirectory()
    try folder.write(filled(5, 4 * 65536), to: "other")
    let map = try open(image(), context(folder, options: ["data-file.filename": folder["other"]]))
    #expect(map.stores.last?.name == folder["other"])
  }

  @Test("naming a data file for an image without one is a mistake")
  func superfluous() throws {
    let folder = try ScratchDirectory()
    try folder.write(filled(5), to: "other")
    #expect(throws: ImageError.self) {
      try open(
        QCOW2Builder(byteCount: 65536), context(folder, options: ["data-file.filename": folder["other"]]))
    }
  }

  @Test("a missing data file hinders reading, not the facts")
  func missing() throws {
    let folder = try ScratchDirectory()
    let error = #expect(throws: ImageError.self) { try open(image(), context(folder)) }
    #expect(error?.code == .notFound)
    #expect(try open(image(), context(folder, factsOnly: true)).facts.references == ["disk.data"])
  }

  @Test("names that are no plain path are refused", arguments: ["json:{}", "nbd://host/x", "../disk.data"])
  func forbidden(name: String) throws {
    let folder = try ScratchDirectory()
    try folder.write(filled(5), to: "disk.data")
    var image = image()
    image.dataFileName = name
    let error = #expect(throws: ImageError.self) { try open(image, context(folder)) }
    #expect(error?.code == .forbidden)
    #expect(try open(image, context(folder, factsOnly: true)).facts.references == [name])
  }

  @Test(
    "a cluster past the data file's end, elsewhere in it, or compressed is an error",
    arguments: [
      BadWord(1 << 63 | 65536, "not at the guest's offset (0x30000)"), BadWord(1 << 63, "not at the guest's offset"),
      BadWord(1 << 62 | 65536, "compressed cluster"), BadWord(1 << 63 | 0x30000, "reaches past the end"),
    ])
  func badEntry(_ bad: BadWord) throws {
    let folder = try ScratchDirectory()
    try folder.write(filled(5, 3 * 65536), to: "disk.data")
    var image = image()
    image.entries[3] = .raw(bad.word)
    let map = try open(image, context(folder))
    var extents: [Extent] = []
    let error = #expect(throws: ImageError.self) {
      try map.map(3 * 65536..<map.byteCount, limit: 1, into: &extents)
    }
    #expect(error?.message.contains(bad.says) == true, "\(error?.message ?? "")")
  }

  @Test("an extended entry in a data file needs no offset for the first cluster")
  func extended() throws {
    let folder = try ScratchDirectory()
    try folder.write(filled(5, 65536), to: "disk.data")
    var image = QCOW2Builder(byteCount: 65536)
    image.hasExtendedL2 = true
    image.dataFileName = "disk.data"
    image.entries = [0: .subclusters("-a" + String(repeating: "z", count: 30), [])]
    let expected: [Extent] = [
      .absent(start: 0, byteCount: 2048, store: 1, offset: 0),
      .data(start: 2048, byteCount: 2048, store: 1, offset: 2048),
      .zero(start: 4096, byteCount: 61440, store: 1, offset: 4096),
    ]
    #expect(try runs(open(image, context(folder))) == expected)
  }
}
