import CBzip2
import PlatterCodecs
import PlatterCore
import TestSupport
import Testing

@Suite struct BZip2Tests {
  private let fixture = BZip2Fixture()

  /// Whole and in pieces, which must agree.
  private func decode(_ packed: [UInt8], _ byteCount: Int) throws(ImageError) -> [UInt8] {
    let pieces = try? decodeStream(.bzip2, packed, byteCount: byteCount)
    do throws(ImageError) {
      let unit = try decodeUnit(.bzip2, packed, byteCount: byteCount)
      if unit.count == byteCount { #expect(pieces == unit.bytes) } else { #expect(pieces == nil) }
      return unit.bytes
    } catch {
      #expect(pieces == nil)
      throw error
    }
  }

  private func pack(_ bytes: [UInt8], level: Int = 9) throws -> [UInt8] {
    let room = bytes.count + bytes.count / 50 + 1000
    return try #require(
      PlatterCodecsTests.pack(bytes, room: room) { Bzip2Encoder(level: level).encode($0, into: &$1) })
  }

  /// libbz2's answer; nil where it objects.
  private func decodeByLibrary(_ packed: [UInt8], _ byteCount: Int) -> [UInt8]? {
    var input = packed
    var output = [UInt8](repeating: 0, count: byteCount)
    var produced = UInt32(byteCount)
    let status = unsafe input.withUnsafeMutableBytes { input in
      unsafe output.withUnsafeMutableBytes { output in
        unsafe BZ2_bzBuffToBuffDecompress(
          output.baseAddress?.assumingMemoryBound(to: CChar.self), &produced,
          input.baseAddress?.assumingMemoryBound(to: CChar.self), UInt32(input.count), 0, 0)
      }
    }
    return status == BZ_OK ? Array(output.prefix(Int(produced))) : nil
  }

  private func expectDamage(_ fixture: BZip2Fixture, _ words: String) {
    let error = #expect(throws: ImageError.self) { try decode(fixture.bytes, max(fixture.text.count, 1)) }
    #expect(error?.code == .corrupt)
    #expect(error?.message.contains(words) == true, "\(error?.message ?? "")")
  }

  @Test("a block built by the book is read, and libbz2 reads it too")
  func book() throws {
    #expect(try decode(fixture.bytes, 6) == fixture.text)
    #expect(decodeByLibrary(fixture.bytes, 6) == fixture.text)
  }

  @Test("several blocks", arguments: [99_981, 100_000, 212_345])
  func blocks(count: Int) throws {
    for bytes in [Samples.mixed(count, seed: 3), Samples.noise(count, seed: 4)] {
      let packed = try pack(bytes, level: 1)
      #expect(try decodeUnit(.bzip2, packed, byteCount: count).bytes == bytes)
      #expect(try decodeStream(.bzip2, packed, byteCount: count, pieceByteCount: 1 << 16) == bytes)
    }
  }

  @Test("a block of the largest size")
  func largestBlock() throws {
    let bytes = Samples.text(905_000, seed: 6)
    #expect(try decodeUnit(.bzip2, try pack(bytes), byteCount: bytes.count).bytes == bytes)
  }

  @Test("a text that repeats itself, whose rotations form several rings", arguments: [1, 2, 3, 50, 2048, 4096, 5000])
  func periods(period: Int) throws {
    let part = Samples.noise(period, seed: UInt64(period))
    for times in [2, 3, 64] where period * times < 400_000 {
      let bytes = Array([[UInt8]](repeating: part, count: times).joined())
      #expect(try decodeUnit(.bzip2, try pack(bytes), byteCount: bytes.count).bytes == bytes)
    }
  }

  @Test(
    "texts around the borders of cuts and pages", arguments: [1, 2, 511, 512, 513, 2047, 2048, 2049, 16_384, 40_961])
  func borders(count: Int) throws {
    for seed: UInt64 in 0..<8 {
      let bytes = seed % 2 == 0 ? Samples.text(count, seed: seed) : Samples.noise(count, seed: seed)
      #expect(try decodeUnit(.bzip2, try pack(bytes), byteCount: count).bytes == bytes)
    }
  }

  @Test(
    "runs of every length are written out, also where the pieces cut them", arguments: [1, 3, 4, 5, 8, 254, 260, 1000])
  func runs(length: Int) throws {
    var bytes: [UInt8] = []
    for byte in UInt8(0)..<40 { bytes += [UInt8](repeating: byte, count: length + Int(byte % 3)) }
    #expect(try decode(try pack(bytes), bytes.count) == bytes)
  }

  @Test("four equal bytes and a count of 0 to 255 make 4 to 259", arguments: [0, 1, 255])
  func counts(count: Int) throws {
    let content = [7, 8] + [UInt8](repeating: 9, count: 4 + count) + [9, 9, 9, 1]
    let block = fixture.with {
      $0.text = [7, 8, 9, 9, 9, 9, UInt8(count), 9, 9, 9, 1]
      $0.content = content
    }
    #expect(try decode(block.bytes, content.count) == content)
    #expect(decodeByLibrary(block.bytes, content.count) == content)
  }

  @Test("four equal bytes at the end of a block need their count")
  func missingCount() {
    let block = fixture.with { $0.text = [1, 2, 3, 3, 3, 3] }
    expectDamage(block, "without its length")
    #expect(decodeByLibrary(block.bytes, 6) == nil)
  }

  @Test("codes of 1 to 20 bits")
  func longCodes() throws {
    let lengths = Array(1...19) + [20, 20]
    let block = fixture.with {
      $0.text = Array(0..<19) + [18, 3, 17, 0, 16]
      $0.lengths = [lengths, Array(lengths.reversed())]
    }
    #expect(try decode(block.bytes, 24) == block.text)
    #expect(decodeByLibrary(block.bytes, 24) == block.text)
  }

  @Test("six tables that take turns, and more groups named than there are symbols")
  func tables() throws {
    let text = Samples.noise(700, seed: 2)
    for (tableCount, surplus) in [(2, 0), (6, 0), (6, 18_010)] {
      let block = fixture.with {
        $0.text = text
        $0.tableCount = tableCount
        $0.surplusGroups = surplus
      }
      #expect(try decode(block.bytes, text.count) == text)
    }
  }

  @Test("tables with too few codes, or too many, are no damage as long as only sound ones are used")
  func oddTables() throws {
    for lengths in [[3, 3, 3, 3, 3], [12, 12, 12, 12, 12]] {
      let block = fixture.with { $0.lengths = [lengths, lengths] }
      #expect(try decode(block.bytes, 6) == fixture.text)
    }
    // Of the tables that take turns, one group uses the last.
    let unused = fixture.with { $0.lengths = [[1, 1, 1, 1, 1], [3, 3, 3, 3, 3]] }
    #expect(try decode(unused.bytes, 6) == fixture.text)
    #expect(decodeByLibrary(unused.bytes, 6) == fixture.text)
  }

  @Test("bits that are no code are damage, after short codes and after long ones", arguments: [3, 12])
  func noCode(length: Int) {
    let block = fixture.with {
      $0.lengths = [[Int]](repeating: [Int](repeating: length, count: 5), count: 2)
      $0.endCode = 1 << length - 1
    }
    expectDamage(block, "bits that are no code")
  }

  @Test("what contradicts itself is damage, and is named")
  func damages() {
    expectDamage(fixture.with { $0.checksumChange = 1 }, "wrong checksum")
    expectDamage(fixture.with { $0.combinedChange = 1 << 31 }, "wrong checksum over its blocks")
    expectDamage(fixture.with { $0.textRow = 6 }, "row 6")
    expectDamage(fixture.with { $0.level = 0x30 }, "does not begin")
    expectDamage(fixture.with { $0.endMagic = 0x1772_4538_5091 }, "neither a block nor the end")
    expectDamage(fixture.with { $0.groupCount = 0 }, "without symbols")
    expectDamage(fixture.with { $0.lengths = [[21, 3, 3, 3, 3], [3, 3, 3, 3, 3]] }, "a code of 21 bits")
    expectDamage(fixture.with { $0.text = [] }, "uses no byte")
  }

  @Test("a block of more bytes than the stream's block size is damage")
  func tooManyBytes() throws {
    var packed = try pack(Samples.noise(150_000, seed: 5), level: 2)
    packed[3] = 0x31
    let error = #expect(throws: ImageError.self) { try decode(packed, 150_000) }
    #expect(error?.message.contains("more than 100000 bytes") == true)
  }

  @Test("a randomised block is refused by that name")
  func randomised() {
    let error = #expect(throws: ImageError.self) { try decode(fixture.with { $0.isRandomised = true }.bytes, 6) }
    #expect(error?.code == .unsupported)
    #expect(error?.message.contains("randomised") == true)
  }

  @Test("a damaged stream gives what libbz2 makes of it, or is refused by both", arguments: 0..<4)
  func likeTheLibrary(seed: Int) throws {
    let bytes = Samples.mixed(3000, seed: UInt64(seed))
    let packed = try pack(bytes, level: 1)
    var generator = SeededGenerator(seed: UInt64(seed) + 50)
    for _ in 0..<300 {
      var damaged = packed
      let position = Int.random(in: 4..<packed.count, using: &generator)
      damaged[position] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
      let ours = try? decodeUnit(.bzip2, damaged, byteCount: 3000).bytes
      let isSame = ours == decodeByLibrary(damaged, 3000)
      #expect(isSame, "byte \(position)")
    }
  }
}
