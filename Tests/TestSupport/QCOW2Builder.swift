/// Builds qcow2 images byte by byte, from the specification alone. Everything that it lays out is right, refcounts
/// included, until a test tells it to lie.
///
/// ```swift
/// var image = QCOW2Builder(byteCount: 1 << 20)
/// image.entries[0] = .data(Array(repeating: 7, count: 65536))
/// image.entries[2] = .zero
/// let built = image.build()
/// ```
package struct QCOW2Builder: Sendable {
  /// What a guest cluster is.
  package enum Entry: Sendable {
    /// Verbatim bytes; padded with zeros to a cluster.
    case data([UInt8])
    /// A packed unit as it lies in the file, behind the one before it.
    case packed([UInt8])
    /// Reads as zeros, no space.
    case zero
    /// Reads as zeros, owns a cluster (filled with 0xee, to be caught when read).
    case zeroAllocated
    /// Extended L2 only: 32 subclusters each "a" (allocated), "z" (zero) or "-" (neither), the first one first. Owns a
    /// cluster of these bytes where they are not nil.
    case subclusters(String, [UInt8]?)
    /// The word as it is; the second one is for extended L2.
    case raw(UInt64, UInt64 = 0)
  }

  package struct Snapshot: Sendable {
    package var id = "1"
    package var name = "one"
    package var entries: [Int: Entry] = [:]
    package var diskByteCount: UInt64?
    package var vmStateByteCount: UInt64 = 0
    package var seconds: UInt32 = 1_700_000_000
    package var nanoseconds: UInt32 = 5
    package var guestClock: UInt64 = 7
    package var instructionCount: UInt64? = .max
    /// Instead of the L1 entries that the disk needs.
    package var l1EntryCount: Int?
    package init(id: String, name: String, entries: [Int: Entry] = [:], diskByteCount: UInt64? = nil) {
      self.id = id
      self.name = name
      self.entries = entries
      self.diskByteCount = diskByteCount
    }
  }

  package struct Bitmap: Sendable {
    package var name: String
    package var granularityBits: UInt8 = 16
    package var flags: UInt32 = 2
    package var extra: [UInt8] = []
    package init(name: String, granularityBits: UInt8 = 16, flags: UInt32 = 2, extra: [UInt8] = []) {
      self.extra = extra
      self.name = name
      self.granularityBits = granularityBits
      self.flags = flags
    }
  }

  package struct Built: Sendable {
    package var bytes: [UInt8]
    package var l1Offset: UInt64 = 0
    /// By L1 index.
    package var l2Offsets: [Int: UInt64] = [:]
    /// Where a guest cluster's data, packed bytes or preallocated space lies; by guest cluster.
    package var hostOffsets: [Int: UInt64] = [:]
    package var snapshotHostOffsets: [[Int: UInt64]] = []
    package var snapshotTableOffset: UInt64 = 0
    package var snapshotL1Offsets: [UInt64] = []
    package var bitmapDirectoryOffset: UInt64 = 0
    package var bitmapTableOffsets: [UInt64] = []
    package var refcountTableOffset: UInt64 = 0
  }

  package var version: UInt32 = 3
  package var clusterBits = 16
  package var refcountOrder: UInt32 = 4
  package var byteCount: UInt64
  package var hasExtendedL2 = false
  package var headerByteCount: UInt32 = 112
  /// 0 deflate, 1 zstd.
  package var compressionType: UInt8 = 0
  package var encryptionMethod: UInt32 = 0
  package var incompatible: UInt64 = 0
  package var compatible: UInt64 = 0
  package var autoclear: UInt64 = 0
  package var backingName: [UInt8]?
  package var backingFormat: String?
  /// Data lies in another file, cluster by cluster where the guest has it.
  package var dataFileName: String?
  /// (type 0 incompatible, 1 compatible, 2 autoclear; bit; name)
  package var featureNames: [(UInt8, UInt8, String)] = []
  /// Behind those that the other properties ask for.
  package var extensions: [(UInt32, [UInt8])] = []
  package var entries: [Int: Entry] = [:]
  package var snapshots: [Snapshot] = []
  package var bitmaps: [Bitmap] = []
  package var l1EntryCount: Int?
  /// Bytes written over the finished image: (position, bytes).
  package var lies: [(Int, [UInt8])] = []

  package init(byteCount: UInt64, clusterBits: Int = 16) {
    self.byteCount = byteCount
    self.clusterBits = clusterBits
  }

  package var clusterByteCount: Int { 1 << clusterBits }
  package var entryByteCount: Int { hasExtendedL2 ? 16 : 8 }
  package var l2EntryCount: Int { clusterByteCount / entryByteCount }

  /// Overrides a field of the header by its position: `image.lie(at: 20, UInt32(8))`.
  package mutating func lie<T: FixedWidthInteger>(at offset: Int, _ value: T) {
    lies.append((offset, bigEndianBytes(value)))
  }

  package func build() -> Built {
    var layout = QCOW2Layout(self)
    layout.placeAll()
    var built = layout.built
    for (offset, bytes) in lies {
      if built.bytes.count < offset + bytes.count {
        built.bytes.append(contentsOf: repeatElement(0, count: offset + bytes.count - built.bytes.count))
      }
      built.bytes.replaceSubrange(offset..<offset + bytes.count, with: bytes)
    }
    return built
  }
}

/// The bytes of a number, most significant first.
package func bigEndianBytes<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
  (0..<T.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> (T.bitWidth - 8 - 8 * $0)) }
}

/// A deflate stream of stored blocks [RFC 1951, 3.2.4].
package func deflateStored(_ bytes: [UInt8]) -> [UInt8] {
  var stream: [UInt8] = []
  var rest = bytes[...]
  repeat {
    let part = rest.prefix(65_535)
    rest = rest.dropFirst(part.count)
    let count = UInt16(part.count)
    stream.append(rest.isEmpty ? 1 : 0)
    for value in [count, ~count] { stream += [UInt8(value & 0xff), UInt8(value >> 8)] }
    stream += part
  } while !rest.isEmpty
  return stream
}

/// A zstd frame of raw blocks [RFC 8878, 3.1.1].
package func zstdRaw(_ bytes: [UInt8]) -> [UInt8] {
  // Magic number; a descriptor without content size, checksum or dictionary; a window of 2 MiB.
  var frame: [UInt8] = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 11 << 3]
  var rest = bytes[...]
  repeat {
    let part = rest.prefix(1 << 17)
    rest = rest.dropFirst(part.count)
    let header = UInt32(part.count) << 3 | (rest.isEmpty ? 1 : 0)
    frame += [UInt8(header & 0xff), UInt8(header >> 8 & 0xff), UInt8(header >> 16)]
    frame += part
  } while !rest.isEmpty
  return frame
}
