import PlatterCore
import PlatterCrypto
import PlatterDMG
import TestSupport
import Testing

@Suite("A check verifies every checksum and names the partition that fails")
struct CheckTests {
  /// Three partitions with all kinds of chunks between them.
  private func builder() -> DMGBuilder {
    DMGBuilder([
      DMGBuilder.partition("Protective Master Boot Record (MBR : 0)", first: 0, [.raw(1), .end]),
      DMGBuilder.partition("disk image (Apple_HFS : 4)", first: 1, OpenTests.everyKind),
      DMGBuilder.partition("GPT Header (Backup : 6)", first: 16, [.zlib(9, sectors: 3), .zero(sectors: 1), .end]),
    ])
  }

  @Test("a sound image has nothing to report", arguments: 1...3)
  func sound(workers: Int) throws {
    let report = try check(open(builder().build()), workers: workers)
    #expect(report.corruptions == 0 && report.checkErrors == 0 && report.messages.isEmpty)
  }

  @Test("a partition with another content is named, and only it", arguments: 0..<3)
  func wrongPartition(index: Int) throws {
    var image = builder()
    image.partitions[index].checksum = .wrong
    let report = try check(open(image.build()))
    #expect(report.corruptions == 1)
    #expect(report.messages.count == 1)
    #expect(
      report.messages.first?.contains("partition \"\(image.partitions[index].name)\": the crc32 checksum is") == true)
  }

  /// The mistake that breaks every table's checksum: type 0 is summed as zeros, type 2 not at all.
  @Test("zero chunks are summed as zeros, ignored ones are left out")
  func zerosCountIgnoredDoNot() throws {
    let zeros = DMGBuilder(chunks: [.raw(5), .zero(sectors: 1000), .raw(6), .end])
    #expect(try check(open(zeros.build())).corruptions == 0)
    let ignored = DMGBuilder(chunks: [.raw(5), .ignore(sectors: 1000), .raw(6), .end])
    #expect(try check(open(ignored.build())).corruptions == 0)
    // The other way round the sums differ.
    var swapped = zeros
    swapped.partitions[0].checksum = .stored(
      type: 2, bitCount: 32, value: bigEndian(UInt32(truncatingIfNeeded: 0x1234_5678)))
    #expect(try check(open(swapped.build())).corruptions == 1)
  }

  @Test("terabytes of zeros are summed without making them", .timeLimit(.minutes(1)))
  func hugeZeros() throws {
    var image = DMGBuilder(chunks: [.zero(sectors: 1), .end])
    // CRC-32 of 2^40 zero bytes, by squaring.
    image.partitions[0].checksum = .stored(type: 2, bitCount: 32, value: bigEndian(crcOfZeros(powerOfTwo: 40)))
    image.partitions[0].sectorCount = 1 << 31
    image.partitions[0].chunks[0].sectorCount = 1 << 31
    #expect(try check(open(image.buildWithoutModel(sectorCount: 1 << 31))).messages.isEmpty)
  }

  @Test("the master checksum is compared")
  func master() throws {
    var image = builder()
    image.masterChecksum = .wrong
    let report = try check(open(image.build()))
    #expect(report.corruptions == 1)
    #expect(report.messages.first?.hasPrefix("master checksum over all block tables") == true)
  }

  @Test("the data fork's checksum covers its bytes as they lie")
  func dataFork() throws {
    var image = builder()
    image.lead = [UInt8](repeating: 3, count: 100)
    #expect(try check(open(image.build())).corruptions == 0)
    image.dataForkChecksum = .wrong
    let report = try check(open(image.build()))
    #expect(report.corruptions == 1)
    #expect(report.messages.first?.hasPrefix("data fork: the crc32 checksum is") == true)
  }

  @Test("a chunk that cannot be decoded is named with its partition, and its checksum is not counted twice")
  func damagedChunk() throws {
    var image = builder()
    image.partitions[2].chunks[0].payload[0] = 0xFF
    let report = try check(open(image.build()))
    #expect(report.corruptions == 1)
    #expect(report.messages.count == 1)
    #expect(
      report.messages.first?.hasPrefix("partition \"GPT Header (Backup : 6)\": the zlib chunk of sectors 16..18 is bad")
        == true)
  }

  @Test("a chunk that decodes to fewer bytes than its sectors is damage")
  func shortChunk() throws {
    var image = DMGBuilder(chunks: [.zlib(1, sectors: 2), .end])
    image.partitions[0].chunks[0].sectorCount = 3
    image.partitions[0].sectorCount = 3
    let report = try check(open(image.build()))
    #expect(report.corruptions == 1)
    #expect(report.messages.first?.contains("decodes to 1024 bytes instead of 1536") == true)
  }

  @Test("MD5 and SHA checksums are verified too", arguments: [HashAlgorithm.md5, .sha1, .sha256, .sha512])
  func digests(algorithm: HashAlgorithm) throws {
    var image = builder()
    for index in image.partitions.indices {
      let content = DMGBuilder.content(image.partitions[index])
      let value = try PlatterCrypto.Digest.value(of: content.rawBytes, algorithm)
      image.partitions[index].checksum = .stored(type: 4, bitCount: UInt32(8 * value.count), value: value)
    }
    #expect(try check(open(image.build())).messages.isEmpty)
    guard case .stored(_, let bitCount, var value) = image.partitions[1].checksum else { return }
    value[3] ^= 1
    image.partitions[1].checksum = .stored(type: 4, bitCount: bitCount, value: value)
    let report = try check(open(image.build()))
    #expect(report.corruptions == 1)
    #expect(report.messages.first?.contains("disk image (Apple_HFS : 4)") == true)
  }

  @Test("zeros without end under a hash function are not worked through", .timeLimit(.minutes(1)))
  func endlessDigest() throws {
    var image = DMGBuilder(chunks: [.zero(sectors: 1), .end])
    image.partitions[0].checksum = .stored(type: 4, bitCount: 128, value: [UInt8](repeating: 1, count: 16))
    image.partitions[0].sectorCount = 1 << 50
    image.partitions[0].chunks[0].sectorCount = 1 << 50
    let report = try check(open(image.buildWithoutModel(sectorCount: 1 << 50)))
    #expect(report.corruptions == 0)
    #expect(report.messages.first?.contains("was not verified") == true)
  }

  @Test("a chunk too large for memory is decoded in pieces")
  func largeChunk() throws {
    var image = DMGBuilder(chunks: [.adc(0x21, sectors: 16385), .end])
    #expect(try check(open(image.build())).messages.isEmpty)
    image.partitions[0].chunks[0].payload.removeLast(129)
    let report = try check(open(image.build()))
    #expect(report.corruptions == 1)
    #expect(report.messages.first?.contains("adc chunk of sectors 0..16384 is bad") == true)
  }

  @Test("a checksum of an unknown type is said to be not verified, and is no error")
  func unknownType() throws {
    var image = builder()
    image.partitions[0].checksum = .stored(type: 77, bitCount: 24, value: [1, 2, 3])
    let report = try check(open(image.build()))
    #expect(report.corruptions == 0 && report.checkErrors == 0)
    #expect(report.messages.first?.contains("was not verified") == true)
  }

  @Test("an image without checksums has all of its chunks decoded")
  func noChecksums() throws {
    var image = builder()
    for index in image.partitions.indices { image.partitions[index].checksum = .none }
    image.masterChecksum = .none
    image.dataForkChecksum = .none
    #expect(try check(open(image.build())).messages.isEmpty)
    image.partitions[2].chunks[0].payload[0] = 0xFF
    #expect(try check(open(image.build())).corruptions == 1)
  }

  @Test("the caller can cancel")
  func cancelling() throws {
    guard let map = try open(builder().build()) as? any CheckableMap else { return }
    let error = #expect(throws: ImageError.self) { try map.check(workers: 2) { _ in false } }
    #expect(error?.code == .cancelled)
  }

  @Test("facts name partitions, chunks and checksums")
  func facts() throws {
    let map = try open(builder().build())
    let facts = try #require(map.facts.specific)
    #expect(facts["variant"] == .unsigned(1))
    #expect(facts["sector-count"] == .unsigned(20))
    #expect(facts["segment-count"] == .unsigned(1))
    #expect(facts["encrypted"] == .flag(false))
    #expect(facts["data-fork-checksum"]?["type"] == .text("crc32"))
    guard case .list(let partitions)? = facts["partitions"] else { return }
    #expect(partitions.count == 3)
    #expect(partitions[1]["first-sector"] == .unsigned(1))
    #expect(partitions[1]["sectors"] == .unsigned(15))
    #expect(
      partitions[1]["chunks"] == [
        "zero": .unsigned(1), "raw": .unsigned(1), "ignore": .unsigned(1), "adc": .unsigned(1), "zlib": .unsigned(1),
        "bzip2": .unsigned(1), "lzfse": .unsigned(1), "lzma": .unsigned(1),
      ])
  }

  /// Bit by bit, as the definition has it, then by squaring the step.
  private func crcOfZeros(powerOfTwo: Int) -> UInt32 {
    var step = (0..<32).map { bit -> UInt32 in
      var register: UInt32 = 1 << UInt32(bit)
      for _ in 0..<8 { register = register & 1 != 0 ? register >> 1 ^ 0xEDB8_8320 : register >> 1 }
      return register
    }
    func apply(_ matrix: [UInt32], _ vector: UInt32) -> UInt32 {
      (0..<32).reduce(0) { vector >> UInt32($1) & 1 != 0 ? $0 ^ matrix[$1] : $0 }
    }
    for _ in 0..<powerOfTwo { step = step.map { apply(step, $0) } }
    return ~apply(step, .max)
  }
}
