import CDeflate

/// CRC-32 as bzip2 has it: polynomial 0x04C11DB7, the highest bit of each byte first, register inverted at both ends.
///
/// It is the other CRC-32 of the mirrored bytes, mirrored: to mirror them and take libdeflate's is faster than any table.
/// Check value: 0xFC891918 for the nine bytes "123456789".
@safe package struct BitwiseCRC32: Sendable {
  private static let pieceByteCount = 4096

  private var mirrored: UInt32 = 0

  package init() {}

  package var value: UInt32 { UInt32(truncatingIfNeeded: Self.mirrorEachByte(UInt64(mirrored))).byteSwapped }

  /// Takes in more bytes.
  package mutating func update(_ bytes: UnsafeRawBufferPointer) {
    let before = mirrored
    mirrored = unsafe withUnsafeTemporaryAllocation(byteCount: Self.pieceByteCount, alignment: 16) { piece in
      guard let base = bytes.baseAddress, let target = piece.baseAddress else { return before }
      var register = before
      var start = 0
      while start < bytes.count {
        let count = min(bytes.count - start, Self.pieceByteCount)
        unsafe Self.mirrorBytes(base + start, target, count)
        register = unsafe libdeflate_crc32(register, target, count)
        start += count
      }
      return register
    }
  }

  private static func mirrorBytes(_ source: UnsafeRawPointer, _ target: UnsafeMutableRawPointer, _ count: Int) {
    var offset = 0
    while offset &+ 8 <= count {
      let word = unsafe source.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
      unsafe target.storeBytes(of: mirrorEachByte(word), toByteOffset: offset, as: UInt64.self)
      offset &+= 8
    }
    while offset < count {
      let byte = unsafe UInt64(source.load(fromByteOffset: offset, as: UInt8.self))
      unsafe target.storeBytes(
        of: UInt8(truncatingIfNeeded: mirrorEachByte(byte)), toByteOffset: offset, as: UInt8.self)
      offset &+= 1
    }
  }

  @inline(__always)
  private static func mirrorEachByte(_ word: UInt64) -> UInt64 {
    var word = word
    word = word &>> 4 & 0x0F0F_0F0F_0F0F_0F0F | (word & 0x0F0F_0F0F_0F0F_0F0F) &<< 4
    word = word &>> 2 & 0x3333_3333_3333_3333 | (word & 0x3333_3333_3333_3333) &<< 2
    return word &>> 1 & 0x5555_5555_5555_5555 | (word & 0x5555_5555_5555_5555) &<< 1
  }
}
