/// Sizes that follow from cluster size and kind of L2 entry.
package struct Geometry: Sendable, Equatable {
  /// Tables are read and cached in pieces of at most this, so that memory does not follow the cluster size.
  static let maximumSliceByteCount: UInt64 = 64 << 10

  package let clusterBits: UInt64
  package let clusterByteCount: UInt64
  package let hasExtendedL2: Bool
  /// 64-bit words of an L2 entry: 1, or 2 where it is extended.
  package let l2EntryWordCount: Int
  /// Entries of an L2 table.
  package let l2EntryCount: UInt64
  /// Guest bytes that one L1 entry stands for; a power of two, at most 2^39.
  package let l1EntryCoverage: UInt64
  /// Entries of a slice of an L2 table.
  package let sliceEntryCount: UInt64
  package let sliceByteCount: UInt64
  /// Guest bytes that a slice of an L2 table stands for.
  package let sliceCoverage: UInt64

  package init(_ header: Header) {
    clusterBits = UInt64(header.clusterBits)
    clusterByteCount = header.clusterByteCount
    hasExtendedL2 = header.hasExtendedL2
    l2EntryWordCount = hasExtendedL2 ? 2 : 1
    let entryByteCount = UInt64(l2EntryWordCount * 8)
    l2EntryCount = clusterByteCount / entryByteCount
    l1EntryCoverage = l2EntryCount * clusterByteCount
    sliceByteCount = min(clusterByteCount, Self.maximumSliceByteCount)
    sliceEntryCount = sliceByteCount / entryByteCount
    sliceCoverage = sliceEntryCount * clusterByteCount
  }

  /// Extended L2 only: 32 of them are a cluster.
  package var subclusterByteCount: UInt64 { clusterByteCount / 32 }

  /// Unit in which a change of the map can be told.
  package var mapUnit: UInt64 { hasExtendedL2 ? subclusterByteCount : clusterByteCount }
}
