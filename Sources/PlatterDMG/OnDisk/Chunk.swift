import PlatterCore

/// What a chunk of a block table holds.
enum ChunkKind: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case zero
  case raw
  /// Reads as zeros and is left out of the partition's checksum.
  case ignore
  case adc
  case zlib
  case bzip2
  case lzfse
  case lzma

  /// The codec of a packed chunk; nil for the others.
  var codec: PackedCodec? {
    switch self {
    case .zero, .raw, .ignore: nil
    case .adc: .adc
    case .zlib: .zlib
    case .bzip2: .bzip2
    case .lzfse: .lzfse
    case .lzma: .xz
    }
  }

  var name: String {
    switch self {
    case .zero: "zero"
    case .raw: "raw"
    case .ignore: "ignore"
    case .adc: "adc"
    case .zlib: "zlib"
    case .bzip2: "bzip2"
    case .lzfse: "lzfse"
    case .lzma: "lzma"
    }
  }
}

/// An entry of a block table: 40 bytes, big-endian.
struct Chunk: Sendable {
  static let byteCount = 40
  /// 512 MiB decoded: chunks of 250 MB exist, hdiutil makes them of 1 MiB.
  static let maximumPackedSectorCount: UInt64 = 1 << 20
  /// Most bytes of a packed chunk that decodes to so many: 64 KiB and a 64th more. ADC needs a 128th for what it cannot
  /// pack.
  static func maximumPackedByteCount(decoded byteCount: UInt64) -> UInt64 { byteCount + byteCount / 64 + (64 << 10) }

  static let commentType: UInt32 = 0x7FFF_FFFE
  static let endType: UInt32 = 0xFFFF_FFFF

  /// Bytes 0..<4.
  var type: UInt32
  /// Bytes 8..<16: relative to the first sector of its table.
  var firstSector: UInt64
  /// Bytes 16..<24.
  var sectorCount: UInt64
  /// Bytes 24..<32: relative to the data fork and the table's data offset.
  var offset: UInt64
  /// Bytes 32..<40: bytes in the file.
  var byteCount: UInt64

  init?(parsing bytes: RawSpan, at position: Int) {
    guard let type: UInt32 = bytes.bigEndian(at: position), let first: UInt64 = bytes.bigEndian(at: position + 8),
      let count: UInt64 = bytes.bigEndian(at: position + 16), let offset: UInt64 = bytes.bigEndian(at: position + 24),
      let byteCount: UInt64 = bytes.bigEndian(at: position + 32)
    else { return nil }
    self.type = type
    firstSector = first
    sectorCount = count
    self.offset = offset
    self.byteCount = byteCount
  }

  /// What the chunk holds; nil for a type that is not known.
  var kind: ChunkKind? {
    switch type {
    case 0: .zero
    case 1: .raw
    case 2: .ignore
    case 0x8000_0004: .adc
    case 0x8000_0005: .zlib
    case 0x8000_0006: .bzip2
    case 0x8000_0007: .lzfse
    case 0x8000_0008: .lzma
    default: nil
    }
  }
}

/// A chunk at its place on the disk and in the store: one record of the image's table, 32 bytes.
struct Run: Sendable, BitwiseCopyable, Equatable {
  /// On the disk.
  var firstSector: UInt64
  var sectorCount: UInt64
  /// In the store; 0 for zeros.
  var offset: UInt64
  /// Packed only.
  var packedByteCount: UInt32
  /// Index of the block table.
  var table: UInt16
  var kind: ChunkKind

  var endSector: UInt64 { firstSector &+ sectorCount }
  /// Bytes of the disk: fits, since the end of every run was checked.
  var byteCount: UInt64 { sectorCount &* DMG.sectorByteCount }
}
