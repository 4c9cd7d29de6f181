import PlatterCodecs
import PlatterCore
import Testing

/// A plain LZFSE block built from the specification, field by field. As it stands: tables of one symbol each, which
/// take no bits; four literals "A", one match of 5 bytes at distance 1.
struct PlainBlock {
  var rawByteCount: UInt32 = 9
  var literalCount: UInt32 = 4
  var matchCount: UInt32 = 1
  var literalBits: Int32 = 0
  var literalStates: [UInt16] = [0, 0, 0, 0]
  var matchBits: Int32 = 0
  /// Literal run, match length, distance.
  var states: [UInt16] = [0, 0, 0]
  /// Symbol to frequency.
  var literalRuns: [Int: UInt16] = [4: 64]
  var matchLengths: [Int: UInt16] = [5: 64]
  var distances: [Int: UInt16] = [1: 256]
  var literals: [Int: UInt16] = [0x41: 1024]
  var literalPayload: [UInt8] = []
  var matchPayload: [UInt8] = []
  var padding: [UInt8] = [0, 0]
  var tail = Array("bvx$".utf8)

  var bytes: [UInt8] {
    var bytes = Array("bvx1".utf8)
    let payloads = [literalPayload, matchPayload]
    bytes += rawByteCount.littleEndianBytes + UInt32(payloads.joined().count).littleEndianBytes
    bytes += literalCount.littleEndianBytes + matchCount.littleEndianBytes
    for payload in payloads { bytes += UInt32(payload.count).littleEndianBytes }
    bytes += literalBits.littleEndianBytes
    for state in literalStates { bytes += state.littleEndianBytes }
    bytes += matchBits.littleEndianBytes
    for state in states { bytes += state.littleEndianBytes }
    for (table, count) in [(literalRuns, 20), (matchLengths, 20), (distances, 64), (literals, 256)] {
      for symbol in 0..<count { bytes += (table[symbol] ?? 0).littleEndianBytes }
    }
    return bytes + padding + literalPayload + matchPayload + tail
  }

  func with(_ change: (inout PlainBlock) -> Void) -> PlainBlock {
    var block = self
    change(&block)
    return block
  }
}

@Suite struct LZFSETests {
  private let block = PlainBlock()

  private func decode(_ packed: [UInt8], _ byteCount: Int) throws(ImageError) -> [UInt8] {
    let pieces = try? decodeStream(.lzfse, packed, byteCount: byteCount)
    do throws(ImageError) {
      let unit = try decodeUnit(.lzfse, packed, byteCount: byteCount)
      if unit.count == byteCount { #expect(pieces == unit.bytes) } else { #expect(pieces == nil) }
      return unit.bytes
    } catch {
      #expect(pieces == nil)
      throw error
    }
  }

  private func expectRefused(_ block: PlainBlock, _ byteCount: Int = 9, _ location: SourceLocation = #_sourceLocation) {
    let error = #expect(throws: ImageError.self, sourceLocation: location) { try decode(block.bytes, byteCount) }
    #expect(error?.code == .corrupt, sourceLocation: location)
  }

  @Test("the plain header has 772 bytes, two of them padding of any value")
  func plainHeader() throws {
    #expect(block.bytes.count == 772 + 4)
    #expect(try decode(block.bytes, 9) == [UInt8](repeating: 0x41, count: 9))
    #expect(try decode(block.with { $0.padding = [1, 2] }.bytes, 9) == [UInt8](repeating: 0x41, count: 9))
  }

  @Test("frequencies that do not fill their table are refused: some states would lead nowhere")
  func shortTables() {
    expectRefused(block.with { $0.literals = [0x41: 1023] })
    expectRefused(block.with { $0.literals = [:] })
    expectRefused(block.with { $0.literalRuns = [4: 63] })
    expectRefused(block.with { $0.matchLengths = [5: 63] })
    expectRefused(block.with { $0.distances = [1: 255] })
    expectRefused(block.with { $0.literals = [0x41: 1024, 0x42: 1] })
    expectRefused(block.with { $0.distances = [1: 65_535, 2: 65_535] })
  }

  @Test("a block that gives more or fewer bytes than its header says is refused")
  func rawSizeMismatch() {
    expectRefused(block.with { $0.rawByteCount = 8 })
    expectRefused(block.with { $0.rawByteCount = 10 }, 10)
    expectRefused(block.with { $0.rawByteCount = 10 }, 20)
    expectRefused(block.with { $0.matchCount = 0 })
  }

  @Test("a packed header that claims any size is bounded before it is read", arguments: [0, 31, 663, 772, 0xFFFF_FFFF])
  func packedHeaderSize(size: UInt64) {
    let words = [UInt64(0), 0, size].flatMap(\.littleEndianBytes)
    let packed = Array("bvx2".utf8) + UInt32(0).littleEndianBytes + words + [UInt8](repeating: 0, count: 2000)
    #expect(throws: ImageError.self) { try decode(packed, 100) }
  }

  @Test("a packed header longer or shorter than its frequencies is refused", arguments: 32...662)
  func packedHeaderLength(size: Int) {
    // All frequencies 0 take 90 bytes; so does no other size.
    let words = [UInt64(7) << 60, UInt64(7) << 60, UInt64(size)].flatMap(\.littleEndianBytes)
    let packed =
      Array("bvx2".utf8) + UInt32(0).littleEndianBytes + words + [UInt8](repeating: 0, count: size - 32)
      + Array("bvx$".utf8)
    let unit = try? decodeUnit(.lzfse, packed, byteCount: 100)
    #expect((unit?.count == 0) == (size == 32 || size == 122))
  }

  @Test("a stored block is held to its input and to the unit")
  func storedBlock() throws {
    let header = Array("bvx-".utf8)
    let end = Array("bvx$".utf8)
    #expect(try decode(header + UInt32(3).littleEndianBytes + [1, 2, 3] + end, 3) == [1, 2, 3])
    for size: UInt32 in [4, 7, 8, 1 << 20, .max] {
      #expect(throws: ImageError.self) { try decode(header + size.littleEndianBytes + [1, 2, 3] + end, 3) }
      #expect(throws: ImageError.self) { try decode(header + size.littleEndianBytes + [1, 2, 3] + end, 1 << 16) }
    }
  }

  @Test("a block that claims 4 GiB is refused without being decoded")
  func hugeRawSize() {
    expectRefused(block.with { $0.rawByteCount = .max })
    let lzvn =
      Array("bvxn".utf8) + UInt32.max.littleEndianBytes + UInt32(8).littleEndianBytes + [6, 0, 0, 0, 0, 0, 0, 0]
    #expect(throws: ImageError.self) { try decode(lzvn + Array("bvx$".utf8), 100) }
    let payload = Array("bvxn".utf8) + UInt32(1).littleEndianBytes + UInt32.max.littleEndianBytes + [0xE1, 1]
    #expect(throws: ImageError.self) { try decode(payload, 100) }
  }

  @Test("literals that pad the last group are not used")
  func paddedLiterals() throws {
    let padded = block.with {
      $0.literalCount = 8
      $0.literalRuns = [5: 64]
      $0.rawByteCount = 10
    }
    #expect(try decode(padded.bytes, 10) == [UInt8](repeating: 0x41, count: 10))
  }

  @Test("a match that takes more literals than there are is refused")
  func tooManyLiterals() {
    expectRefused(
      block.with {
        $0.literalRuns = [5: 64]
        $0.rawByteCount = 10
      }, 10)
  }

  @Test("the first match of a block cannot repeat a distance, not even the block before's")
  func repeatedDistance() {
    expectRefused(block.with { $0.distances = [0: 256] })
    let first = block.with { $0.tail = [] }.bytes
    let second = block.with { $0.distances = [0: 256] }.bytes
    #expect(throws: ImageError.self) { try decode(first + second, 18) }
  }

  @Test("copies reach into the block before")
  func acrossBlocks() throws {
    let first = block.with { $0.tail = [] }.bytes
    let second = block.with {
      $0.literalCount = 0
      $0.literals = [:]
      $0.literalRuns = [0: 64]
      $0.rawByteCount = 5
      $0.distances = [3: 256]
    }
    #expect(try decode(first + second.bytes, 14) == [UInt8](repeating: 0x41, count: 14))
    // Without the block before there is nothing to copy.
    #expect(throws: ImageError.self) { try decode(second.bytes, 5) }
  }

  @Test("extra bits lie below the state's bits, and the last pushed bits come first")
  func extraBits() throws {
    // Distance symbol 4 has one extra bit and base 4; with 1 it is 5, one past the four literals.
    let far = block.with {
      $0.distances = [4: 256]
      $0.matchPayload = [0, 0, 0, 0, 0, 0, 0, 0, 1]
      $0.matchBits = -7
    }
    expectRefused(far)
    let near = far.with { $0.matchPayload[8] = 0 }
    #expect(try decode(near.bytes, 9) == [UInt8](repeating: 0x41, count: 9))
    // Two literals of 512 states each: the first pulled bit is the top one.
    let literals = block.with {
      $0.literals = [0x41: 512, 0x42: 512]
      $0.literalPayload = [0b0100]
      $0.literalBits = -4
    }
    // All four states start at 0, the first of symbol A's; each then takes a bit: 0, 1, 0, 0.
    #expect(try decode(literals.bytes, 9) == [UInt8](repeating: 0x41, count: 9))
  }

  @Test("a reader that runs out of bits is refused")
  func outOfBits() {
    expectRefused(block.with { $0.distances = [4: 256] })
    expectRefused(block.with { $0.literals = [0x41: 512, 0x42: 512] })
    expectRefused(
      block.with {
        $0.literals = [0x41: 512, 0x42: 512]
        $0.literalPayload = [0]
        $0.literalBits = -5
      })
  }

  @Test("unused bits must be zero, and at most seven")
  func unusedBits() {
    expectRefused(
      block.with {
        $0.literalPayload = [0x10]
        $0.literalBits = -4
      })
    expectRefused(
      block.with {
        $0.matchPayload = [0x80]
        $0.matchBits = -1
      })
    expectRefused(block.with { $0.literalBits = -1 })
    expectRefused(block.with { $0.literalBits = -8 })
    expectRefused(block.with { $0.literalBits = 1 })
    expectRefused(block.with { $0.matchBits = .min })
  }

  @Test("counts past the encoder's are refused, and literals come in fours")
  func counts() {
    for count: UInt32 in [1, 2, 3, 40_004, .max] { expectRefused(block.with { $0.literalCount = count }) }
    for count: UInt32 in [10_001, .max] { expectRefused(block.with { $0.matchCount = count }) }
  }

  @Test("states outside of their tables are refused")
  func states() {
    for index in 0..<4 { expectRefused(block.with { $0.literalStates[index] = 1024 }) }
    expectRefused(block.with { $0.states[0] = 64 })
    expectRefused(block.with { $0.states[1] = 64 })
    expectRefused(block.with { $0.states[2] = 256 })
  }

  @Test("unknown blocks and a missing end mark are refused")
  func framing() {
    expectRefused(block.with { $0.tail = [] })
    expectRefused(block.with { $0.tail = Array("bvx".utf8) })
    expectRefused(block.with { $0.tail = Array("bvx3".utf8) })
    #expect(throws: ImageError.self) { try decode(Array("bvy$".utf8), 1) }
  }

  @Test("a stream that gives more than the unit is refused; one that gives less is counted")
  func unitSize() throws {
    for byteCount in 1...8 { #expect(throws: ImageError.self) { try decode(block.bytes, byteCount) } }
    for byteCount in 9...80 { #expect(try decode(block.bytes, byteCount).count == 9) }
  }

  @Test("copies in words stay inside the output wherever it ends", arguments: 1...17)
  func exactEnds(distance: Int) throws {
    // A match of many lengths, at every short distance, as the last thing in the unit.
    let encoder = LZFSEEncoder()
    let noise = Samples.noise(4096, seed: 1)
    for length in 1...40 {
      let bytes = (0..<distance + length + 8).map { UInt8($0 % distance) }
      let padded = noise + bytes
      let packed = try #require(pack(padded, room: padded.count + 12) { encoder.encode($0, into: &$1) })
      #expect(try decode(packed, padded.count) == padded)
    }
  }
}
