import PlatterCore
import PlatterDMG
import SystemPackage
import TestSupport
import Testing

@Suite("Images in several segments")
struct SegmentTests {
  let scratch: ScratchDirectory
  private let image = DMGBuilder(chunks: [
    .raw(1, sectors: 3), .zlib(2, sectors: 4), .zero(sectors: 2), .bzip2, .raw(3), .end,
  ])

  init() throws { scratch = try ScratchDirectory() }

  /// Cuts the data fork in parts, each with a trailer; the first has the property list.
  ///
  /// - Parameters:
  ///   - change: changes the trailer of a segment.
  ///   - wrap: what becomes of a segment's bytes before they are written.
  private func write(
    cuts: [Int], change: (Int, inout [UInt8]) -> Void = { _, _ in },
    wrap: (Int, [UInt8]) throws -> [UInt8] = { $1 }
  ) throws -> FilePath {
    let whole = image.build()
    let forkCount = image.partitions[0].chunks.reduce(0) { $0 + $1.payload.count }
    let list = Array(whole[forkCount..<whole.count - 512])
    let bounds = [0] + cuts + [forkCount]
    for number in 1..<bounds.count {
      var fork = Array(whole[bounds[number - 1]..<bounds[number]])
      var trailer = Array(whole.suffix(512))
      func set(_ offset: Int, _ value: [UInt8]) { trailer.replaceSubrange(offset..<offset + value.count, with: value) }
      set(16, bigEndian(UInt64(bounds[number - 1])))
      set(24, bigEndian(UInt64(0)) + bigEndian(UInt64(fork.count)))
      set(56, bigEndian(UInt32(number)) + bigEndian(UInt32(bounds.count - 1)))
      set(216, bigEndian(UInt64(fork.count)) + bigEndian(UInt64(number == 1 ? list.count : 0)))
      change(number, &trailer)
      if number == 1 { fork += list }
      let name = number == 1 ? "disk.dmg" : "disk.00\(number).dmgpart"
      try scratch.write(try wrap(number, fork + trailer), to: name)
    }
    return scratch.file("disk.dmg")
  }

  private func open(_ path: FilePath, _ policy: ReferencePolicy, _ passphrase: String? = nil) throws -> any ImageMap {
    let context = OpenContext(
      path: path, resolver: ReferenceResolver(policy),
      passphrase: { () throws(ImageError) in passphrase.map { Array($0.utf8) } })
    return try DMG.open(FileStore(path), context)
  }

  @Test(
    "the data forks follow one another, whatever chunk a cut goes through",
    arguments: [[100], [1536, 2000], [700, 3700]])
  func reads(cuts: [Int]) throws {
    let map = try open(try write(cuts: cuts), .siblings)
    #expect(try contents(map) == image.disk)
    #expect(try check(map).corruptions == 0)
    #expect(map.facts.specific?["segment-count"] == .unsigned(UInt64(cuts.count + 1)))
    #expect(map.facts.references.count == cuts.count)
  }

  @Test("without leave no other file is opened; facts need none")
  func policy() throws {
    let path = try write(cuts: [100])
    let error = #expect(throws: ImageError.self) { try open(path, .none) }
    #expect(error?.code == .forbidden)
    var context = OpenContext(path: path)
    context.isForFactsOnly = true
    let map = try DMG.open(FileStore(path), context)
    #expect(map.byteCount == UInt64(image.disk.count))
  }

  @Test("a missing segment is named")
  func missing() throws {
    let path = try write(cuts: [100]) { _, trailer in trailer.replaceSubrange(60..<64, with: bigEndian(UInt32(3))) }
    let error = #expect(throws: ImageError.self) { try open(path, .siblings) }
    #expect(error?.code == .notFound)
    #expect(error?.message.contains("segment 3") == true)
  }

  @Test("a segment of another image is refused")
  func stranger() throws {
    let path = try write(cuts: [100]) { number, trailer in if number == 2 { trailer[64] ^= 1 } }
    let error = #expect(throws: ImageError.self) { try open(path, .siblings) }
    #expect(error?.message.contains("belongs to another image") == true)
  }

  @Test("a segment in the wrong place is refused")
  func misplaced() throws {
    let path = try write(cuts: [100]) { number, trailer in if number == 2 { trailer[23] ^= 1 } }
    let error = #expect(throws: ImageError.self) { try open(path, .siblings) }
    #expect(error?.message.contains("begins at byte 0x65 of the data fork, not at 0x64") == true)
  }

  // MARK: Encrypted ones: each file by itself.

  /// An encrypted file of its own: other keys, salt and size of blocks than those of its neighbours.
  private func encrypted(
    _ number: Int, _ bytes: [UInt8], passphrase: String = "test123", iterations: UInt32 = 7
  ) throws -> [UInt8] {
    var builder = EncryptedDMGBuilder()
    builder.generator = SeededGenerator(seed: UInt64(number))
    builder.keyBits = number % 2 == 0 ? 128 : 256
    builder.blockByteCount = 512 << number
    builder.passphrase = Array(passphrase.utf8)
    builder.iterations = iterations
    builder.plain = bytes
    return try builder.version2()
  }

  @Test("segments that are encrypted, each under keys of its own, read as one disk", arguments: [[100], [700, 3700]])
  func encryptedSegments(cuts: [Int]) throws {
    let path = try write(cuts: cuts, wrap: { number, bytes in try encrypted(number, bytes) })
    let map = try open(path, .siblings, "test123")
    #expect(try contents(map) == image.disk)
    #expect(map.isEncrypted)
    #expect(map.facts.specific?["encryption"]?["cipher-alg"] == .text("aes-256"))
    #expect(map.facts.specific?["segment-count"] == .unsigned(UInt64(cuts.count + 1)))
    #expect(try check(map).corruptions == 0)
    let forbidden = #expect(throws: ImageError.self) { try open(path, .none, "test123") }
    #expect(forbidden?.code == .forbidden)
  }

  @Test("facts of an encrypted first segment need no other file, and without a passphrase nothing is known of them")
  func encryptedFacts() throws {
    let path = try write(cuts: [100], wrap: { number, bytes in try encrypted(number, bytes) })
    var context = OpenContext(path: path, isForFactsOnly: true)
    #expect(try DMG.open(FileStore(path), context).facts.specific?["segment-count"] == nil)
    context.passphrase = { () throws(ImageError) in Array("test123".utf8) }
    #expect(try DMG.open(FileStore(path), context).facts.specific?["segment-count"] == .unsigned(2))
  }

  @Test("a segment under another passphrase is named")
  func otherPassphrase() throws {
    let path = try write(
      cuts: [100],
      wrap: { number, bytes in
        try encrypted(number, bytes, passphrase: number == 1 ? "test123" : "other")
      })
    let error = #expect(throws: ImageError.self) { try open(path, .siblings, "test123") }
    #expect(error?.message.hasPrefix("invalid passphrase") == true)
    #expect(error?.file?.hasSuffix("disk.002.dmgpart") == true)
  }

  @Test("a segment in the clear among encrypted ones is refused, and the other way round", arguments: [1, 2])
  func mixed(plain: Int) throws {
    let path = try write(
      cuts: [100],
      wrap: { number, bytes in
        number == plain ? bytes : try encrypted(number, bytes)
      })
    let error = #expect(throws: ImageError.self) { try open(path, .siblings, "test123") }
    #expect(error?.message == "segment 2 is \(plain == 2 ? "not " : "")encrypted, unlike the first segment")
  }

  @Test("an encrypted file that was cut in pieces as it is, is refused")
  func cutContainer() throws {
    let whole = try encrypted(1, image.build())
    try scratch.write(Array(whole.prefix(whole.count - 600)), to: "disk.dmg")
    try scratch.write(Array(whole.suffix(600)), to: "disk.002.dmgpart")
    let error = #expect(throws: ImageError.self) { try open(scratch.file("disk.dmg"), .siblings, "test123") }
    #expect(error?.code == .truncated)
  }

  /// The limit of one file would let an image with 999 segments ask for hours of work.
  @Test("the work of all passphrases together has one limit")
  func iterations() throws {
    let path = try write(
      cuts: [100],
      wrap: { number, bytes in
        var file = try encrypted(number, bytes)
        // The second segment alone asks for as much as the limit allows; the first asks for seven.
        if number == 2 { file.replaceSubrange(1032..<1036, with: bigEndian(UInt32(100_000_000))) }
        return file
      })
    let error = #expect(throws: ImageError.self) { try open(path, .siblings, "test123") }
    #expect(error?.code == .unsupported)
    #expect(error?.message.contains("more than 100000000 iterations") == true)
  }
}
