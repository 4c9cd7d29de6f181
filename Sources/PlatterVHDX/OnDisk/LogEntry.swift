import PlatterCore

/// The head of a log entry [MS-VHDX 2.3.1]. An entry is whole sectors: those of its head and descriptors, then one data
/// sector for each data descriptor.
package struct LogEntryHeader: Sendable, Equatable {
  /// Unit of the log, and of what it changes in the file.
  static let sectorByteCount = 4096
  static let firstDescriptorOffset = 64

  /// Bytes 4..<8: over all of the entry's bytes.
  var checksum: UInt32
  /// Bytes 8..<12: all of the entry's bytes.
  var byteCount: UInt32
  /// Bytes 12..<16: place in the log of the oldest entry still needed when this one was written.
  var tail: UInt32
  /// Bytes 16..<24.
  var sequenceNumber: UInt64
  /// Bytes 24..<28.
  var descriptorCount: UInt32
  /// Bytes 32..<48: must be the header's.
  var logGUID: GUID
  /// Bytes 48..<56: bytes that the file is known to have on disk.
  var flushedFileByteCount: UInt64
  /// Bytes 56..<64: bytes that the file must have.
  var lastFileByteCount: UInt64

  /// Nil where the sector is no plausible head of an entry in a log of this length.
  init?(parsing bytes: RawSpan, logByteCount: UInt64) {
    guard bytes.hasSignature("loge"),
      let checksum: UInt32 = bytes.littleEndian(at: 4), let byteCount: UInt32 = bytes.littleEndian(at: 8),
      let tail: UInt32 = bytes.littleEndian(at: 12), let sequenceNumber: UInt64 = bytes.littleEndian(at: 16),
      let descriptorCount: UInt32 = bytes.littleEndian(at: 24), let logGUID = try? GUID(parsing: bytes, at: 32),
      let flushed: UInt64 = bytes.littleEndian(at: 48), let last: UInt64 = bytes.littleEndian(at: 56)
    else { return nil }
    let sector = UInt32(Self.sectorByteCount)
    guard byteCount >= sector, byteCount % sector == 0, UInt64(byteCount) <= logByteCount, tail % sector == 0,
      UInt64(tail) < logByteCount, sequenceNumber > 0,
      UInt64(Self.firstDescriptorOffset) + UInt64(descriptorCount) * UInt64(LogDescriptor.byteCount)
        <= UInt64(byteCount)
    else { return nil }
    self.checksum = checksum
    self.byteCount = byteCount
    self.tail = tail
    self.sequenceNumber = sequenceNumber
    self.descriptorCount = descriptorCount
    self.logGUID = logGUID
    flushedFileByteCount = flushed
    lastFileByteCount = last
  }

  /// Sectors of the whole entry.
  var sectorCount: Int { Int(byteCount) / Self.sectorByteCount }

  /// Sectors that hold the head and all descriptors.
  var headSectorCount: Int {
    (Self.firstDescriptorOffset + Int(descriptorCount) * LogDescriptor.byteCount + Self.sectorByteCount - 1)
      / Self.sectorByteCount
  }

  /// The descriptors that lie in one of the head sectors, as byte offsets inside that sector.
  func descriptorOffsets(inHeadSector sector: Int) -> StrideTo<Int> {
    let start = sector == 0 ? Self.firstDescriptorOffset : 0
    let end = Self.firstDescriptorOffset + Int(descriptorCount) * LogDescriptor.byteCount
    let last = min(Self.sectorByteCount, end - sector * Self.sectorByteCount)
    return stride(from: start, to: last, by: LogDescriptor.byteCount)
  }
}

/// One change that an entry makes [MS-VHDX 2.3.1.2, 2.3.1.3].
enum LogDescriptor: Equatable {
  static let byteCount = 32

  /// A page of 4096 bytes: its first 8 and last 4 bytes stand here, the rest in a data sector.
  case page(offset: UInt64, leading: UInt64, trailing: UInt32, sequenceNumber: UInt64)
  /// A range that becomes zero.
  case zero(offset: UInt64, byteCount: UInt64, sequenceNumber: UInt64)

  /// Nil where the bytes are no descriptor.
  init?(parsing bytes: RawSpan, at offset: Int) {
    guard let field4: UInt32 = bytes.littleEndian(at: offset + 4),
      let field8: UInt64 = bytes.littleEndian(at: offset + 8),
      let target: UInt64 = bytes.littleEndian(at: offset + 16),
      let sequenceNumber: UInt64 = bytes.littleEndian(at: offset + 24)
    else { return nil }
    if bytes.hasSignature("desc", at: offset) {
      self = .page(offset: target, leading: field8, trailing: field4, sequenceNumber: sequenceNumber)
    } else if bytes.hasSignature("zero", at: offset) {
      self = .zero(offset: target, byteCount: field8, sequenceNumber: sequenceNumber)
    } else {
      return nil
    }
  }

  var sequenceNumber: UInt64 {
    switch self {
    case .page(_, _, _, let sequenceNumber), .zero(_, _, let sequenceNumber): sequenceNumber
    }
  }
}

/// A data sector of an entry [MS-VHDX 2.3.1.4]: the middle of a page, between marks that show a torn write.
enum LogDataSector {
  /// The bytes of the page that stand in the sector.
  static let content = 8..<4092

  /// Whether the sector was written whole, as part of the entry with this sequence number.
  static func isIntact(_ bytes: RawSpan, at offset: Int, sequenceNumber: UInt64) -> Bool {
    guard bytes.hasSignature("data", at: offset), let high: UInt32 = bytes.littleEndian(at: offset + 4),
      let low: UInt32 = bytes.littleEndian(at: offset + 4092)
    else { return false }
    return UInt64(high) << 32 | UInt64(low) == sequenceNumber
  }
}
