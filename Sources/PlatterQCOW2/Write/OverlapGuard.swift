import PlatterCore

/// Knows which host clusters hold metadata, so that nothing is ever written over it.
struct OverlapGuard {
  enum Kind: String {
    case header = "the header"
    case l1Table = "the L1 table"
    case l2Table = "an L2 table"
    case refcountTable = "the refcount table"
    case refcountBlock = "a refcount block"
    case snapshotTable = "the snapshot table"
    case snapshotL1Table = "a snapshot's L1 table"
    case bitmapDirectory = "the bitmap directory"
    case cryptoHeader = "the encryption header"
  }

  private let clusterByteCount: UInt64
  /// Single clusters: L2 tables and refcount blocks.
  private var clusters: [UInt64: Kind] = [:]
  /// Longer pieces; few.
  private var ranges: [(range: Range<UInt64>, kind: Kind)] = []

  init(clusterByteCount: UInt64) { self.clusterByteCount = clusterByteCount }

  mutating func add(_ kind: Kind, at offset: UInt64, byteCount: UInt64) {
    guard byteCount > 0 else { return }
    ranges.append((offset..<(offset.adding(byteCount) ?? .max), kind))
  }

  mutating func add(_ kind: Kind, clusterAt offset: UInt64) { clusters[offset / clusterByteCount] = kind }

  mutating func remove(clusterAt offset: UInt64) { clusters[offset / clusterByteCount] = nil }

  /// Forgets all single clusters of a kind.
  mutating func removeClusters(_ kind: Kind) {
    for (cluster, present) in clusters where present == kind { clusters[cluster] = nil }
  }

  mutating func remove(_ kind: Kind) { ranges.removeAll { $0.kind == kind } }

  /// What lies in a range of the file, or nil.
  func metadata(in range: Range<UInt64>) -> Kind? {
    for entry in ranges where entry.range.overlaps(range) { return entry.kind }
    guard !range.isEmpty, !clusters.isEmpty else { return nil }
    for cluster in range.lowerBound / clusterByteCount...(range.upperBound - 1) / clusterByteCount {
      if let kind = clusters[cluster] { return kind }
    }
    return nil
  }
}
