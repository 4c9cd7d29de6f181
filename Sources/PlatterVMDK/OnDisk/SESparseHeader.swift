package import PlatterCore

/// The constant and the volatile header of a SESPARSE extent ("space-efficient sparse").
package struct SESparseHeader: Sendable, Equatable {
  package static let magic: UInt64 = 0xcafe_babe
  static let version: UInt64 = 0x2_0000_0001
  static let volatileMagic: UInt64 = 0xcafe_cafe
  static let byteCount = 512
  static let grainSectorCount: UInt64 = 8
  static let tableSectorCount: UInt64 = 64
  static let tableEntryCount: UInt64 = 4096

  /// A run of sectors.
  package struct Region: Sendable, Equatable {
    package var sector: UInt64
    package var sectorCount: UInt64
  }

  /// Bytes 16..<24: sectors of the disk.
  package var capacity: UInt64
  /// Bytes 80..<96.
  package var volatileHeader: Region
  /// Bytes 128..<144.
  package var directory: Region
  /// Bytes 144..<160.
  package var tables: Region
  /// Bytes 192..<208.
  package var grains: Region

  /// Grain tables that the disk needs.
  package var tableCount: UInt64 {
    capacity.dividedRoundingUp(by: Self.grainSectorCount * Self.tableEntryCount)
  }

  package init(parsing bytes: RawSpan) throws(ImageError) {
    var words: [UInt64] = []
    for index in 0..<26 {
      guard let word = bytes.littleEndian(at: index * 8, as: UInt64.self) else {
        throw .truncated("the file ends inside the header (\(bytes.byteCount) bytes)")
      }
      words.append(word)
    }
    guard words[0] == Self.magic else { throw .corrupt("the header does not start with 0xcafebabe") }
    guard words[1] == Self.version else {
      throw .unsupported("the header has version \(words[1].hex), not 0x200000001")
    }
    capacity = words[2]
    guard words[3] == Self.grainSectorCount else {
      throw .unsupported("the header's grain size is \(words[3]) sectors, not 8")
    }
    guard words[4] == Self.tableSectorCount else {
      throw .unsupported("the header's grain tables have \(words[4]) sectors, not 64")
    }
    guard words[5] == 0 else { throw .unsupported("the header has unknown flags \(words[5].hex)") }
    guard words[6...9].allSatisfy({ $0 == 0 }) else { throw .unsupported("the header's reserved fields are not 0") }
    volatileHeader = Region(sector: words[10], sectorCount: words[11])
    directory = Region(sector: words[16], sectorCount: words[17])
    tables = Region(sector: words[18], sectorCount: words[19])
    grains = Region(sector: words[24], sectorCount: words[25])
    guard capacity <= ExtentLine.maximumSectorCount else {
      throw .corrupt("the header's capacity, \(capacity) sectors, is more than a file can have")
    }
    guard tableCount <= SparseHeader.maximumDirectoryEntryCount else {
      throw .unsupported("the header's capacity, \(capacity) sectors, needs a grain directory of \(tableCount) entries")
    }
    guard let directoryByteCount = directory.sectorCount.multiplied(by: sectorByteCount),
      tableCount * 8 <= directoryByteCount
    else {
      throw .corrupt(
        "the header's grain directory has \(directory.sectorCount) sectors, too few for \(tableCount) entries")
    }
  }

  /// Checks the volatile header: the extent must not wait for its journal to be replayed.
  static func checkVolatile(_ bytes: RawSpan) throws(ImageError) {
    guard bytes.littleEndian(at: 0) == volatileMagic else {
      throw .corrupt("the volatile header does not start with 0xcafecafe")
    }
    guard let replay = bytes.littleEndian(at: 24, as: UInt64.self) else {
      throw .truncated("the volatile header is cut")
    }
    guard replay == 0 else { throw .unsupported("the journal must be replayed first, which is not supported") }
  }
}
