import PlatterCodecs
import PlatterCore
import TestSupport
import Testing

/// Bytes to pack.
enum Samples {
  static func noise(_ count: Int, seed: UInt64) -> [UInt8] {
    var generator = SeededGenerator(seed: seed)
    return (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
  }

  /// Words from a small vocabulary: compresses to about a third.
  static func text(_ count: Int, seed: UInt64) -> [UInt8] {
    var generator = SeededGenerator(seed: seed)
    let words = ["disk", "image", "sector", "the", "of", "a", "table", "cluster", "refcount", "grain", "\n", "0x10000"]
    var bytes: [UInt8] = []
    while bytes.count < count {
      bytes += Array(words[Int.random(in: 0..<words.count, using: &generator)].utf8) + [0x20]
      if Int.random(in: 0..<8, using: &generator) == 0 { bytes.append(UInt8.random(in: 0...255, using: &generator)) }
    }
    return Array(bytes.prefix(count))
  }

  /// Text, zeros, noise, a short repeat and text again: what a disk looks like.
  static func mixed(_ count: Int, seed: UInt64) -> [UInt8] {
    let part = count / 5
    var bytes = text(part, seed: seed)
    bytes += [UInt8](repeating: 0, count: part)
    bytes += noise(part, seed: seed)
    bytes += (0..<part).map { UInt8($0 % 7) }
    bytes += text(count - 4 * part, seed: seed)
    return bytes
  }
}

/// Bytes from hexadecimal digits; spaces are ignored.
func hex(_ digits: String) -> [UInt8] {
  let values = digits.utf8.compactMap { UInt8(String(UnicodeScalar($0)), radix: 16) }
  return stride(from: 0, to: values.count - 1, by: 2).map { values[$0] << 4 | values[$0 + 1] }
}

extension FixedWidthInteger {
  /// The integer's bytes, lowest first.
  var littleEndianBytes: [UInt8] {
    (0..<Self.bitWidth / 8).map { UInt8(truncatingIfNeeded: self >> ($0 * 8)) }
  }
}

/// What a decoder made of a unit.
struct Decoded: Equatable {
  var count: Int
  var bytes: [UInt8]
}

/// Decodes one unit whole. Nothing beside the output may be touched.
func decodeUnit(_ codec: PackedCodec, _ packed: [UInt8], byteCount: Int, by decoder: UnitDecoder = UnitDecoder())
  throws(ImageError) -> Decoded
{
  let margin = 64
  var bytes = [UInt8](repeating: 0xEE, count: byteCount + 2 * margin)
  let result: Result<Int, ImageError> = bytes.withMutableRawBytes { output in
    output.withPart(margin..<margin + byteCount) { output in
      do throws(ImageError) {
        return .success(try decoder.decode(codec, packed.rawBytes, into: &output))
      } catch {
        return .failure(error)
      }
    }
  }
  let isClean = (bytes.prefix(margin) + bytes.suffix(margin)).allSatisfy { $0 == 0xEE }
  precondition(isClean, "wrote outside of the output")
  let count = try result.get()
  precondition(count >= 0 && count <= byteCount)
  return Decoded(count: count, bytes: Array(bytes[margin..<margin + count]))
}

/// Decodes one unit in pieces, given `pieceByteCount` packed bytes at a time.
func decodeStream(_ codec: PackedCodec, _ packed: [UInt8], byteCount: Int?, pieceByteCount: Int = 7)
  throws(ImageError) -> [UInt8]
{
  var position = 0
  var bytes: [UInt8] = []
  try StreamDecoder(codec: codec, byteCount: byteCount.map { UInt64($0) }).decode(
    input: { buffer throws(ImageError) in
      let count = min(pieceByteCount, packed.count - position, buffer.byteCount)
      buffer.copy(packed.rawBytes.extracting(position..<position + count))
      position += count
      return count
    },
    output: { piece throws(ImageError) in bytes += piece.array() })
  return bytes
}

/// Runs an encoder with `room` bytes of output; nothing beside them may be touched.
func pack(_ bytes: [UInt8], room: Int, _ encode: (RawSpan, inout MutableRawSpan) -> Int?) -> [UInt8]? {
  let margin = 64
  var output = [UInt8](repeating: 0xEE, count: room + margin)
  let count = output.withMutableRawBytes { output in
    output.withPart(0..<room) { output in encode(bytes.rawBytes, &output) }
  }
  precondition(output.suffix(margin).allSatisfy { $0 == 0xEE }, "wrote outside of the output")
  return count.map { Array(output.prefix($0)) }
}

/// A way to pack, and the codec that it is for.
struct Packer: Sendable, CustomTestStringConvertible {
  var testDescription: String
  var codec: PackedCodec
  /// Takes the bytes and the room for the result.
  var pack: @Sendable ([UInt8], Int) -> [UInt8]?

  static let all: [Packer] = [
    Packer(testDescription: "deflate 1", codec: .deflate) { packDeflate($0, $1, level: 1) },
    Packer(testDescription: "deflate 12", codec: .deflate) { packDeflate($0, $1, level: 12) },
    Packer(testDescription: "deflate, 4 KiB window", codec: .deflate) { bytes, room in
      let encoder = DeflateEncoder(level: 6, window: .fourKiB)
      return PlatterCodecsTests.pack(bytes, room: room) { encoder.encode($0, into: &$1) }
    },
    Packer(testDescription: "zlib", codec: .zlib) { bytes, room in
      let encoder = DeflateEncoder(level: 6, hasZlibHeader: true)
      return PlatterCodecsTests.pack(bytes, room: room) { encoder.encode($0, into: &$1) }
    },
    Packer(testDescription: "zstd", codec: .zstd) { bytes, room in
      let encoder = ZstdEncoder()
      return PlatterCodecsTests.pack(bytes, room: room) { encoder.encode($0, into: &$1) }
    },
    Packer(testDescription: "bzip2", codec: .bzip2) { bytes, room in
      PlatterCodecsTests.pack(bytes, room: room) { Bzip2Encoder().encode($0, into: &$1) }
    },
    Packer(testDescription: "xz", codec: .xz) { bytes, room in
      PlatterCodecsTests.pack(bytes, room: room) { XZEncoder().encode($0, into: &$1) }
    },
    Packer(testDescription: "LZFSE", codec: .lzfse) { bytes, room in
      let encoder = LZFSEEncoder()
      return PlatterCodecsTests.pack(bytes, room: room) { encoder.encode($0, into: &$1) }
    },
    Packer(testDescription: "ADC", codec: .adc) { bytes, room in
      let encoder = ADCEncoder()
      return PlatterCodecsTests.pack(bytes, room: room) { encoder.encode($0, into: &$1) }
    },
  ]

  private static func packDeflate(_ bytes: [UInt8], _ room: Int, level: Int) -> [UInt8]? {
    let encoder = DeflateEncoder(level: level)
    return PlatterCodecsTests.pack(bytes, room: room) { encoder.encode($0, into: &$1) }
  }
}
