package import PlatterCore

extension QCOW2 {
  package static func measuringUnit(_ request: CreationRequest) throws(ImageError) -> UInt64 {
    try NewImage(request, isMade: false).clusterByteCount
  }

  /// Bytes that bitmaps take in an image of these options; nil where such an image has no place for them.
  ///
  /// Per bitmap all its bits and its table, and the directory, in whole clusters; as qemu-img counts, which includes
  /// bitmaps that cannot be copied (observed: 7.2).
  package static func measureBitmaps(_ request: CreationRequest, of source: any BitmapSource) throws(ImageError)
    -> UInt64?
  {
    let image = try NewImage(request, isMade: false)
    guard image.version >= 3, source.canHaveBitmaps else { return nil }
    let cluster = image.clusterByteCount
    var sum: UInt64 = 0
    var directory: UInt64 = 0
    for bitmap in source.bitmaps {
      let bits = source.bitmapDiskByteCount.dividedRoundingUp(by: bitmap.granularity)
      let clusters = bits.dividedRoundingUp(by: 8).dividedRoundingUp(by: cluster)
      let whole = (clusters + (clusters * 8).dividedRoundingUp(by: cluster)) * cluster
      guard let more = sum.adding(whole), more <= 1 << 62 else {
        throw .invalidArgument(
          "the bitmaps of a disk of \(source.bitmapDiskByteCount) bytes are too large to be measured")
      }
      sum = more
      directory += BitmapRecord(name: Array(bitmap.name.utf8), granularityBits: 0, flags: []).encodedByteCount
    }
    return sum + directory.dividedRoundingUp(by: cluster) * cluster
  }

  /// As qemu-img counts: every L2 table that the disk can need, and refcounts for all of it.
  package static func measure(_ request: CreationRequest, dataByteCount: UInt64) throws(ImageError)
    -> ImageMeasurement
  {
    let image = try NewImage(request, isMade: false)
    let header = ImageMaker.header(image)
    // Checks that there can be such an image at all.
    guard (try? NewLayout(image, header)) != nil else {
      throw .invalidArgument("The image size is too large (try using a larger cluster size)")
    }
    let cluster = image.clusterByteCount
    let geometry = Geometry(header)
    guard let size = image.byteCount.roundedUp(toMultipleOf: cluster), size <= 1 << 62 else {
      throw .invalidArgument("a disk of \(image.byteCount) bytes is too large to be measured")
    }
    let entries = (size / cluster).dividedRoundingUp(by: geometry.l2EntryCount) * geometry.l2EntryCount
    let tables = entries / geometry.l2EntryCount
    let l1Entries = tables.dividedRoundingUp(by: cluster / 8) * (cluster / 8)
    let tableClusters = 1 + tables + l1Entries * 8 / cluster
    let counts = NewLayout.refcounts(
      tableClusters + size / cluster, cluster, countsPerBlock: RefcountGeometry(header).countsPerBlock)
    let crypto = image.cryptoByteCount.dividedRoundingUp(by: cluster)
    let metadata = (tableClusters + counts.table + counts.blocks + crypto) * cluster
    let isReserved = image.preallocation == .falloc || image.preallocation == .full
    return ImageMeasurement(
      required: metadata + (isReserved ? size : min(dataByteCount, size)), fullyAllocated: metadata + size)
  }
}
