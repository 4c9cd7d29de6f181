import CDeflate

/// CRC-32 as zlib, DMG and streamOptimized VMDK have it: polynomial 0x04C11DB7 reflected, register inverted at both ends.
///
/// Check value: 0xCBF43926 for the nine bytes "123456789".
package enum CRC32 {
  /// The checksum of the bytes that gave `continuing`, followed by `bytes`. Cost: memory speed.
  package static func checksum(of bytes: RawSpan, continuing: UInt32 = 0) -> UInt32 {
    unsafe bytes.withUnsafeBytes { bytes in
      // libdeflate takes "no buffer" for "start anew", so an empty span must not reach it.
      guard let base = bytes.baseAddress, bytes.count > 0 else { return continuing }
      return unsafe libdeflate_crc32(continuing, base, bytes.count)
    }
  }

  /// The checksum of two runs of bytes put together, from their checksums alone.
  ///
  /// - Parameter secondByteCount: length of the second run. Cost: logarithmic in it.
  package static func combined(_ first: UInt32, _ second: UInt32, secondByteCount: UInt64) -> UInt32 {
    // A byte after the first run multiplies its register, a polynomial over GF(2), by x^8; inversions cancel out.
    var power: UInt32 = 1 << 23
    var result = first
    var count = secondByteCount
    while count > 0 {
      if count & 1 != 0 { result = product(result, power) }
      power = product(power, power)
      count >>= 1
    }
    return result ^ second
  }

  /// The product of two reflected polynomials (bit 31 is x^0) modulo the checksum's polynomial.
  private static func product(_ first: UInt32, _ second: UInt32) -> UInt32 {
    var multiple = second
    var sum: UInt32 = 0
    for bit in stride(from: 31, through: 0, by: -1) {
      if first >> UInt32(bit) & 1 != 0 { sum ^= multiple }
      multiple = multiple & 1 == 0 ? multiple >> 1 : multiple >> 1 ^ 0xEDB8_8320
    }
    return sum
  }
}
