/// An entry of an L1 table [QCOW2 specification, Cluster mapping].
struct L1Entry {
  static let offsetMask: UInt64 = 0x00ff_ffff_ffff_fe00
  static let reservedMask: UInt64 = 0x7f00_0000_0000_01ff
  /// The table's refcount is exactly 1. Means nothing in a snapshot's table.
  static let copied: UInt64 = 1 << 63

  let rawValue: UInt64

  /// Where the L2 table lies; 0 for none.
  var tableOffset: UInt64 { rawValue & Self.offsetMask }
  var reservedBits: UInt64 { rawValue & Self.reservedMask }
}

/// An entry of an L2 table, or the first word of an extended one.
struct L2Entry {
  static let offsetMask: UInt64 = 0x00ff_ffff_ffff_fe00
  static let reservedMask: UInt64 = 0x3f00_0000_0000_01fe
  static let copied: UInt64 = 1 << 63
  static let compressed: UInt64 = 1 << 62
  /// Reads as zeros. Version 3 with standard entries only; reserved everywhere else.
  static let zero: UInt64 = 1
  /// Second word of an extended entry: bit i says that subcluster i is allocated, bit 32 + i that it reads as zeros.
  static let allSubclustersAllocated: UInt64 = 0x0000_0000_ffff_ffff

  let rawValue: UInt64

  var isCompressed: Bool { rawValue & Self.compressed != 0 }
  var readsZero: Bool { rawValue & Self.zero != 0 }
  /// Standard entries: where the cluster lies.
  var hostOffset: UInt64 { rawValue & Self.offsetMask }
}

/// What an L2 entry says about a packed cluster: `62 - (clusterBits - 8)` bits of position, above them the number of
/// further 512-byte sectors that its bytes touch.
struct PackedLocation {
  /// Position in the file, of any alignment.
  let offset: UInt64
  /// Upper bound of the packed bytes: the format stores no exact length.
  let byteCount: UInt64

  init(_ entry: L2Entry, clusterBits: UInt64) {
    let offsetBits = 70 - clusterBits
    offset = entry.rawValue & ((1 << offsetBits) - 1)
    let sectors = (entry.rawValue >> offsetBits) & ((1 << (clusterBits - 8)) - 1)
    byteCount = (sectors + 1) * 512 - offset % 512
  }

  /// The entry that says it.
  static func word(offset: UInt64, byteCount: UInt64, clusterBits: UInt64) -> UInt64 {
    let sectors = (offset + byteCount - 1) / 512 - offset / 512
    return L2Entry.compressed | sectors << (70 - clusterBits) | offset
  }

  /// Bits of the position that must be 0: no file reaches there.
  static let reservedOffsetMask: UInt64 = 0x3f00_0000_0000_0000
  var reservedBits: UInt64 { offset & Self.reservedOffsetMask }
}
