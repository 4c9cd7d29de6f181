package import PlatterCore

/// The first sector of a hosted sparse extent. A value of this type has been checked but for the directories' places.
package struct SparseHeader: Sendable, Equatable {
  /// "KDMV".
  package static let magic: UInt32 = 0x564d_444b
  static let byteCount = 512

  package struct Flags: OptionSet, Sendable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }
    /// Bytes 73..<77 tell whether the file went through a text transfer.
    package static let newlineTest = Flags(rawValue: 1)
    package static let redundantDirectory = Flags(rawValue: 2)
    /// An entry of 1 reads as zeros.
    package static let zeroedGrains = Flags(rawValue: 4)
    package static let compressedGrains = Flags(rawValue: 0x10000)
    package static let markers = Flags(rawValue: 0x20000)
    /// A reader must know all bits of the upper half that are set.
    static let knownUpperHalf: Flags = [.compressedGrains, .markers]
  }

  /// A directory place that means "see the footer".
  static let inFooter: UInt64 = .max
  static let newlines: [UInt8] = [0x0a, 0x20, 0x0d, 0x0a]
  static let maximumGrainSectorCount: UInt64 = 0x20_0000  // the specification's
  static let tableEntryCount: UInt32 = 512  // the specification's
  static let maximumDirectoryEntryCount: UInt64 = 32 << 20  // ours; QEMU's

  /// Bytes 4..<8: 1 to 3.
  package var version: UInt32
  /// Bytes 8..<12.
  package var flags: Flags
  /// Bytes 12..<20: sectors of the disk.
  package var capacity: UInt64
  /// Bytes 20..<28: sectors of a grain, a power of two.
  package var grainSectorCount: UInt64
  /// Bytes 28..<36: sector of the embedded descriptor; 0 where there is none.
  package var descriptorSector: UInt64
  /// Bytes 36..<44.
  package var descriptorSectorCount: UInt64
  /// Bytes 48..<56.
  package var redundantDirectorySector: UInt64
  /// Bytes 56..<64.
  package var directorySector: UInt64
  /// Bytes 64..<72: sectors before the first grain.
  package var overhead: UInt64
  /// Byte 72.
  package var isUnclean: Bool
  /// Bytes 77..<79: grains are zlib streams.
  package var isCompressed: Bool
  /// Whether bytes 73..<77 are what they should be, or need not be.
  package var hasIntactNewlines: Bool

  /// Grain tables that the disk needs.
  package var tableCount: UInt64 {
    capacity.dividedRoundingUp(by: grainSectorCount).dividedRoundingUp(by: UInt64(Self.tableEntryCount))
  }

  package init(parsing bytes: RawSpan) throws(ImageError) {
    guard bytes.littleEndian(at: 0) == Self.magic else { throw .corrupt("the header does not start with \"KDMV\"") }
    guard bytes.byteCount >= 79, let version = bytes.littleEndian(at: 4, as: UInt32.self),
      let flags = bytes.littleEndian(at: 8, as: UInt32.self),
      let capacity = bytes.littleEndian(at: 12, as: UInt64.self),
      let grain = bytes.littleEndian(at: 20, as: UInt64.self),
      let descriptor = bytes.littleEndian(at: 28, as: UInt64.self),
      let descriptorCount = bytes.littleEndian(at: 36, as: UInt64.self),
      let entries = bytes.littleEndian(at: 44, as: UInt32.self),
      let redundant = bytes.littleEndian(at: 48, as: UInt64.self),
      let directory = bytes.littleEndian(at: 56, as: UInt64.self),
      let overhead = bytes.littleEndian(at: 64, as: UInt64.self),
      let compression = bytes.littleEndian(at: 77, as: UInt16.self)
    else { throw .truncated("the file ends inside the header (\(bytes.byteCount) bytes)") }
    self.version = version
    self.flags = Flags(rawValue: flags)
    self.capacity = capacity
    grainSectorCount = grain
    descriptorSector = descriptor
    descriptorSectorCount = descriptorCount
    redundantDirectorySector = redundant
    directorySector = directory
    self.overhead = overhead
    isUnclean = bytes[72] != 0
    isCompressed = compression == 1
    hasIntactNewlines = !self.flags.contains(.newlineTest) || bytes.bytes(at: 73, count: 4) == Self.newlines
    guard (1...3).contains(version) else { throw .unsupported("the header has version \(version), not 1 to 3") }
    guard compression <= 1 else { throw .unsupported("the header asks for the unknown compression \(compression)") }
    try check(entries: entries)
  }

  private func check(entries: UInt32) throws(ImageError) {
    let unknown = (flags.rawValue & 0xffff_0000) & ~Flags.knownUpperHalf.rawValue
    guard unknown == 0 else { throw .unsupported("the header asks for unknown features \(UInt64(unknown).hex)") }
    guard grainSectorCount.nonzeroBitCount == 1, grainSectorCount <= Self.maximumGrainSectorCount else {
      throw .corrupt("the header's grain size, \(grainSectorCount) sectors, is no power of two up to 2097152")
    }
    guard entries == Self.tableEntryCount else {
      throw .corrupt("the header's grain tables have \(entries) entries, not 512")
    }
    guard capacity <= ExtentLine.maximumSectorCount else {
      throw .corrupt("the header's capacity, \(capacity) sectors, is more than a file can have")
    }
    guard tableCount <= Self.maximumDirectoryEntryCount else {
      throw .unsupported(
        "the header's capacity, \(capacity) sectors, needs a grain directory of \(tableCount) entries, more than "
          + "\(Self.maximumDirectoryEntryCount)")
    }
  }
}

/// What stands before a grain or a piece of metadata in a streamOptimized extent.
package struct Marker: Sendable, Equatable {
  /// Bytes before a compressed grain's data.
  static let grainByteCount = 12
  static let byteCount = 512

  enum Kind: UInt32 {
    case endOfStream = 0
    case grainTable = 1
    case grainDirectory = 2
    case footer = 3
  }

  /// Bytes 0..<8. Grain: first sector of the disk. Metadata: sectors that follow.
  var value: UInt64
  /// Bytes 8..<12. Grain: bytes of the stream. Metadata: 0.
  var size: UInt32
  /// Bytes 12..<16 of metadata.
  var kind: UInt32?

  init(parsing bytes: RawSpan) throws(ImageError) {
    guard let value = bytes.littleEndian(at: 0, as: UInt64.self), let size = bytes.littleEndian(at: 8, as: UInt32.self)
    else { throw .truncated("the file ends inside a marker") }
    self.value = value
    self.size = size
    kind = bytes.littleEndian(at: 12, as: UInt32.self)
  }
}

extension SparseHeader {
  /// The header to go by: the footer's where the first sector defers to it.
  ///
  /// The footer is the last but one sector of the file, between its marker and the end marker.
  static func read(_ store: any ByteStore) throws(ImageError) -> SparseHeader {
    let head = try store.readPrefix(count: byteCount)
    let header = try SparseHeader(parsing: head.rawBytes)
    guard header.directorySector == inFooter else { return header }
    let length = try store.byteCount()
    let footerByteCount = UInt64(3 * Marker.byteCount)
    guard length >= footerByteCount + UInt64(byteCount) else {
      throw .truncated("the header refers to a footer, and the file (\(length.hex) bytes) is too short for one")
    }
    let tail = try store.readFully("the footer", at: length - footerByteCount, count: Int(footerByteCount))
    let marker = try Marker(parsing: tail.rawBytes.extracting(0..<512))
    let end = try Marker(parsing: tail.rawBytes.extracting(1024..<1536))
    guard marker.size == 0, marker.kind == Marker.Kind.footer.rawValue, end.value == 0, end.size == 0,
      end.kind == Marker.Kind.endOfStream.rawValue, tail.rawBytes.littleEndian(at: 512) == magic
    else { throw .truncated("the header refers to a footer, and the file does not end with one: it may be cut") }
    var footer: SparseHeader
    do throws(ImageError) {
      footer = try SparseHeader(parsing: tail.rawBytes.extracting(512..<1024))
    } catch {
      throw ImageError(error.code, "in the footer, " + error.message)
    }
    guard footer.directorySector != inFooter else { throw .corrupt("the footer refers to a footer") }
    footer.descriptorSector = header.descriptorSector
    footer.descriptorSectorCount = header.descriptorSectorCount
    return footer
  }
}
