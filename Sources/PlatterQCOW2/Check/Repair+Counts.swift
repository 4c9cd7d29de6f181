import PlatterCore

extension Repair {
  /// Sets counts in the blocks that are there to the references.
  /// - Parameters:
  ///   - lowersOnly: give unused space back, and no more.
  ///   - keepsHigher: leave counts above the references.
  mutating func setCounts(_ scan: ImageScan, lowersOnly: Bool, keepsHigher: Bool = false) throws(ImageError) {
    let geometry = scan.refcounts.geometry
    var tooMany: UInt64?
    let store = store
    try scan.run { ledger throws(ImageError) in
      for chunk in 0..<ledger.chunkCount {
        let clusters = ledger.clusters(ofChunk: chunk)
        guard scan.refcounts.hasBlock(in: clusters) else { continue }
        let references = ledger.counts(ofChunk: chunk)
        try scan.refcounts.forEachPart(of: clusters) { part, offset, old throws(ImageError) in
          var bytes = old
          for index in 0..<Int(part.upperBound - part.lowerBound) {
            let slot = Int(part.lowerBound - clusters.lowerBound) + index
            let wanted = references.isEmpty ? 0 : UInt64(references[slot])
            let present = geometry.count(index, in: old.rawBytes)
            if present == wanted || (present < wanted ? lowersOnly : keepsHigher) { continue }
            if wanted == UInt64(ClusterLedger.maximumCount), present > wanted { continue }
            if wanted > geometry.maximum { tooMany = part.lowerBound + UInt64(index) }
            _ = bytes.withMutableRawBytes { geometry.set(index, in: &$0, to: min(wanted, geometry.maximum)) }
          }
          if bytes != old { try store.write(bytes.rawBytes, at: offset) }
        }
      }
    }
    if let tooMany { noteTooMany(tooMany, geometry) }
  }

  private mutating func noteTooMany(_ cluster: UInt64, _ geometry: RefcountGeometry) {
    note("cluster \(cluster) is referred to more often than the refcounts can say (\(geometry.maximum))")
  }

  /// Makes a new refcount table and blocks at the end of the file, and has the header name them.
  /// - Parameter order: the width of the new counts.
  mutating func rebuildCounts(keepsHigher: Bool, order: UInt32) throws(ImageError) {
    let plan = try planRebuild(keepsHigher: keepsHigher, order: order)
    let cluster = plan.geometry.clusterByteCount
    try store.resize(to: plan.reserved.upperBound * cluster)
    let scan = try scan(skipsRefcounts: true, reserved: plan.reserved)
    var tooMany: UInt64?
    let store = store
    try scan.run { ledger throws(ImageError) in
      for chunk in 0..<ledger.chunkCount {
        let clusters = ledger.clusters(ofChunk: chunk)
        let references = try Self.wantedCounts(chunk, ledger, scan, keepsHigher: keepsHigher)
        guard !references.isEmpty else { continue }
        try plan.forEachPart(of: clusters) { part, offset throws(ImageError) in
          let count = Int(part.upperBound - part.lowerBound)
          var bytes = [UInt8](repeating: 0, count: ((count << Int(plan.geometry.order)) + 7) / 8)
          for index in 0..<count {
            let wanted = references[Int(part.lowerBound - clusters.lowerBound) + index]
            guard wanted > 0 else { continue }
            if wanted > plan.geometry.maximum { tooMany = part.lowerBound + UInt64(index) }
            let value = min(wanted, plan.geometry.maximum)
            _ = bytes.withMutableRawBytes { plan.geometry.set(index, in: &$0, to: value) }
          }
          try store.write(bytes.rawBytes, at: offset)
        }
      }
    }
    if let tooMany { noteTooMany(tooMany, plan.geometry) }
    try write(plan.table, at: plan.tableOffset)
    try store.flush()
    try name(plan, order, scan.header)
  }

  /// Has the header name new refcounts, and their width, in one write to one sector.
  private func name(_ plan: RebuildPlan, _ order: UInt32, _ header: Header) throws(ImageError) {
    var fields = Words.encode([plan.tableOffset]) + withBigEndianBytes(UInt32(plan.tableClusterCount))
    if order != header.refcountOrder {
      let place = 48 + UInt64(fields.count)
      fields += try store.readFully("header", at: place, count: Int(96 - place))
      fields += withBigEndianBytes(order)
    }
    try store.write(fields.rawBytes, at: 48)
    try store.flush()
  }

  /// References of a chunk's clusters, with the old counts where those are to be kept; empty for all 0.
  private static func wantedCounts(_ chunk: Int, _ ledger: ClusterLedger, _ scan: ImageScan, keepsHigher: Bool)
    throws(ImageError) -> [UInt64]
  {
    let clusters = ledger.clusters(ofChunk: chunk)
    var wanted = ledger.counts(ofChunk: chunk).map { UInt64($0) }
    guard keepsHigher, scan.refcounts.hasBlock(in: clusters) else { return wanted }
    if wanted.isEmpty { wanted = [UInt64](repeating: 0, count: clusters.count) }
    for cluster in clusters {
      let index = Int(cluster - clusters.lowerBound)
      wanted[index] = max(wanted[index], try scan.refcounts.count(of: cluster))
    }
    return wanted
  }

  /// Where new blocks and the new table go.
  private struct RebuildPlan {
    let geometry: RefcountGeometry
    /// Where each block lies; 0 for none.
    var table: [UInt64]
    var reserved: Range<UInt64>
    var tableOffset: UInt64
    var tableClusterCount: UInt64

    /// Parts of a range of clusters that new blocks count, with the place of their counts.
    func forEachPart(
      of clusters: Range<UInt64>, _ body: (Range<UInt64>, UInt64) throws(ImageError) -> Void
    ) throws(ImageError) {
      var position = clusters.lowerBound
      while position < clusters.upperBound {
        let index = position / geometry.countsPerBlock
        let end = min(clusters.upperBound, (index + 1) * geometry.countsPerBlock)
        if index < UInt64(table.count), table[Int(index)] != 0 {
          try body(position..<end, table[Int(index)] + ((position % geometry.countsPerBlock) << geometry.order) / 8)
        }
        position = end
      }
    }
  }

  private func planRebuild(keepsHigher: Bool, order: UInt32) throws(ImageError) -> RebuildPlan {
    let scan = try scan(skipsRefcounts: true)
    var header = scan.header
    header.refcountOrder = order
    let geometry = RefcountGeometry(header)
    var needed: Set<UInt64> = []
    var end = scan.fileClusterCount
    try scan.run { ledger throws(ImageError) in
      for chunk in 0..<ledger.chunkCount {
        let start = ledger.clusters(ofChunk: chunk).lowerBound
        let wanted = try Self.wantedCounts(chunk, ledger, scan, keepsHigher: keepsHigher)
        for (index, count) in wanted.enumerated() where count > 0 {
          let cluster = start + UInt64(index)
          needed.insert(cluster / geometry.countsPerBlock)
          end = max(end, cluster + 1)
        }
      }
    }
    return try Self.place(needed, behind: end, geometry)
  }

  /// Blocks count themselves and the table, so the number of both is found by trying.
  private static func place(_ needed: Set<UInt64>, behind end: UInt64, _ geometry: RefcountGeometry)
    throws(ImageError) -> RebuildPlan
  {
    let cluster = geometry.clusterByteCount
    var blocks = needed
    var tableClusters: UInt64 = 1
    while true {
      let last = end + UInt64(blocks.count) + tableClusters - 1
      let before = (blocks.count, tableClusters)
      for index in end / geometry.countsPerBlock...last / geometry.countsPerBlock { blocks.insert(index) }
      tableClusters = (((blocks.max() ?? 0) + 1) * 8).dividedRoundingUp(by: cluster)
      guard tableClusters * cluster <= Header.maximumRefcountTableByteCount else {
        throw .unsupported(
          "the file is too large for a refcount table of \(Header.maximumRefcountTableByteCount) bytes")
      }
      if before == (blocks.count, tableClusters) { break }
    }
    var table = [UInt64](repeating: 0, count: Int(tableClusters * cluster / 8))
    for (number, index) in blocks.sorted().enumerated() { table[Int(index)] = (end + UInt64(number)) * cluster }
    let tableStart = end + UInt64(blocks.count)
    return RebuildPlan(
      geometry: geometry, table: table, reserved: end..<tableStart + tableClusters, tableOffset: tableStart * cluster,
      tableClusterCount: tableClusters)
  }
}
