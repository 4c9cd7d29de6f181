import PlatterCodecs
import PlatterCore

/// Numbers that look random and are the same on every run (xorshift64*).
struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 | 1 }

  mutating func next() -> UInt64 {
    state ^= state >> 12
    state ^= state << 25
    state ^= state >> 27
    return state &* 0x2545_F491_4F6C_DD1D
  }
}

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

extension UnitDecoder {
  /// Decodes into a new array of `byteCount` bytes; the bytes after those produced are left at 0xEE.
  func decode(_ codec: PackedCodec, _ packed: [UInt8], byteCount: Int) throws(ImageError) -> (
    count: Int, bytes: [UInt8]
  ) {
    var bytes = [UInt8](repeating: 0xEE, count: byteCount)
    let count = try bytes.withMutableRawBytes { output throws(ImageError) in
      try decode(codec, packed.rawBytes, into: &output)
    }
    return (count, bytes)
  }
}
