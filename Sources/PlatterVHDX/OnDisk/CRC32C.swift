import PlatterCore

/// CRC-32C (Castagnoli), reflected, as every checked structure of a VHDX file carries.
enum CRC32C {
  private static let table: [UInt32] = (0..<256).map { index in
    var value = UInt32(index)
    for _ in 0..<8 { value = value & 1 == 0 ? value >> 1 : value >> 1 ^ 0x82F6_3B78 }
    return value
  }

  static func checksum(of bytes: RawSpan, continuing checksum: UInt32 = 0) -> UInt32 {
    let table = table
    var value = ~checksum
    for offset in 0..<bytes.byteCount {
      value = value >> 8 ^ table[Int((value ^ UInt32(bytes[offset])) & 0xff)]
    }
    return ~value
  }
}
