import PlatterCore

// LZFSE, Apple's LZ77 with finite-state entropy coding. All integers little-endian. A stream is a row of blocks:
//
//     bvx2 | bvx1   header (packed | plain), literal payload, match payload     LZFSE proper
//     bvxn          raw bytes, payload bytes, payload                           LZVN, byte-oriented
//     bvx-          raw bytes, the bytes                                        stored
//     bvx$                                                                      end of stream
//
// Copies reach back over block borders, at most 262139 bytes. There is no checksum and no total length.
//
// Invariants of this folder: `LZFSEHeader` is sound once parsed; a table built from frequencies that add up to its size
// leads from any state to another state of the table, whatever bits come; so the inner loops need no test of states.

/// Constants of the format, and how its damages are called.
enum LZFSE {
  static let endMagic: UInt32 = 0x2478_7662
  static let storedMagic: UInt32 = 0x2D78_7662
  static let plainMagic: UInt32 = 0x3178_7662
  static let packedMagic: UInt32 = 0x3278_7662
  static let lzvnMagic: UInt32 = 0x6E78_7662

  static let maximumLiteralCount = 40_000  // Apple's encoder
  static let maximumMatchCount = 10_000  // Apple's encoder
  static let maximumPayloadByteCount = 1 << 20  // the packed header has 20 bits for it
  /// Farthest a copy reaches back.
  static let windowByteCount = 1 << 18
  /// Most that one match gives, literals before it included.
  static let maximumMatchByteCount = 315 + 2359

  static let literalStateCount = 1024
  static let lengthStateCount = 64
  static let distanceStateCount = 256

  /// Extra bits per symbol: literal runs, match lengths, distances. Bases follow: each is the sum of what precedes it.
  static let literalRunExtraBits: [UInt8] = [UInt8](repeating: 0, count: 16) + [2, 3, 5, 8]
  static let matchLengthExtraBits: [UInt8] = [UInt8](repeating: 0, count: 16) + [3, 5, 8, 11]
  static let distanceExtraBits: [UInt8] = (0..<64).map { $0 / 4 }

  /// Where each symbol's values begin.
  static func bases(_ extraBits: [UInt8]) -> [UInt32] {
    var sum: UInt32 = 0
    return extraBits.map { extra in
      defer { sum += 1 << UInt32(extra) }
      return sum
    }
  }

  static func damaged(_ how: String) -> ImageError { .corrupt("LZFSE stream is damaged: \(how)") }
  static func tooLong(_ byteCount: Int) -> ImageError {
    .corrupt("LZFSE stream gives more than the \(byteCount) bytes of its unit")
  }
  static let cutShort = ImageError.corrupt("LZFSE stream is cut short")
}
