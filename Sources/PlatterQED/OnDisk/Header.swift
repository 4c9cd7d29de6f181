package import PlatterCore

/// The first 64 bytes of a QED file. A value of this type has been checked, against the file's length too.
package struct Header: Sendable, Equatable {
  /// "QED" and a zero byte.
  package static let magic: UInt32 = 0x0044_4551
  package static let byteCount = 64

  /// Incompatible features; a reader must know all that are set.
  package struct Features: OptionSet, Sendable {
    package let rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }
    /// A backing image's name is recorded.
    package static let backingFile = Features(rawValue: 1)
    /// The image was not closed cleanly; tables may name clusters that were never written.
    package static let needsCheck = Features(rawValue: 2)
    /// The backing image is raw whatever it holds.
    package static let rawBacking = Features(rawValue: 4)
    package static let known: Features = [.backingFile, .needsCheck, .rawBacking]
  }

  static let clusterByteCounts: ClosedRange<UInt64> = 4 << 10...64 << 20  // the specification's
  static let tableClusterCounts: ClosedRange<UInt64> = 1...16  // the specification's
  static let maximumHeaderByteCount: UInt64 = 1 << 32  // the specification's
  static let maximumNameByteCount: UInt32 = 1023  // QEMU's
  static let maximumVirtualByteCount: UInt64 = (1 << 63) - 512  // ours: file offsets are signed

  /// Bytes 4..<8: a power of two.
  package var clusterByteCount: UInt64
  /// Bytes 8..<12: clusters that a table takes; a power of two.
  package var tableClusterCount: UInt64
  /// Bytes 12..<16: clusters before the first table or data cluster.
  package var headerClusterCount: UInt64
  /// Bytes 16..<24.
  package var features: Features
  /// Bytes 24..<32: features that a reader may ignore.
  package var compatibleFeatures: UInt64
  /// Bytes 32..<40: features that a writer must clear unless it knows them.
  package var autoclearFeatures: UInt64
  /// Bytes 40..<48: place of the L1 table.
  package var firstTableOffset: UInt64
  /// Bytes 48..<56: guest bytes, a multiple of 512.
  package var virtualByteCount: UInt64
  /// Bytes 56..<64: place and length of the backing image's name; nil where feature 1 is off.
  package var backingName: Range<UInt64>?

  /// Bytes of a table.
  package var tableByteCount: UInt64 { tableClusterCount * clusterByteCount }
  /// Entries of a table.
  package var entryCount: UInt64 { tableByteCount / 8 }
  /// Bytes before the first table or data cluster.
  package var headerByteCount: UInt64 { headerClusterCount * clusterByteCount }
  /// Guest bytes that one L2 table maps: at most 2^53.
  package var secondTableSpan: UInt64 { entryCount * clusterByteCount }
  /// Guest bytes that an image of this geometry can have.
  package var addressableByteCount: UInt64 {
    min(secondTableSpan.multiplied(by: entryCount) ?? .max, Self.maximumVirtualByteCount)
  }

  /// Reads and checks the header.
  ///
  /// - Parameter fileByteCount: length of the file, which every table and cluster must lie in.
  package init(parsing bytes: RawSpan, fileByteCount: UInt64) throws(ImageError) {
    guard bytes.littleEndian(at: 0) == Self.magic else {
      throw .corrupt("the header does not start with \"QED\" and a zero byte")
    }
    guard let cluster = bytes.littleEndian(at: 4, as: UInt32.self),
      let table = bytes.littleEndian(at: 8, as: UInt32.self),
      let header = bytes.littleEndian(at: 12, as: UInt32.self),
      let features = bytes.littleEndian(at: 16, as: UInt64.self),
      let compatible = bytes.littleEndian(at: 24, as: UInt64.self),
      let autoclear = bytes.littleEndian(at: 32, as: UInt64.self),
      let firstTable = bytes.littleEndian(at: 40, as: UInt64.self),
      let size = bytes.littleEndian(at: 48, as: UInt64.self),
      let nameOffset = bytes.littleEndian(at: 56, as: UInt32.self),
      let nameLength = bytes.littleEndian(at: 60, as: UInt32.self)
    else { throw .truncated("the file ends inside the header (\(bytes.byteCount) of \(Self.byteCount) bytes)") }
    clusterByteCount = UInt64(cluster)
    tableClusterCount = UInt64(table)
    headerClusterCount = UInt64(header)
    self.features = Features(rawValue: features)
    compatibleFeatures = compatible
    autoclearFeatures = autoclear
    firstTableOffset = firstTable
    virtualByteCount = size
    let unknown = self.features.subtracting(.known)
    guard unknown.isEmpty else {
      throw .unsupported("the header asks for unknown features \(unknown.rawValue.hex)")
    }
    try checkGeometry()
    try checkPlaces(fileByteCount)
    // Without the feature bit these fields are junk.
    backingName =
      self.features.contains(.backingFile)
      ? try Self.nameRange(nameOffset, nameLength, headerByteCount: headerByteCount) : nil
  }

  private func checkGeometry() throws(ImageError) {
    guard Self.clusterByteCounts.contains(clusterByteCount), clusterByteCount.nonzeroBitCount == 1 else {
      throw .corrupt("the header's cluster size \(clusterByteCount) is no power of two from 4096 to 67108864")
    }
    guard Self.tableClusterCounts.contains(tableClusterCount), tableClusterCount.nonzeroBitCount == 1 else {
      throw .corrupt("the header's table size \(tableClusterCount) is no power of two from 1 to 16 clusters")
    }
    guard headerClusterCount > 0 else { throw .corrupt("the header's own size is 0 clusters") }
    guard headerByteCount <= Self.maximumHeaderByteCount else {
      throw .corrupt("the header's own size, \(headerClusterCount) clusters, is more than 4 GiB")
    }
    guard virtualByteCount % 512 == 0 else {
      throw .corrupt("the header's image size \(virtualByteCount) is no multiple of 512")
    }
    guard virtualByteCount <= addressableByteCount else {
      throw .corrupt(
        "the header's image size \(virtualByteCount) is more than its tables can map (\(addressableByteCount))")
    }
  }

  private func checkPlaces(_ fileByteCount: UInt64) throws(ImageError) {
    guard firstTableOffset % clusterByteCount == 0 else {
      throw .corrupt("the L1 table's place \(firstTableOffset.hex) is no multiple of the cluster size")
    }
    guard firstTableOffset >= headerByteCount else {
      throw .corrupt(
        "the L1 table's place \(firstTableOffset.hex) lies inside the header clusters (\(headerByteCount.hex) bytes)")
    }
    guard let end = firstTableOffset.adding(tableByteCount), end <= fileByteCount else {
      throw .truncated(
        "the L1 table (\(tableByteCount) bytes at \(firstTableOffset.hex)) lies past the end of the file "
          + "(\(fileByteCount.hex))")
    }
  }

  private static func nameRange(_ offset: UInt32, _ length: UInt32, headerByteCount: UInt64) throws(ImageError)
    -> Range<UInt64>?
  {
    guard length > 0 else { return nil }
    guard length <= maximumNameByteCount else {
      throw .corrupt("the backing file's name has \(length) bytes, more than \(maximumNameByteCount)")
    }
    // Both are 32-bit numbers, so the sum in 64 bits cannot overflow.
    let end = UInt64(offset) + UInt64(length)
    guard UInt64(offset) >= UInt64(Self.byteCount), end <= headerByteCount else {
      throw .corrupt(
        "the backing file's name (\(length) bytes at \(UInt64(offset).hex)) lies outside the header clusters")
    }
    return UInt64(offset)..<end
  }
}
