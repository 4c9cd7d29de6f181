import PlatterCore

/// What a dirty bitmap must and may say.
package struct ProofBitmap: Sendable {
  package var granularity: UInt64
  package var isEnabled: Bool
  /// Granules in which a byte is another one than before.
  package private(set) var must: Set<Int> = []
  /// Granules that a request touched.
  package private(set) var may: Set<Int> = []

  package init(granularity: UInt64, isEnabled: Bool) {
    self.granularity = granularity
    self.isEnabled = isEnabled
  }

  package func granules(_ range: Range<UInt64>) -> Range<Int> {
    guard !range.isEmpty else { return 0..<0 }
    return Int(range.lowerBound / granularity)..<Int((range.upperBound - 1) / granularity) + 1
  }

  package mutating func touch(_ range: Range<UInt64>, cluster: UInt64) {
    guard isEnabled, !range.isEmpty else { return }
    may.formUnion(granules(range.lowerBound / cluster * cluster..<(range.upperBound + cluster - 1) / cluster * cluster))
  }

  package mutating func note(_ range: Range<UInt64>, cluster: UInt64, _ old: [UInt8], _ new: [UInt8]) {
    guard isEnabled, !range.isEmpty else { return }
    touch(range, cluster: cluster)
    for granule in granules(range) where !must.contains(granule) {
      let start = max(range.lowerBound, UInt64(granule) * granularity) - range.lowerBound
      let end = min(range.upperBound, UInt64(granule + 1) * granularity) - range.lowerBound
      if !old.isEqual(new, Int(start)..<Int(end)) { must.insert(granule) }
    }
  }

  /// A request that touches whatever it likes and changes nothing.
  package mutating func noteEverything(_ byteCount: Int) {
    if isEnabled { may.formUnion(granules(0..<UInt64(byteCount))) }
  }

  package mutating func resize(from old: Int, to new: Int, cluster: Int) {
    let end = granules(0..<UInt64(min(old, new))).count
    must = must.filter { $0 < end }
    may = may.filter { $0 < end }
    // The end of the last cluster is cleared, and what showed behind it.
    if isEnabled {
      may.formUnion(granules(UInt64(min(old, new) / cluster * cluster)..<UInt64(max(old, new) + cluster)))
    }
  }

  package mutating func clear() { (must, may) = ([], []) }

  package mutating func merge(_ other: ProofBitmap, _ byteCount: Int) {
    func moved(_ set: Set<Int>) -> [Int] {
      set.flatMap { granule in
        let start = UInt64(granule) * other.granularity
        return Array(granules(start..<max(start, min(start + other.granularity, UInt64(byteCount)))))
      }
    }
    must.formUnion(moved(other.must))
    may.formUnion(moved(other.may))
  }
}
