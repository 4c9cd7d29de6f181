/// Clusters that packed units fill in part: where the next ones may go.
///
///     | unit | unit | un|it |···|   | data |   | unit |····|
///                           ^ end                     ^ end, the newest: may grow into the cluster behind it
///
/// A plain cluster behind a packed one ends its row; what is left there is for units that fit into it, so that files of
/// clusters of both kinds have no gaps of half a cluster at each change. A tail's cluster counts at least one unit: whoever
/// frees a cluster forgets its tail.
struct PackedTails {
  private static let maximumCount = 16

  private let clusterByteCount: UInt64
  /// The first free byte of each, none at the start of a cluster; the newest last.
  private var ends: [UInt64] = []

  init(clusterByteCount: UInt64) { self.clusterByteCount = clusterByteCount }

  /// The one that may grow, for the first byte behind the unit that was packed last; nil where that filled its cluster.
  var newest: UInt64? { ends.last }

  /// The end of the oldest row with the least room for a unit of `byteCount` bytes inside its cluster.
  func tightest(for byteCount: UInt64) -> UInt64? {
    ends.filter { room($0) >= byteCount }.min { room($0) < room($1) }
  }

  /// A unit now lies at `start`.
  mutating func fill(_ start: UInt64, byteCount: UInt64) {
    let end = start + byteCount
    let isWhole = end % clusterByteCount == 0
    if let index = ends.firstIndex(of: start) {
      if !isWhole, index + 1 < ends.count { return ends[index] = end }
      ends.remove(at: index)
    }
    guard !isWhole else { return }
    ends.append(end)
    guard ends.count > Self.maximumCount else { return }
    if let least = ends.dropLast().indices.min(by: { room(ends[$0]) < room(ends[$1]) }) { ends.remove(at: least) }
  }

  /// Nothing goes there any longer: the cluster takes no more references.
  mutating func forget(_ end: UInt64) { ends.removeAll { $0 == end } }

  /// Clusters that are free again, or were made something else.
  mutating func forget(clusters: [UInt64]) {
    guard !ends.isEmpty, !clusters.isEmpty else { return }
    ends.removeAll { clusters.contains($0 / clusterByteCount) }
  }

  private func room(_ end: UInt64) -> UInt64 { clusterByteCount - end % clusterByteCount }
}
