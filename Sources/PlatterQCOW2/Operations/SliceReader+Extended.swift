import PlatterCore

extension SliceReader {
  /// The same for extended entries: a second word says of each 32nd of the cluster what it is.
  func mapExtended(_ answer: inout Answer, _ extents: inout [Extent]) throws(ImageError) {
    let count = words.count / 2
    var index = Int((answer.position - guestStart) >> geometry.clusterBits)
    while index < count, answer.isOpen {
      let word = words[index * 2]
      let bitmap = words[index * 2 + 1]
      if word & L2Entry.compressed != 0 {
        guard bitmap == 0 else {
          throw .corrupt("\(describe(index)): a compressed cluster with a subcluster bitmap (\(bitmap.hex))")
        }
        try appendPacked(word, index, &answer, &extents)
      } else {
        try checkUncommon(word, index)
        try appendSubclusters(word, bitmap, index, &answer, &extents)
      }
      index = Int((answer.position - guestStart) >> geometry.clusterBits)
    }
  }

  /// Appends one run of equal subclusters.
  private func appendSubclusters(
    _ word: UInt64, _ bitmap: UInt64, _ index: Int, _ answer: inout Answer, _ extents: inout [Extent]
  ) throws(ImageError) {
    let host = word & L2Entry.offsetMask
    let allocated = UInt32(truncatingIfNeeded: bitmap)
    let zeros = UInt32(truncatingIfNeeded: bitmap >> 32)
    guard allocated & zeros == 0 else {
      throw .corrupt("\(describe(index)): subclusters are both allocated and zero (bitmap \(bitmap.hex))")
    }
    // Only a data file can hold a cluster at offset 0, and then says so by the copied flag.
    let hasCluster = host != 0 || (hasDataFile && word & L2Entry.copied != 0)
    guard hasCluster || allocated == 0 else {
      throw .corrupt("\(describe(index)): subclusters are allocated (bitmap \(bitmap.hex)) without a cluster")
    }
    let clusterStart = guestStart + UInt64(index) << geometry.clusterBits
    let inCluster = answer.position - clusterStart
    let first = inCluster / geometry.subclusterByteCount
    let isData = allocated >> first & 1 == 1
    let isZero = zeros >> first & 1 == 1
    // Bits from `first` on that are of the same kind; the run ends at the first that is not.
    let same = isData ? allocated : isZero ? zeros : ~(allocated | zeros)
    let run = UInt64((~(same >> first)).trailingZeroBitCount)
    let runEnd = clusterStart + min(first + run, 32) * geometry.subclusterByteCount
    let length = min(runEnd, answer.end) - answer.position
    let position = answer.position
    let offset = host + inCluster
    if isData {
      guard offset + length <= storeByteCount else {
        return try appendCut(host: host, offset: offset, byteCount: length, index, &answer, &extents)
      }
      answer.append(
        .data(
          start: position, byteCount: length, store: store, offset: offset, cipher: cipher,
          isSparse: isSparse && cipher == 0, isShared: isShared(word)), &extents)
    } else if isZero {
      answer.append(
        hasCluster
          ? .zero(start: position, byteCount: length, store: store, offset: offset)
          : .zero(start: position, byteCount: length), &extents)
    } else {
      answer.append(
        hasCluster
          ? .absent(start: position, byteCount: length, store: store, offset: offset)
          : .absent(start: position, byteCount: length), &extents)
    }
  }
}
