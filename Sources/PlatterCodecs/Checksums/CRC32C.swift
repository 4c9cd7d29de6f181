import CPlatter
import PlatterCore

/// CRC-32C (Castagnoli), which VHDX keeps over headers, region tables and log entries: polynomial 0x1EDC6F41 reflected,
/// register inverted at both ends.
///
/// Check value: 0xE3069283 for the nine bytes "123456789".
package enum CRC32C {
  private static let isInHardware = platter_has_crc32c() != 0

  /// The checksum of the bytes that gave `continuing`, followed by `bytes`. Cost: about 8 GB/s where the processor has
  /// the instruction, 0.4 GB/s otherwise.
  package static func checksum(of bytes: RawSpan, continuing: UInt32 = 0) -> UInt32 {
    guard isInHardware else { return tableChecksum(of: bytes, continuing: continuing) }
    return unsafe bytes.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return continuing }
      return unsafe ~platter_crc32c(~continuing, base, bytes.count)
    }
  }

  /// The same without the processor's help.
  package static func tableChecksum(of bytes: RawSpan, continuing: UInt32 = 0) -> UInt32 {
    var register = ~continuing
    let table = table
    for offset in 0..<bytes.byteCount {
      register = register >> 8 ^ table[Int((register ^ UInt32(bytes[offset])) & 0xFF)]
    }
    return ~register
  }

  private static let table: [UInt32] = (0..<256).map { index in
    var value = UInt32(index)
    for _ in 0..<8 { value = value & 1 == 0 ? value >> 1 : value >> 1 ^ 0x82F6_3B78 }
    return value
  }
}
