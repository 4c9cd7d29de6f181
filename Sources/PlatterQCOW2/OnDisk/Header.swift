package import PlatterCore

/// The fixed part of the header [QCOW2 specification, Header]. Sound by itself once parsed: what needs other parts of
/// the file (table ends, feature names) is checked by `Open`.
package struct Header: Sendable, Equatable {
  /// "QFI" and 0xfb.
  package static let magic: UInt32 = 0x5146_49fb
  package static let version2ByteCount = 72
  package static let version3MinimumByteCount = 104
  /// What new images have: with the compression type, padded to 8.
  package static let version3ByteCount: UInt32 = 112
  package static let maximumL1EntryCount: UInt32 = 4_194_304  // QEMU's: a table of 32 MiB
  package static let maximumRefcountTableByteCount: UInt64 = 8 << 20  // QEMU's
  package static let maximumSnapshotCount: UInt32 = 65_536  // QEMU's
  package static let maximumBackingNameByteCount: UInt32 = 1023  // the specification's

  /// Bytes 4..<8: 2 or 3.
  package var version: UInt32
  /// Bytes 8..<16: where the backing file's name lies; 0 for none.
  package var backingNameOffset: UInt64
  /// Bytes 16..<20.
  package var backingNameByteCount: UInt32
  /// Bytes 20..<24: cluster size is `1 << clusterBits`.
  package var clusterBits: UInt32
  /// Bytes 24..<32: guest bytes; not always a multiple of 512.
  package var virtualByteCount: UInt64
  /// Bytes 32..<36.
  package var encryption: Encryption
  /// Bytes 36..<40: entries, not bytes; may exceed what the disk needs (VM state lies behind it).
  package var l1EntryCount: UInt32
  /// Bytes 40..<48.
  package var l1Offset: UInt64
  /// Bytes 48..<56.
  package var refcountTableOffset: UInt64
  /// Bytes 56..<60.
  package var refcountTableClusterCount: UInt32
  /// Bytes 60..<64.
  package var snapshotCount: UInt32
  /// Bytes 64..<72.
  package var snapshotTableOffset: UInt64
  /// Bytes 72..<80; none in version 2, whose bytes from 72 on are extensions.
  package var incompatibleFeatures: IncompatibleFeatures
  /// Bytes 80..<88.
  package var compatibleFeatures: CompatibleFeatures
  /// Bytes 88..<96.
  package var autoclearFeatures: AutoclearFeatures
  /// Bytes 96..<100: refcounts have `1 << refcountOrder` bits; 4 in version 2.
  package var refcountOrder: UInt32
  /// Bytes 100..<104: where the extensions start; 72 in version 2.
  package var headerByteCount: UInt32
  /// Byte 104, where the header is longer than that.
  package var compression: Compression
  /// Bytes 105..<headerByteCount: unknown, kept for rewriting.
  package var unknownBytes: [UInt8]

  package enum Encryption: UInt32, Sendable {
    case none = 0
    /// AES-128-CBC, numbered by guest sector.
    case legacyAES = 1
    case luks = 2
  }

  package enum Compression: UInt8, Sendable {
    case deflate = 0
    case zstd = 1
  }

  /// - Parameters:
  ///   - bytes: the head of the file, at best cluster 0 whole.
  ///   - isForCheck: let numbers of refcount table and snapshots pass: a check judges them itself.
  package init(parsing bytes: RawSpan, isForCheck: Bool = false) throws(ImageError) {
    guard let magic = bytes.bigEndian(at: 0, as: UInt32.self) else { throw Self.cut(bytes, 8) }
    guard magic == Self.magic else { throw .corrupt("no qcow2 image: the header starts with \(UInt64(magic).hex)") }
    version = try Self.field(bytes, 4)
    guard version == 2 || version == 3 else {
      throw .unsupported("qcow2 version \(version) is not supported: only 2 and 3 are")
    }
    let isVersion3 = version == 3
    guard bytes.byteCount >= (isVersion3 ? Self.version3MinimumByteCount : Self.version2ByteCount) else {
      throw Self.cut(bytes, isVersion3 ? Self.version3MinimumByteCount : Self.version2ByteCount)
    }
    backingNameOffset = try Self.field(bytes, 8)
    backingNameByteCount = try Self.field(bytes, 16)
    clusterBits = try Self.field(bytes, 20)
    virtualByteCount = try Self.field(bytes, 24)
    let method: UInt32 = try Self.field(bytes, 32)
    guard let encryption = Encryption(rawValue: method) else {
      throw .unsupported("encryption method \(method) in the qcow2 header is not known")
    }
    self.encryption = encryption
    l1EntryCount = try Self.field(bytes, 36)
    l1Offset = try Self.field(bytes, 40)
    refcountTableOffset = try Self.field(bytes, 48)
    refcountTableClusterCount = try Self.field(bytes, 56)
    snapshotCount = try Self.field(bytes, 60)
    snapshotTableOffset = try Self.field(bytes, 64)
    incompatibleFeatures = isVersion3 ? IncompatibleFeatures(rawValue: try Self.field(bytes, 72)) : []
    compatibleFeatures = isVersion3 ? CompatibleFeatures(rawValue: try Self.field(bytes, 80)) : []
    autoclearFeatures = isVersion3 ? AutoclearFeatures(rawValue: try Self.field(bytes, 88)) : []
    refcountOrder = isVersion3 ? try Self.field(bytes, 96) : 4
    headerByteCount = isVersion3 ? try Self.field(bytes, 100) : UInt32(Self.version2ByteCount)
    compression = .deflate
    unknownBytes = []
    try checkGeometry()
    if isVersion3 { try parseTail(bytes) }
    try checkTables(isForCheck: isForCheck)
  }

  private static func cut(_ bytes: RawSpan, _ wanted: Int) -> ImageError {
    .truncated("the qcow2 header needs \(wanted) bytes, but the file ends after \(bytes.byteCount)")
  }

  private static func field<T: FixedWidthInteger & BitwiseCopyable>(_ bytes: RawSpan, _ offset: Int)
    throws(ImageError) -> T
  {
    guard let value = bytes.bigEndian(at: offset, as: T.self) else {
      throw cut(bytes, offset + MemoryLayout<T>.size)
    }
    return value
  }

  /// Byte 104 and everything behind it, as far as the header says that it reaches.
  private mutating func parseTail(_ bytes: RawSpan) throws(ImageError) {
    guard headerByteCount >= Self.version3MinimumByteCount, headerByteCount % 8 == 0,
      UInt64(headerByteCount) <= clusterByteCount
    else {
      throw .corrupt(
        "header length \(headerByteCount) is not a multiple of 8 between 104 and the cluster size "
          + "(\(clusterByteCount))")
    }
    guard bytes.byteCount >= Int(headerByteCount) else { throw Self.cut(bytes, Int(headerByteCount)) }
    var type: UInt8 = 0
    if Int(headerByteCount) > Self.version3MinimumByteCount {
      type = bytes[Self.version3MinimumByteCount]
      let known = Self.version3MinimumByteCount + 1
      unknownBytes = bytes.bytes(at: known, count: Int(headerByteCount) - known) ?? []
    }
    guard let compression = Compression(rawValue: type) else {
      throw .unsupported("compression type \(type) in the qcow2 header is not known")
    }
    self.compression = compression
    guard incompatibleFeatures.contains(.compressionType) == (compression != .deflate) else {
      throw .corrupt(
        "compression type \(type) in the qcow2 header contradicts incompatible feature bit 3, which is "
          + (compression == .deflate ? "set" : "clear"))
    }
  }
}
