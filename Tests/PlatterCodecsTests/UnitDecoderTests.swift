import PlatterCodecs
import PlatterCore
import TestSupport
import Testing

/// A stream that other programs wrote, and what it holds.
struct Vector: Sendable, CustomTestStringConvertible {
  var testDescription: String
  var codec: PackedCodec
  var packed: [UInt8]
  var byteCount: Int
  /// CRC-32 of the content.
  var checksum: UInt32

  private static let text = Array(String(repeating: "Platter! ", count: 8).utf8) + Array("sector".utf8)

  private static func ofText(_ name: String, _ codec: PackedCodec, _ digits: String) -> Vector {
    Vector(
      testDescription: name, codec: codec, packed: hex(digits), byteCount: text.count,
      checksum: CRC32.checksum(of: text.rawBytes))
  }

  /// A protective MBR of one partition, as hdiutil packs it in three of its forms.
  private static func ofMBR(_ name: String, _ codec: PackedCodec, _ digits: String) -> Vector {
    Vector(testDescription: name, codec: codec, packed: hex(digits), byteCount: 512, checksum: 0x41F2_FA33)
  }

  static let all: [Vector] = [
    ofText("raw deflate by zlib", .deflate, "0bc8492c29492d525408a08c519c9a5c925f0400"),
    ofText("zlib", .zlib, "78da0bc8492c29492d525408a08c519c9a5c925f040038611b79"),
    ofText("zstd", .zstd, "28b52ffd0058ad000078506c61747465722120736563746f720100a4548e"),
    ofText(
      "bzip2", .bzip2,
      """
      425a68393141592653597c19a4b10000081380600040002a049c0020003100d34d01548d0d1a60760cc450af58a18917c91763e2ee48a70a
      120f83349620
      """),
    ofText(
      "xz", .xz,
      """
      fd377a585a0000016922de360200210116000000742fe5a3e0004d00155d00281b08278115d71a27c17eea0b1e72aca04157f64600000000
      f917026100012d4e5383c8919042990d010000000001595a
      """),
    ofMBR(
      "xz by hdiutil", .xz,
      """
      fd377a585a000000ff12d94103c02080042101160000000025b6964de001ff00185d00006ffdfc87ba5fb7da4feeb00b7ab2b93dc04b2f58
      700000000001308004000000b5f4abf9a8000afc020000000000595a
      """),
    ofMBR(
      "LZVN by hdiutil", .lzfse,
      """
      6276786e0002000024000000680100f0fff097e4feffffee0004400b01c801ff1f00f01ce30055aa060000000000000062767824
      """),
    ofMBR(
      "ADC by hdiutil", .adc,
      """
      80007f00007f00007f00007f00007f00007f000068001683feffffee00038001004a81ff1f6e004f8155aa
      """),
    Vector(
      testDescription: "LZFSE by hdiutil", codec: .lzfse,
      packed: hex(
        """
        627678320040000044002002000a00307638da2395180000a30000003a24c00e0f014c8009003027138009001380b7e09d7901000000000000
        000000000000000000e0210300000078030000b803eeee00803b00e00ee00e0000803bb8bbbbe30d0000eeee0000b803eee0ee0de08e3780bb
        bb3b00ee00000000e00e000000b803000000ee8037803bb8030000b8030000000000b8e30e00000000e00e0000e00e000000a06996e649978c
        7705e6e515adc9ce471e48a001bb3b6620dace3eaa2ce0f4be06000000000000000080cafd9fffffbfffffbfff838189260162767824
        """),
      byteCount: 16384, checksum: 0x8015_FEB2),
  ]
}

@Suite struct UnitDecoderTests {
  @Test("streams of other programs decode, whole and in pieces", arguments: Vector.all)
  func vectors(vector: Vector) throws {
    let whole = try decodeUnit(vector.codec, vector.packed, byteCount: vector.byteCount)
    #expect(whole.count == vector.byteCount)
    #expect(CRC32.checksum(of: whole.bytes.rawBytes) == vector.checksum)
    let pieces = try decodeStream(vector.codec, vector.packed, byteCount: vector.byteCount, pieceByteCount: 1)
    #expect(pieces == whole.bytes)
  }

  @Test("bytes after the stream are ignored: a sector-rounded length is an upper bound", arguments: Vector.all)
  func trailingBytes(vector: Vector) throws {
    for padding in [Samples.noise(500, seed: 3), [UInt8](repeating: 0, count: 500)] {
      let unit = try decodeUnit(vector.codec, vector.packed + padding, byteCount: vector.byteCount)
      #expect(CRC32.checksum(of: unit.bytes.rawBytes) == vector.checksum)
    }
  }

  @Test("a stream that gives less than the unit is counted or refused, never filled up", arguments: Vector.all)
  func shortStreams(vector: Vector) throws {
    // ADC has no end mark of its own: there the input just runs out.
    guard vector.codec != .adc else {
      #expect(throws: ImageError.self) {
        try decodeUnit(vector.codec, vector.packed, byteCount: vector.byteCount + 1)
      }
      return
    }
    let unit = try decodeUnit(vector.codec, vector.packed, byteCount: vector.byteCount + 1)
    #expect(unit.count == vector.byteCount)
    #expect(throws: ImageError.self) {
      try decodeStream(vector.codec, vector.packed, byteCount: vector.byteCount + 1)
    }
  }

  @Test("a stream that gives more stops at the unit's end for qcow2's codecs and zlib", arguments: Vector.all)
  func longStreams(vector: Vector) throws {
    let whole = try decodeUnit(vector.codec, vector.packed, byteCount: vector.byteCount)
    for byteCount in [1, vector.byteCount / 2, vector.byteCount - 1] {
      switch vector.codec {
      case .deflate, .zlib, .zstd:
        let part = try decodeUnit(vector.codec, vector.packed, byteCount: byteCount)
        #expect(part.bytes == Array(whole.bytes.prefix(byteCount)))
      case .bzip2, .xz, .lzfse:
        #expect(throws: ImageError.self) { try decodeUnit(vector.codec, vector.packed, byteCount: byteCount) }
      case .adc: break
      }
    }
  }

  @Test("a stream cut at any byte is refused, or gives all that was wanted", arguments: Vector.all)
  func cutStreams(vector: Vector) throws {
    let whole = try decodeUnit(vector.codec, vector.packed, byteCount: vector.byteCount)
    let decoder = UnitDecoder()
    for length in 0..<vector.packed.count {
      let packed = Array(vector.packed.prefix(length))
      if let unit = try? decodeUnit(vector.codec, packed, byteCount: vector.byteCount, by: decoder) {
        #expect(unit.bytes == Array(whole.bytes.prefix(unit.count)))
      }
      if let bytes = try? decodeStream(vector.codec, packed, byteCount: vector.byteCount) {
        #expect(bytes == whole.bytes)
      }
    }
  }

  @Test("no change of one byte traps or writes outside of the output", arguments: Vector.all)
  func damagedStreams(vector: Vector) {
    let decoder = UnitDecoder()
    var generator = SeededGenerator(seed: UInt64(vector.codec.rawValue) + 100)
    for position in vector.packed.indices {
      for change: UInt8 in [1, 0x80, 0xFF, UInt8.random(in: 2...0x7F, using: &generator)] {
        var packed = vector.packed
        packed[position] ^= change
        let unit = try? decodeUnit(vector.codec, packed, byteCount: vector.byteCount, by: decoder)
        let bytes = try? decodeStream(vector.codec, packed, byteCount: vector.byteCount, pieceByteCount: 64)
        // What both decode, they decode alike.
        if let bytes, let unit { #expect(bytes == unit.bytes) }
      }
    }
  }

  @Test("noise neither traps nor writes outside of the output", arguments: PackedCodec.allCases)
  func noise(codec: PackedCodec) {
    let decoder = UnitDecoder()
    for seed: UInt64 in 0..<200 {
      let packed = Samples.noise(Int(seed), seed: seed)
      _ = try? decodeUnit(codec, packed, byteCount: 600, by: decoder)
      _ = try? decodeStream(codec, packed, byteCount: 600)
    }
  }

  @Test("a decoder works on after damage", arguments: Vector.all)
  func afterDamage(vector: Vector) throws {
    let decoder = UnitDecoder()
    for codec in PackedCodec.allCases { _ = try? decodeUnit(codec, [1, 2, 3], byteCount: 100, by: decoder) }
    let unit = try decodeUnit(vector.codec, vector.packed, byteCount: vector.byteCount, by: decoder)
    #expect(CRC32.checksum(of: unit.bytes.rawBytes) == vector.checksum)
  }

  @Test("a unit of no bytes needs no stream", arguments: PackedCodec.allCases)
  func emptyUnit(codec: PackedCodec) throws {
    #expect(try decodeUnit(codec, [], byteCount: 0) == Decoded(count: 0, bytes: []))
  }

  @Test("an empty stream is refused", arguments: PackedCodec.allCases)
  func emptyStream(codec: PackedCodec) {
    // Zstd has frames, any number of them: none is none.
    let unit = try? decodeUnit(codec, [], byteCount: 10)
    #expect(codec == .zstd ? unit?.count == 0 : unit == nil)
    #expect(throws: ImageError.self) { try decodeStream(codec, [], byteCount: 10) }
  }
}
