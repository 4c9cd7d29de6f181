import PlatterCore

/// The numbers that a disk's size and block size lead to [MS-VHDX 2.5].
package struct BlockGeometry: Sendable, Equatable {
  /// Bits of a sector bitmap block, one for each logical sector of a chunk.
  static let sectorsPerChunk: UInt64 = 1 << 23
  static let bitmapBlockByteCount: UInt64 = 1 << 20

  package let diskByteCount: UInt64
  package let blockByteCount: UInt64
  package let sectorByteCount: UInt64
  /// Guest bytes that share a sector bitmap block.
  package let chunkByteCount: UInt64
  /// Payload blocks in a chunk; the BAT has a bitmap entry behind each such group.
  package let chunkRatio: UInt64
  package let blockCount: UInt64
  package let chunkCount: UInt64
  /// Entries that the BAT must have.
  package let entryCount: UInt64

  init(_ metadata: Metadata) {
    diskByteCount = metadata.diskByteCount
    blockByteCount = metadata.blockByteCount
    sectorByteCount = metadata.logicalSectorByteCount
    // None of this overflows: the metadata's limits were checked.
    chunkByteCount = Self.sectorsPerChunk * sectorByteCount
    chunkRatio = chunkByteCount / blockByteCount
    blockCount = diskByteCount.dividedRoundingUp(by: blockByteCount)
    chunkCount = blockCount.dividedRoundingUp(by: chunkRatio)
    entryCount = metadata.hasParent ? chunkCount * (chunkRatio + 1) : blockCount + (blockCount - 1) / chunkRatio
  }

  /// The BAT entry of a payload block.
  func entryIndex(ofBlock block: UInt64) -> UInt64 { block + block / chunkRatio }
  /// The BAT entry of a chunk's sector bitmap block.
  func entryIndex(ofBitmap chunk: UInt64) -> UInt64 { chunk * (chunkRatio + 1) + chunkRatio }
}

/// One BAT entry: state and place of a block [MS-VHDX 2.5.1].
package struct BlockEntry: Sendable, Equatable, BitwiseCopyable {
  enum State: UInt8 {
    case notPresent = 0
    case undefined = 1
    case zero = 2
    case unmapped = 3
    /// Unmapped, as files of version 0.95 have it.
    case unmappedOld = 5
    case fullyPresent = 6
    case partiallyPresent = 7
  }

  static let reservedBits: UInt64 = 0xffff8

  /// Bits 0..<3 state, 3..<20 reserved, 20..<64 place in MiB.
  let rawValue: UInt64

  /// Nil for the one value that means nothing.
  var state: State? { State(rawValue: UInt8(truncatingIfNeeded: rawValue & 7)) }
  /// Byte position in the file.
  var offset: UInt64 { rawValue & ~0xfffff }
  var hasReservedBits: Bool { rawValue & Self.reservedBits != 0 }
}
