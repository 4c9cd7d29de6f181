import PlatterCore
import PlatterVMDK
import TestSupport
import Testing

@Suite("VMDK: streamOptimized") struct StreamTests {
  @Test(
    "grains are found by tables in front, by the footer, and by tables at the end",
    arguments: [SparseBuilder.Directory.front, .footer, .end])
  func layouts(directory: SparseBuilder.Directory) throws {
    var builder = SparseBuilder.stream(directory)
    builder.grains = [1: .filled(1), 600: .filled(2)]
    let bytes = builder.build()
    let image = try open(bytes)
    let place = try #require(builder.grainPlaces[1])
    let expected = Extent.packed(
      start: 4096, byteCount: 4096, codec: .zlib, store: 0, offset: place + 12, packedByteCount: 4096 + 11,
      unitStart: 4096, unitByteCount: 4096)
    #expect(try runs(image)[1] == expected)
    #expect(try guestBytes(bytes, 4, at: 4094) == [0, 0, 1, 1])
    #expect(try guestBytes(bytes, 2, at: 601 * 4096 - 1) == [2, 0])
  }

  @Test("compression is told, and the format has no descriptor name")
  func facts() throws {
    var builder = SparseBuilder.stream()
    guard case .list(let extents) = try open(builder.build()).facts.specific?["extents"] else {
      Issue.record("no extents")
      return
    }
    #expect(extents.first?["compressed"] == .flag(true))
  }

  @Test("without markers the stream starts at the sector, and what is behind it is ignored")
  func withoutMarkers() throws {
    var builder = SparseBuilder.stream(.front)
    builder.flags = 0x10001
    builder.grains = [0: .filled(3), 1: .filled(4)]
    let bytes = builder.build()
    let first = try #require(try runs(open(bytes)).first)
    #expect(first.offset == builder.grainPlaces[0])
    #expect(first.packedByteCount <= UInt64(bytes.count) - first.offset)
    #expect(try guestBytes(bytes, 2, at: 4095) == [3, 4])
  }

  @Test("the last grain of a disk that is no multiple of it may be stored whole")
  func oddCapacity() throws {
    var builder = SparseBuilder.stream()
    builder.capacity = 11
    builder.descriptor = SparseBuilder.descriptor("RW 11 SPARSE \"x\"\n")
    builder.grains = [1: .filled(5)]
    let bytes = builder.build()
    #expect(try runs(open(bytes)).last?.unitByteCount == 3 * 512)
    #expect(try guestBytes(bytes, 3 * 512, at: 4096) == [UInt8](repeating: 5, count: 3 * 512))
  }

  @Test("a marker for another sector is refused")
  func wrongSector() throws {
    var builder = SparseBuilder.stream()
    builder.grains = [1: .marked(1, lba: 16, size: nil)]
    let error = try #require(try mapError(builder.build()))
    let place = (builder.grainPlaces[1] ?? 0).hex
    #expect(error.message == "the marker at \(place) is for sector 16, and the table expects sector 8")
  }

  static let sizes: [(UInt32, String)] = [
    (0, "is of metadata, not of a grain"), (5000, "lies past the end of the file"),
    (20000, "packed bytes, more than any can have (12288)"), (.max, "packed bytes, more than any can have (12288)"),
  ]

  @Test("a marker with a size of 0, of more than a grain can have, or past the end is refused", arguments: sizes)
  func wrongSize(size: UInt32, sentence: String) throws {
    var builder = SparseBuilder.stream(.front)
    builder.grains = [1: .marked(1, lba: 8, size: size)]
    let error = try #require(try mapError(builder.build()))
    #expect(error.message.contains(sentence))
  }

  @Test("the size in the marker is believed: less than the stream is a damaged grain")
  func shortSize() throws {
    var builder = SparseBuilder.stream()
    builder.grains = [1: .marked(1, lba: 8, size: 100)]
    let bytes = builder.build()
    #expect(throws: ImageError.self) { try guestBytes(bytes, 1, at: 4096) }
  }

  @Test("a damaged grain is an error that names its place, not zeros")
  func damagedGrain() throws {
    var builder = SparseBuilder.stream()
    builder.grains = [1: .filled(1)]
    var bytes = builder.build()
    let place = Int(builder.grainPlaces[1] ?? 0) + 12
    bytes[place] = 0xff
    let error = #expect(throws: ImageError.self) { try guestBytes(bytes, 1, at: 4096) }
    #expect(error?.code == .corrupt)
    #expect(error?.description.contains(UInt64(place).hex) == true)
  }

  @Test("a file that ends without its footer is refused", arguments: [1, 512, 1024, 1536, 4096])
  func cut(length: Int) throws {
    var builder = SparseBuilder.stream()
    builder.grains = [1: .filled(1)]
    let error = try #require(refusal(Array(builder.build().dropLast(length))))
    #expect(error.code == .truncated)
  }

  @Test("a file too short for a footer is refused")
  func tooShort() throws {
    var builder = SparseBuilder.stream()
    #expect(refusal(Array(builder.build().prefix(1024)))?.code == .truncated)
  }

  @Test("a footer with a bad header, or that defers to a footer, is refused")
  func badFooter() throws {
    var builder = SparseBuilder.stream()
    let bytes = builder.build()
    let footer = bytes.count - 1024
    #expect(refusal(bytes.with(UInt64.max, at: footer + 56))?.message == "the footer refers to a footer")
    #expect(
      refusal(bytes.with(UInt32(9), at: footer + 4))?.message == "in the footer, the header has version 9, not 1 to 3")
    #expect(refusal(bytes.with(UInt32(9), at: footer))?.code == .truncated)
    #expect(refusal(bytes.with(UInt64(1 << 40), at: footer + 56))?.code == .truncated)
  }
}
