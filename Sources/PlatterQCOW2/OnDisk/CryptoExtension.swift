package import PlatterCore

/// Where the LUKS header lies [QCOW2 specification, Full disk encryption header pointer].
package struct CryptoExtension: Sendable, Equatable {
  /// Bytes 0..<8: position in the file.
  package var offset: UInt64
  /// Bytes 8..<16: bytes of the LUKS header with its key slots.
  package var byteCount: UInt64

  /// - Parameter fileByteCount: the header must lie inside the file.
  package init(parsing bytes: [UInt8], _ header: Header, fileByteCount: UInt64) throws(ImageError) {
    guard bytes.count == 16, let offset = bytes.rawBytes.bigEndian(at: 0, as: UInt64.self),
      let byteCount = bytes.rawBytes.bigEndian(at: 8, as: UInt64.self)
    else { throw .corrupt("the crypto header extension has \(bytes.count) bytes instead of 16") }
    guard offset % header.clusterByteCount == 0, offset >= header.clusterByteCount else {
      throw .corrupt(
        "the crypto header's offset \(offset.hex) is not a multiple of the cluster size "
          + "(\(header.clusterByteCount.hex)) behind the header")
    }
    guard let end = offset.adding(byteCount), end <= fileByteCount else {
      throw .truncated(
        "the crypto header (\(byteCount) bytes at \(offset.hex)) lies past the end of the file "
          + "(\(fileByteCount.hex))")
    }
    self.offset = offset
    self.byteCount = byteCount
  }
}
