import PlatterCodecs
import PlatterCore
import Testing

@Suite struct ChecksumTests {
  let digits = Array("123456789".utf8)

  @Test("CRC-32 has its published check value")
  func crc32CheckValue() {
    #expect(CRC32.checksum(of: digits.rawBytes) == 0xCBF4_3926)
  }

  @Test("CRC-32C has its published check value, with and without the processor's help")
  func crc32cCheckValue() {
    #expect(CRC32C.checksum(of: digits.rawBytes) == 0xE306_9283)
    #expect(CRC32C.tableChecksum(of: digits.rawBytes) == 0xE306_9283)
  }

  @Test("bzip2's CRC-32 has its published check value, in pieces too", arguments: 0...9)
  func bitwiseCheckValue(cut: Int) {
    var checksum = BitwiseCRC32()
    for part in [digits[..<cut], digits[cut...]] {
      unsafe part.withUnsafeBytes { bytes in unsafe checksum.update(bytes) }
    }
    #expect(checksum.value == 0xFC89_1918)
    let noise = Samples.noise(9001, seed: 8)
    var long = BitwiseCRC32()
    unsafe noise.withUnsafeBytes { bytes in unsafe long.update(bytes) }
    #expect(long.value == BZip2Fixture.checksum(noise))
  }

  @Test("nothing has checksum 0 and changes none")
  func nothing() {
    let empty: [UInt8] = []
    #expect(CRC32.checksum(of: empty.rawBytes) == 0)
    #expect(CRC32C.checksum(of: empty.rawBytes) == 0)
    #expect(CRC32.checksum(of: empty.rawBytes, continuing: 0x1234_5678) == 0x1234_5678)
    #expect(CRC32C.checksum(of: empty.rawBytes, continuing: 0x1234_5678) == 0x1234_5678)
  }

  @Test("checksums continue over any cut, and combine", arguments: [0, 1, 7, 8, 9, 100, 1000])
  func cuts(cut: Int) {
    let bytes = Samples.noise(1000, seed: 1)
    let first = Array(bytes[..<cut])
    let second = Array(bytes[cut...])
    let whole = CRC32.checksum(of: bytes.rawBytes)
    let head = CRC32.checksum(of: first.rawBytes)
    let tail = CRC32.checksum(of: second.rawBytes)
    #expect(CRC32.checksum(of: second.rawBytes, continuing: head) == whole)
    #expect(CRC32.combined(head, tail, secondByteCount: UInt64(second.count)) == whole)
    let wholeC = CRC32C.checksum(of: bytes.rawBytes)
    let headC = CRC32C.checksum(of: first.rawBytes)
    #expect(CRC32C.checksum(of: second.rawBytes, continuing: headC) == wholeC)
    #expect(CRC32C.tableChecksum(of: bytes.rawBytes) == wholeC)
  }

  @Test("combining with a run of zeros far longer than memory follows the register's period of 2^32 - 1 bytes")
  func hugeRuns() {
    let period = UInt64(UInt32.max)
    #expect(CRC32.combined(0x1234_5678, 0, secondByteCount: period) == 0x1234_5678)
    #expect(
      CRC32.combined(0x1234_5678, 7, secondByteCount: 5 * period + 12)
        == CRC32.combined(0x1234_5678, 7, secondByteCount: 12))
  }
}
