package import PlatterCore

/// The first 2048 bytes of a VMFSSPARSE extent ("copy on write disk").
package struct COWDHeader: Sendable, Equatable {
  /// "COWD".
  package static let magic: UInt32 = 0x4457_4f43
  static let byteCount = 2048
  /// Entries of a grain table, always.
  static let tableEntryCount: UInt64 = 4096

  /// Bytes 12..<16: sectors of the disk.
  package var capacity: UInt64
  /// Bytes 16..<20: sectors of a grain, a power of two.
  package var grainSectorCount: UInt64
  /// Bytes 20..<24.
  package var directorySector: UInt64
  /// Bytes 24..<28.
  package var directoryEntryCount: UInt64
  /// Bytes 1648..<1652.
  package var isUnclean: Bool

  /// Grain tables that the disk needs.
  package var tableCount: UInt64 {
    capacity.dividedRoundingUp(by: grainSectorCount).dividedRoundingUp(by: Self.tableEntryCount)
  }

  package init(parsing bytes: RawSpan) throws(ImageError) {
    guard bytes.littleEndian(at: 0) == Self.magic else { throw .corrupt("the header does not start with \"COWD\"") }
    guard let version = bytes.littleEndian(at: 4, as: UInt32.self),
      let capacity = bytes.littleEndian(at: 12, as: UInt32.self),
      let grain = bytes.littleEndian(at: 16, as: UInt32.self),
      let directory = bytes.littleEndian(at: 20, as: UInt32.self),
      let entries = bytes.littleEndian(at: 24, as: UInt32.self),
      let unclean = bytes.littleEndian(at: 1648, as: UInt32.self)
    else { throw .truncated("the file ends inside the header (\(bytes.byteCount) of \(Self.byteCount) bytes)") }
    guard version == 1 else { throw .unsupported("the header has version \(version), not 1") }
    self.capacity = UInt64(capacity)
    grainSectorCount = UInt64(grain)
    directorySector = UInt64(directory)
    directoryEntryCount = UInt64(entries)
    isUnclean = unclean != 0
    guard grainSectorCount.nonzeroBitCount == 1, grainSectorCount <= SparseHeader.maximumGrainSectorCount else {
      throw .corrupt("the header's grain size, \(grainSectorCount) sectors, is no power of two up to 2097152")
    }
    guard tableCount <= directoryEntryCount else {
      throw .corrupt(
        "the header's grain directory has \(directoryEntryCount) entries, and its capacity, \(capacity) sectors, needs "
          + "\(tableCount)")
    }
  }
}
