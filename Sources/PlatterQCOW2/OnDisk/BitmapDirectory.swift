package import PlatterCore

/// The bitmaps extension: where the directory lies [QCOW2 specification, Bitmaps extension].
package struct BitmapsExtension: Sendable, Equatable {
  static let byteCount = 24
  static let maximumCount: UInt32 = 65_535  // QEMU's
  static let maximumDirectoryByteCount: UInt64 = 64 << 20  // QEMU's

  /// Bytes 0..<4.
  package var count: UInt32
  /// Bytes 8..<16.
  package var directoryByteCount: UInt64
  /// Bytes 16..<24.
  package var directoryOffset: UInt64

  package init(parsing bytes: [UInt8], _ header: Header) throws(ImageError) {
    let raw = bytes.rawBytes
    guard bytes.count == Self.byteCount, let count = raw.bigEndian(at: 0, as: UInt32.self),
      let reserved = raw.bigEndian(at: 4, as: UInt32.self), let size = raw.bigEndian(at: 8, as: UInt64.self),
      let offset = raw.bigEndian(at: 16, as: UInt64.self)
    else { throw .corrupt("the bitmaps extension has \(bytes.count) bytes instead of \(Self.byteCount)") }
    guard reserved == 0 else {
      throw .corrupt("the bitmaps extension's reserved field is \(UInt64(reserved).hex) instead of 0")
    }
    guard count > 0, count <= Self.maximumCount else {
      throw .corrupt("the bitmaps extension counts \(count) bitmaps, not between 1 and \(Self.maximumCount)")
    }
    guard offset % header.clusterByteCount == 0, offset >= header.clusterByteCount else {
      throw .corrupt(
        "the bitmap directory's offset \(offset.hex) is not a multiple of the cluster size "
          + "(\(header.clusterByteCount.hex)) behind the header")
    }
    guard size <= Self.maximumDirectoryByteCount else {
      throw .corrupt("the bitmap directory has \(size) bytes, more than \(Self.maximumDirectoryByteCount)")
    }
    self.count = count
    directoryByteCount = size
    directoryOffset = offset
  }
}

/// One entry of the bitmap directory [QCOW2 specification, Bitmap directory].
package struct BitmapRecord: Sendable, Equatable {
  static let fixedByteCount = 24
  static let maximumExtraByteCount: UInt64 = 1 << 20  // ours; QEMU writes none
  static let maximumNameByteCount: UInt16 = 1023  // QEMU's
  static let maximumTableEntryCount: UInt32 = 0x800_0000  // QEMU's
  static let granularityBits: ClosedRange<UInt8> = 9...31  // QEMU's

  package struct Flags: OptionSet, Sendable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }
    /// Was not saved: its content cannot be trusted.
    package static let inUse = Self(rawValue: 1 << 0)
    /// Records writes as soon as the image is opened.
    package static let auto = Self(rawValue: 1 << 1)
    /// Extra data may be ignored by who does not know it.
    package static let extraDataCompatible = Self(rawValue: 1 << 2)
    package static let known: Self = [.inUse, .auto, .extraDataCompatible]
  }

  /// Bytes 0..<8 of the entry.
  package var tableOffset: UInt64
  /// Bytes 8..<12.
  package var tableEntryCount: UInt32
  /// Bytes 12..<16.
  package var flags: Flags
  /// Byte 17: one bit stands for `1 << granularityBits` guest bytes.
  package var granularityBits: UInt8
  package var extra: [UInt8]
  package var name: [UInt8]

  package var granularity: UInt64 { 1 << UInt64(granularityBits) }

  /// Reads the whole directory.
  package static func directory(_ store: any ByteStore, _ place: BitmapsExtension, _ header: Header)
    throws(ImageError) -> [BitmapRecord]
  {
    var reader = WindowReader(store, "bitmap directory", start: place.directoryOffset)
    var records: [BitmapRecord] = []
    for index in 0..<Int(place.count) {
      records.append(try BitmapRecord(parsing: &reader, index, header, end: place.directoryByteCount))
    }
    guard reader.consumedByteCount == place.directoryByteCount else {
      throw .corrupt(
        "the bitmap directory has \(place.directoryByteCount) bytes, but its \(place.count) entries fill "
          + "\(reader.consumedByteCount)")
    }
    return records
  }

  /// Passes an entry that makes no sense itself but says how long it is.
  /// - Throws: `why` where it does not, or leaves the directory.
  static func skip(_ reader: inout WindowReader, end: UInt64, because why: ImageError) throws(ImageError) {
    let start = reader.consumedByteCount
    let fixed = try reader.next(Self.fixedByteCount)
    let nameByteCount: UInt16 = fixed.rawBytes.bigEndian(at: 18) ?? 0
    let extraByteCount: UInt32 = fixed.rawBytes.bigEndian(at: 20) ?? 0
    guard start + UInt64(Self.fixedByteCount) + UInt64(nameByteCount) + UInt64(extraByteCount) <= end else { throw why }
    reader.skip(UInt64(nameByteCount) + UInt64(extraByteCount))
    try reader.skipPadding(to: 8)
  }

  init(parsing reader: inout WindowReader, _ index: Int, _ header: Header, end: UInt64) throws(ImageError) {
    let fixed = try reader.next(Self.fixedByteCount)
    let bytes = fixed.rawBytes
    tableOffset = bytes.bigEndian(at: 0) ?? 0
    tableEntryCount = bytes.bigEndian(at: 8) ?? 0
    flags = Flags(rawValue: bytes.bigEndian(at: 12) ?? 0)
    let type = bytes[16]
    granularityBits = bytes[17]
    let nameByteCount: UInt16 = bytes.bigEndian(at: 18) ?? 0
    let extraByteCount: UInt32 = bytes.bigEndian(at: 20) ?? 0
    guard flags.subtracting(.known).isEmpty else {
      throw .corrupt("bitmap \(index): unknown flags are set (\(UInt64(flags.rawValue).hex))")
    }
    guard type == 1 else { throw .corrupt("bitmap \(index): type \(type) is not known") }
    guard Self.granularityBits.contains(granularityBits) else {
      throw .corrupt("bitmap \(index): granularity_bits \(granularityBits) is not between 9 and 31")
    }
    guard (1...Self.maximumNameByteCount).contains(nameByteCount) else {
      throw .corrupt("bitmap \(index): the name has \(nameByteCount) bytes, not 1 to \(Self.maximumNameByteCount)")
    }
    guard tableEntryCount <= Self.maximumTableEntryCount else {
      throw .corrupt(
        "bitmap \(index): the table has \(tableEntryCount) entries, more than \(Self.maximumTableEntryCount)")
    }
    guard tableOffset % header.clusterByteCount == 0 else {
      throw .corrupt(
        "bitmap \(index): the table's offset \(tableOffset.hex) is not a multiple of the cluster size "
          + "(\(header.clusterByteCount.hex))")
    }
    guard UInt64(extraByteCount) <= min(Self.maximumExtraByteCount, end) else {
      throw .corrupt("bitmap \(index): \(extraByteCount) bytes of extra data, more than the directory can hold")
    }
    extra = try reader.next(Int(extraByteCount))
    name = try reader.next(Int(nameByteCount))
    try reader.skipPadding(to: 8)
    guard reader.consumedByteCount <= end else {
      throw .corrupt("bitmap \(index): the entry leaves the directory (\(end) bytes)")
    }
  }
}
