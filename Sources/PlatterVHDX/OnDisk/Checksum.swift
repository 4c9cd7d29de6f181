import PlatterCodecs
import PlatterCore

/// The checksum that headers, region tables and log entries carry at bytes 4..<8.
enum Checksum {
  private static let zeros: [UInt8] = [0, 0, 0, 0]

  /// CRC-32C of a structure's first part, counting the four bytes of the checksum itself as zeros. More parts are
  /// added with `CRC32C.checksum(of:continuing:)`.
  static func ofStructure(_ bytes: RawSpan) -> UInt32 {
    guard bytes.byteCount >= 8 else { return CRC32C.checksum(of: bytes) }
    let head = CRC32C.checksum(of: bytes.extracting(0..<4))
    let field = CRC32C.checksum(of: zeros.rawBytes, continuing: head)
    return CRC32C.checksum(of: bytes.extracting(8..<bytes.byteCount), continuing: field)
  }
}
