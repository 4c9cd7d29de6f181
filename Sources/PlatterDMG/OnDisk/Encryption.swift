import PlatterCore

/// How encrypted images are known. What lies inside is another disk image or a raw disk.
enum Encryption {
  /// The version of the header at the start of the file, or nil where there is none.
  static func version(head: RawSpan) -> UInt32? {
    guard head.bytes(at: 0, count: 8) == Array("encrcdsa".utf8) else { return nil }
    return head.bigEndian(at: 8)
  }

  /// Bytes 56..<64 of the header: length of what lies inside; nil where the header is cut.
  static func payloadByteCount(head: RawSpan) -> UInt64? { head.bigEndian(at: 56) }

  /// Whether the file ends with the footer of the first, long replaced kind.
  static func hasOldFooter(_ store: any ByteStore) throws(ImageError) -> Bool {
    let byteCount = try store.byteCount()
    guard byteCount >= 20 else { return false }
    return try store.readPrefix(at: byteCount - 8, count: 8) == Array("cdsaencr".utf8)
  }
}
