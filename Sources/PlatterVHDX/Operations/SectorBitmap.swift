import PlatterCore

/// Runs of equal bits in a sector bitmap: the first sector is the lowest bit of the first byte [MS-VHDX 2.5.2].
enum SectorBitmap {
  /// The value of the bit at `start`, and the first index behind it, at most `end`, where it changes.
  ///
  /// - Parameters:
  ///   - bytes: a whole number of 8-byte words.
  ///   - start: before `end`; both inside the bitmap.
  static func run(in bytes: [UInt8], from start: Int, to end: Int) -> (isSet: Bool, end: Int) {
    let isSet = bytes[start / 8] >> UInt8(start % 8) & 1 != 0
    let flip: UInt64 = isSet ? .max : 0
    var word = start / 64
    // Bits that differ from the first one stand as ones.
    var differing = (load(bytes, word) ^ flip) & (.max << UInt64(start % 64))
    while differing == 0 {
      word += 1
      guard word * 64 < end else { return (isSet, end) }
      differing = load(bytes, word) ^ flip
    }
    return (isSet, min(end, word * 64 + differing.trailingZeroBitCount))
  }

  private static func load(_ bytes: [UInt8], _ word: Int) -> UInt64 {
    bytes.rawBytes.littleEndian(at: word * 8) ?? 0
  }
}
