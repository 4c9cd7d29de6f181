import PlatterCore

extension WriterCore {
  /// Writes all counts anew with another width, behind everything else; one header write then names the new table and
  /// its width, and the old blocks go.
  mutating func changeRefcounts(to order: UInt32, _ request: AmendRequest, _ barrier: Barrier) throws(ImageError) {
    try checkOwnCounts()
    var new = header
    new.refcountOrder = order
    let geometry = RefcountGeometry(new)
    let start = refcounts.freshStart
    for cluster in 0..<start {
      let count = try refcounts.count(of: cluster, store)
      guard count <= geometry.maximum else {
        throw .unsupported(
          "cluster \(cluster) is referred to \(count) times, more than refcount_bits=\(1 << order) can say")
      }
    }
    let sizes = try newSizes(geometry, start)
    let end = start + sizes.tableClusters + sizes.blocks
    try claim(start..<end)
    var table = [UInt64](repeating: 0, count: Int(sizes.tableClusters * clusterByteCount / 8))
    for index in 0..<sizes.blocks {
      let cluster = start + sizes.tableClusters + index
      table[Int(index)] = cluster * clusterByteCount
      try writeBlock(index, at: cluster * clusterByteCount, geometry, old: start, end: end)
      request.progress(index + 1, sizes.blocks)
    }
    try writeWords(table, in: start..<start + sizes.tableClusters)
    try barrier()
    let oldBlocks = refcounts.blockOffsets
    let oldTable = (offset: refcounts.tableOffset, byteCount: refcounts.tableByteCount)
    new.refcountTableOffset = start * clusterByteCount
    new.refcountTableClusterCount = UInt32(sizes.tableClusters)
    try rewriteHeader(new, extensions, barrier)
    refcounts = try Refcounts(header, store, fileByteCount: end * clusterByteCount)
    overlaps.remove(.refcountTable)
    overlaps.removeClusters(.refcountBlock)
    overlaps.add(.refcountTable, at: refcounts.tableOffset, byteCount: refcounts.tableByteCount)
    for block in refcounts.blockOffsets { overlaps.add(.refcountBlock, clusterAt: block) }
    for block in oldBlocks { dropClusters(at: block, byteCount: clusterByteCount) }
    dropClusters(at: oldTable.offset, byteCount: oldTable.byteCount)
    try publish(barrier)
  }

  /// Clusters that the new structures take: they count themselves too.
  private func newSizes(_ geometry: RefcountGeometry, _ clusters: UInt64) throws(ImageError)
    -> (blocks: UInt64, tableClusters: UInt64)
  {
    var (blocks, tableClusters): (UInt64, UInt64) = (1, 1)
    while true {
      let wanted = (clusters + blocks + tableClusters).dividedRoundingUp(by: geometry.countsPerBlock)
      let wantedTable = (wanted * 8).dividedRoundingUp(by: clusterByteCount)
      guard wantedTable * clusterByteCount <= Header.maximumRefcountTableByteCount else {
        throw .unsupported(
          "the refcount table would need \(wantedTable * clusterByteCount) bytes, more than "
            + "\(Header.maximumRefcountTableByteCount)")
      }
      if wanted <= blocks, wantedTable <= tableClusters { return (blocks, tableClusters) }
      (blocks, tableClusters) = (max(wanted, blocks), max(wantedTable, tableClusters))
    }
  }

  private mutating func writeBlock(
    _ index: UInt64, at offset: UInt64, _ geometry: RefcountGeometry, old: UInt64, end: UInt64
  )
    throws(ImageError)
  {
    var bytes = [UInt8](repeating: 0, count: Int(clusterByteCount))
    let first = index * geometry.countsPerBlock
    for cluster in first..<max(first, min(first + geometry.countsPerBlock, end)) {
      let count = cluster < old ? try refcounts.count(of: cluster, store) : 1
      guard count != 0 else { continue }
      bytes.withMutableRawBytes { _ = geometry.set(Int(cluster - first), in: &$0, to: count) }
    }
    try store.write(bytes.rawBytes, at: offset)
  }
}
