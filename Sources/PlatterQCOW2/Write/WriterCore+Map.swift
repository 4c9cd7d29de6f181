import PlatterCore

extension WriterCore {
  /// The present map, unpublished changes included; tells runs that a snapshot shares from those that are the image's own.
  /// - Parameter end: where the map ends; nil for the disk's end.
  mutating func map(
    _ range: Range<UInt64>, limit: Int, _ volume: Volume, end: UInt64? = nil, into extents: inout [Extent]
  ) throws(ImageError) -> UInt64 {
    guard let dataStore = volume.dataStore else {
      throw ImageError(.notFound, "the external data file is not open", file: store.name)
    }
    let dataByteCount = dataStore == 0 ? fileByteCount : try volume.stores[Int(dataStore)].byteCount()
    var answer = Answer(
      position: range.lowerBound, end: min(range.upperBound, end ?? header.virtualByteCount), room: limit)
    let present = extents.count
    while answer.isOpen {
      let position = answer.position
      let index = l1Index(of: position)
      let table = index < l1.count ? L1Entry(rawValue: l1[index]) : L1Entry(rawValue: 0)
      let coverageEnd = (UInt64(index) + 1) * geometry.l1EntryCoverage
      guard table.tableOffset != 0 else {
        answer.append(.absent(start: position, byteCount: min(coverageEnd, answer.end) - position), &extents)
        continue
      }
      let (words, place) = try piece(of: position, inTableAt: table.tableOffset)
      let inTable = position % geometry.l1EntryCoverage
      let reader = SliceReader(
        words: words, geometry: geometry, isVersion3: header.version >= 3, tableOffset: table.tableOffset,
        firstEntry: (place.piece - table.tableOffset) / UInt64(8 * geometry.l2EntryWordCount),
        guestStart: position - inTable % geometry.sliceCoverage, hasDataFile: hasDataFile, store: dataStore,
        storeByteCount: dataByteCount, isSparse: false, cipher: volume.encryption.ciphers.isEmpty ? 0 : 1,
        codec: header.compression == .zstd ? .zstd : .deflate,
        // Clusters under a shared table are shared with it, whatever their own bit says.
        tellsShared: true, isTableShared: table.rawValue & L1Entry.copied == 0)
      if geometry.hasExtendedL2 {
        try reader.mapExtended(&answer, &extents)
      } else {
        try reader.mapStandard(&answer, &extents)
      }
    }
    try clipPacked(&extents, from: present)
    return answer.position
  }

  /// The file may end inside its last cluster, and inside the last sector of a packed unit.
  private func clipPacked(_ extents: inout [Extent], from first: Int) throws(ImageError) {
    for index in first..<extents.count where extents[index].kind == .packed {
      let (offset, count) = (extents[index].offset, extents[index].packedByteCount)
      guard offset + count + clusterByteCount > fileByteCount else { continue }
      let end = try store.byteCount()
      guard offset < end else {
        throw .truncated("compressed cluster \(offset.hex) lies past the end of the file (\(end.hex))")
      }
      extents[index].packedByteCount = min(count, end - offset)
    }
  }
}
