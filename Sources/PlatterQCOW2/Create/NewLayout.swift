import PlatterCore

/// Where everything of a new image lies, one behind the other:
///
///     cluster 0   header
///     1           refcount table
///                 refcount blocks
///                 L1 table
///                 LUKS header with its key slots
///                 L2 tables, then data: only where space is given in advance, or the image is sent in order
///
/// Every cluster up to the end is used once, so the counts need no bookkeeping; how many blocks and table clusters they take
/// depends on the end, which depends on them: a fixed point, found by going up.
struct NewLayout {
  let clusterByteCount: UInt64
  let countsPerBlock: UInt64
  let refcountTableClusters: UInt64
  let refcountBlocks: UInt64
  let l1EntryCount: UInt64
  let l1Clusters: UInt64
  let cryptoClusters: UInt64
  let l2Tables: UInt64
  /// 0 where the guest's bytes lie in an external file, or get their place later.
  let dataClusters: UInt64

  /// - Throws: `.invalidArgument` where the tables would exceed what readers accept.
  init(_ image: NewImage, _ header: Header) throws(ImageError) {
    let isAllocated = image.preallocation != .off
    let geometry = Geometry(header)
    try self.init(
      image, header, l2Tables: isAllocated ? image.byteCount.dividedRoundingUp(by: geometry.l1EntryCoverage) : 0,
      dataClusters: isAllocated && image.dataFileName == nil
        ? image.byteCount.dividedRoundingUp(by: image.clusterByteCount) : 0)
  }

  /// With room for tables and data that are known already.
  init(_ image: NewImage, _ header: Header, l2Tables: UInt64, dataClusters: UInt64) throws(ImageError) {
    let cluster = image.clusterByteCount
    let geometry = Geometry(header)
    clusterByteCount = cluster
    countsPerBlock = RefcountGeometry(header).countsPerBlock
    l1EntryCount = image.byteCount.dividedRoundingUp(by: geometry.l1EntryCoverage)
    guard l1EntryCount <= UInt64(Header.maximumL1EntryCount) else { throw Self.tooLarge }
    l1Clusters = (l1EntryCount * 8).dividedRoundingUp(by: cluster)
    cryptoClusters = image.cryptoByteCount.dividedRoundingUp(by: cluster)
    self.l2Tables = l2Tables
    self.dataClusters = dataClusters
    // At most 2^22 tables and, of a disk below 2^63 bytes, 2^54 clusters.
    let other = 1 + l1Clusters + cryptoClusters + l2Tables + dataClusters
    (refcountTableClusters, refcountBlocks) = Self.refcounts(other, cluster, countsPerBlock: countsPerBlock)
    guard refcountTableClusters * cluster <= Header.maximumRefcountTableByteCount else { throw Self.tooLarge }
  }

  /// Clusters of table and blocks that count `other` clusters and themselves.
  static func refcounts(_ other: UInt64, _ cluster: UInt64, countsPerBlock: UInt64) -> (table: UInt64, blocks: UInt64) {
    var table: UInt64 = 1
    var blocks: UInt64 = 1
    while true {
      let needed = (other + table + blocks).dividedRoundingUp(by: countsPerBlock)
      let neededTable = needed.dividedRoundingUp(by: cluster / 8)
      if needed <= blocks, neededTable <= table { return (table, blocks) }
      blocks = max(blocks, needed)
      table = max(table, neededTable)
    }
  }

  private static var tooLarge: ImageError {
    .invalidArgument("The image size is too large for file format 'qcow2' (try using a larger cluster size)")
  }

  var refcountTableOffset: UInt64 { clusterByteCount }
  var refcountBlockOffset: UInt64 { refcountTableOffset + refcountTableClusters * clusterByteCount }
  var l1Offset: UInt64 { refcountBlockOffset + refcountBlocks * clusterByteCount }
  var cryptoOffset: UInt64 { l1Offset + l1Clusters * clusterByteCount }
  var l2Offset: UInt64 { cryptoOffset + cryptoClusters * clusterByteCount }
  var dataOffset: UInt64 { l2Offset + l2Tables * clusterByteCount }
  var end: UInt64 { dataOffset + dataClusters * clusterByteCount }
  var clusterCount: UInt64 { end / clusterByteCount }
}
