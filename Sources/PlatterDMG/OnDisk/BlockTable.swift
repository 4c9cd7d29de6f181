import PlatterCore

/// A block table as the property list or the resource fork holds it, not yet parsed.
struct BlockTableResource: Sendable {
  /// `CFName` or `Name`, as the image has it.
  var name: String
  var bytes: [UInt8]
}

/// The record "mish": a header of 204 bytes, big-endian, then chunks of 40. One partition or the whole disk.
struct BlockTable: Sendable {
  static let headerByteCount = 204
  static let signature: UInt32 = 0x6D69_7368

  /// Bytes 8..<16: on the disk.
  var firstSector: UInt64
  /// Bytes 16..<24.
  var sectorCount: UInt64
  /// Bytes 24..<32: added to the offset of every chunk; 0 in newer images.
  var dataOffset: UInt64
  /// Bytes 36..<40: index of the table, -1 for the driver map, -2 for a whole disk.
  var descriptor: Int32
  /// Bytes 64..<200: over the decoded bytes of the chunks.
  var checksum: StoredChecksum
  /// Bytes 200..<204.
  var chunkCount: Int

  /// Reads the header and checks that all chunks it counts are there.
  ///
  /// - Throws: `.corrupt`, `.truncated`.
  init(parsing bytes: RawSpan) throws(ImageError) {
    guard bytes.byteCount >= Self.headerByteCount, let checksum = StoredChecksum(parsing: bytes, at: 64),
      let signature: UInt32 = bytes.bigEndian(at: 0), let version: UInt32 = bytes.bigEndian(at: 4),
      let firstSector: UInt64 = bytes.bigEndian(at: 8), let sectorCount: UInt64 = bytes.bigEndian(at: 16),
      let dataOffset: UInt64 = bytes.bigEndian(at: 24), let descriptor: Int32 = bytes.bigEndian(at: 36),
      let chunkCount: UInt32 = bytes.bigEndian(at: 200)
    else { throw .truncated("has \(bytes.byteCount) bytes, fewer than its header (\(Self.headerByteCount))") }
    guard signature == Self.signature else { throw .corrupt("lacks its signature \"mish\"") }
    guard version == 1 else { throw .unsupported("has version \(version), not 1") }
    guard let end = firstSector.adding(sectorCount), end <= DMG.maximumSectorCount else {
      throw .corrupt("has \(sectorCount) sectors from sector \(firstSector) on, more than any disk holds")
    }
    let present = (bytes.byteCount - Self.headerByteCount) / Chunk.byteCount
    guard chunkCount <= UInt32(clamping: present) else {
      throw .truncated("counts \(chunkCount) chunks and has room for \(present)")
    }
    self.firstSector = firstSector
    self.sectorCount = sectorCount
    self.dataOffset = dataOffset
    self.descriptor = descriptor
    self.checksum = checksum
    self.chunkCount = Int(chunkCount)
  }
}
