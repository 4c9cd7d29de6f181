import CLZMA
import PlatterCodecs
import PlatterCore
import Testing

/// How a stream is made by liblzma.
struct XZOptions: Sendable, CustomTestStringConvertible {
  var literalContextBits: UInt32 = 3
  var literalPositionBits: UInt32 = 0
  var positionBits: UInt32 = 2
  var dictionaryByteCount: UInt32 = 1 << 20
  var check = LZMA_CHECK_CRC64
  /// BCJ for x86 comes before LZMA2.
  var hasBranchFilter = false

  var testDescription: String {
    "lc \(literalContextBits), lp \(literalPositionBits), pb \(positionBits), dictionary \(dictionaryByteCount), "
      + "check \(check.rawValue)\(hasBranchFilter ? ", BCJ" : "")"
  }

  func pack(_ bytes: [UInt8]) throws -> [UInt8] {
    var options = unsafe lzma_options_lzma()
    unsafe lzma_lzma_preset(&options, 6)
    unsafe options.dict_size = dictionaryByteCount
    unsafe options.lc = literalContextBits
    unsafe options.lp = literalPositionBits
    unsafe options.pb = positionBits
    var packed = [UInt8](repeating: 0, count: bytes.count + bytes.count / 50 + 1000)
    var written = 0
    let status = unsafe withUnsafeMutablePointer(to: &options) { options in
      let last = unsafe [lzma_filter(id: 0x21, options: options), lzma_filter(id: .max, options: nil)]
      var filters = unsafe hasBranchFilter ? [lzma_filter(id: 0x04, options: nil)] + last : last
      return unsafe lzma_stream_buffer_encode(
        &filters, check, nil, bytes, bytes.count, &packed, &written, packed.count)
    }
    try #require(status == LZMA_OK)
    return Array(packed.prefix(written))
  }
}

@Suite struct XZUnitTests {
  /// Nil where it leaves the stream to liblzma.
  private func decode(_ packed: [UInt8], _ byteCount: Int, by unit: XZUnit = XZUnit()) -> [UInt8]? {
    let margin = 64
    var bytes = [UInt8](repeating: 0xEE, count: byteCount + margin)
    let count = bytes.withMutableRawBytes { output in
      output.withPart(0..<byteCount) { output in unit.decode(packed.rawBytes, into: &output) }
    }
    precondition(bytes.suffix(margin).allSatisfy { $0 == 0xEE }, "wrote outside of the output")
    return count.map { Array(bytes.prefix($0)) }
  }

  private static let plain: [XZOptions] =
    [(3, 0, 2), (0, 0, 0), (4, 0, 0), (0, 4, 4), (2, 2, 1), (1, 3, 3)].map {
      XZOptions(literalContextBits: $0, literalPositionBits: $1, positionBits: $2)
    } + [
      XZOptions(check: LZMA_CHECK_NONE), XZOptions(check: LZMA_CHECK_CRC32), XZOptions(dictionaryByteCount: 300_000),
    ]

  @Test("what liblzma packs with LZMA2 alone is read without it", arguments: plain)
  func roundTrip(options: XZOptions) throws {
    let unit = XZUnit()
    for bytes in [
      Samples.text(250_000, seed: 1), Samples.mixed(250_000, seed: 2), Samples.noise(150_000, seed: 3), [7],
      [UInt8](repeating: 0, count: 5000), Array(Samples.noise(100, seed: 4) + Samples.noise(100, seed: 4)),
    ] {
      #expect(decode(try options.pack(bytes), bytes.count, by: unit) == bytes)
    }
  }

  @Test("chunks that follow each other keep the state, beyond 2 MiB of one chunk")
  func manyChunks() throws {
    let bytes =
      [UInt8](repeating: 1, count: 2_200_000) + Samples.text(100_000, seed: 5) + Samples.noise(70_000, seed: 6)
      + Samples.text(100_000, seed: 5)
    #expect(decode(try XZOptions(dictionaryByteCount: 4 << 20).pack(bytes), bytes.count) == bytes)
  }

  @Test(
    "other filters and checks, dictionaries smaller than the unit, and two streams are liblzma's",
    arguments: [
      XZOptions(hasBranchFilter: true), XZOptions(check: LZMA_CHECK_SHA256), XZOptions(dictionaryByteCount: 4096),
    ])
  func left(options: XZOptions) throws {
    let bytes = Samples.text(20_000, seed: 7)
    let packed = try options.pack(bytes)
    #expect(decode(packed, bytes.count) == nil)
    #expect(try decodeUnit(.xz, packed, byteCount: bytes.count).bytes == bytes)
  }

  @Test("a unit of two streams is read whole")
  func twoStreams() throws {
    let bytes = Samples.text(20_000, seed: 7)
    let packed = try XZOptions().pack(bytes)
    #expect(decode(packed + packed, 40_000) == nil)
    #expect(try decodeUnit(.xz, packed + packed, byteCount: 40_000).bytes == bytes + bytes)
  }

  @Test("every bit matters: a damaged stream is never taken", arguments: [LZMA_CHECK_NONE, LZMA_CHECK_CRC64])
  func damage(check: lzma_check) throws {
    let bytes = Samples.mixed(1500, seed: 8)
    let packed = try XZOptions(check: check).pack(bytes)
    let unit = XZUnit()
    for position in packed.indices {
      var damaged = packed
      damaged[position] ^= 1 << UInt8(position % 8)
      guard let taken = decode(damaged, bytes.count, by: unit) else { continue }
      // Without a check, other content can be sound: liblzma must see the same.
      #expect(check == LZMA_CHECK_NONE)
      let pieces = try? decodeStream(.xz, damaged, byteCount: bytes.count, pieceByteCount: 1 << 16)
      #expect(pieces == taken)
    }
    for length in packed.indices { #expect(decode(Array(packed.prefix(length)), bytes.count, by: unit) == nil) }
  }

  @Test("a stream that gives more than the unit is not taken; one that gives less is counted")
  func unitSize() throws {
    let bytes = Samples.text(5000, seed: 9)
    let packed = try XZOptions().pack(bytes)
    #expect(decode(packed, 4999) == nil)
    #expect(decode(packed + [0, 0, 0, 0, 1], 5001) == bytes)
  }
}
