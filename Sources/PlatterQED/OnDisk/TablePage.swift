import PlatterCore

/// Part of an L1 or L2 table as it lies in the file: tables may have a gibibyte, so they are read in pages.
struct TablePage: Sendable {
  /// Most bytes of a page: 8192 entries.
  static let maximumByteCount: UInt64 = 64 << 10
  /// Bytes that all cached pages of an image may take together.
  static let maximumCachedByteCount: UInt64 = 8 << 20

  /// Bytes of a page in an image with tables of this length: both are powers of two.
  static func byteCount(tableByteCount: UInt64) -> UInt64 { min(tableByteCount, maximumByteCount) }

  let bytes: [UInt8]

  /// Entries in the page: those of a table's last page in a file that was cut may be fewer.
  var entryCount: UInt64 { UInt64(bytes.count / 8) }

  /// The entry with this index in the page. Traps outside it.
  subscript(index: Int) -> UInt64 {
    guard let entry = bytes.rawBytes.littleEndian(at: index * 8, as: UInt64.self) else {
      preconditionFailure("entry \(index) lies outside the page")
    }
    return entry
  }
}
