import PlatterCore

/// One slice of an L2 table with everything that its entries must be read by.
struct SliceReader {
  let words: [UInt64]
  let geometry: Geometry
  let isVersion3: Bool
  /// For errors: where the table lies and which of its entries the slice starts with.
  let tableOffset: UInt64
  let firstEntry: UInt64
  /// Guest offset that the slice's first entry stands for.
  let guestStart: UInt64
  let hasDataFile: Bool
  let store: UInt16
  let storeByteCount: UInt64
  let isSparse: Bool
  let cipher: UInt8
  let codec: PackedCodec
  /// Whether data runs say that something else refers to them too: for writers, who may not write there.
  var tellsShared = false
  /// A snapshot has the table too, and with it all that the table names.
  var isTableShared = false

  /// Appends runs from the answer's position to the end of the slice, as far as the answer has room.
  func mapStandard(_ answer: inout Answer, _ extents: inout [Extent]) throws(ImageError) {
    let cluster = geometry.clusterByteCount
    var index = Int((answer.position - guestStart) >> geometry.clusterBits)
    // Only a data file can hold a cluster at offset 0, and then says so by this bit.
    let absentMask =
      L2Entry.offsetMask | L2Entry.reservedMask | L2Entry.compressed | L2Entry.zero
      | (hasDataFile ? L2Entry.copied : 0)
    let compared = tellsShared ? UInt64.max : ~L2Entry.copied
    while index < words.count, answer.isOpen {
      let word = words[index]
      var next = index + 1
      if word & absentMask == 0 {
        while next < words.count, words[next] & absentMask == 0 { next += 1 }
        let length = length(answer, through: next)
        answer.append(.absent(start: answer.position, byteCount: length), &extents)
      } else if word & L2Entry.compressed != 0 {
        try appendPacked(word, index, &answer, &extents)
      } else {
        try checkStandard(word, index)
        let zero = word & L2Entry.zero
        let host = word & L2Entry.offsetMask
        // A zero run without space of its own goes on with the same word, every other with the next cluster.
        let stride = zero != 0 && host == 0 ? 0 : cluster
        var expected = (word & compared) &+ stride
        while next < words.count, words[next] & compared == expected {
          expected &+= stride
          next += 1
        }
        try appendStandard(
          host: host, readsZero: zero != 0, isShared: isShared(word), index..<next, &answer, &extents)
      }
      // A run may have been cut short at the end of the file.
      index = Int((answer.position - guestStart) >> geometry.clusterBits)
    }
  }

  /// A row of entries whose clusters follow each other in the host as they do in the guest.
  @inline(__always)
  private func appendStandard(
    host: UInt64, readsZero: Bool, isShared: Bool, _ entries: Range<Int>, _ answer: inout Answer,
    _ extents: inout [Extent]
  ) throws(ImageError) {
    let length = length(answer, through: entries.upperBound)
    let position = answer.position
    if readsZero {
      let extent: Extent =
        host == 0
        ? .zero(start: position, byteCount: length)
        : .zero(start: position, byteCount: length, store: store, offset: host + skip(position, entries.lowerBound))
      return answer.append(extent, &extents)
    }
    let offset = host + skip(position, entries.lowerBound)
    if offset + length <= storeByteCount {
      return answer.append(
        .data(
          start: position, byteCount: length, store: store, offset: offset, cipher: cipher,
          isSparse: isSparse && cipher == 0, isShared: isShared), &extents)
    }
    try appendCut(host: host, offset: offset, byteCount: length, entries.lowerBound, &answer, &extents)
  }

  /// A run that reaches past the end of the store. Its last cluster may be cut short inside itself: what is missing
  /// reads as zeros. A cluster that lies outside altogether is an error.
  func appendCut(
    host: UInt64, offset: UInt64, byteCount: UInt64, _ firstIndex: Int, _ answer: inout Answer,
    _ extents: inout [Extent]
  ) throws(ImageError) {
    // Encrypted bytes come in whole sectors.
    let present = cipher == 0 ? storeByteCount : storeByteCount.roundedDown(toMultipleOf: 512)
    if offset < present {
      return answer.append(
        .data(
          start: answer.position, byteCount: min(present - offset, byteCount), store: store, offset: offset,
          cipher: cipher, isSparse: isSparse && cipher == 0), &extents)
    }
    let cluster = offset.roundedDown(toMultipleOf: geometry.clusterByteCount)
    guard cluster < storeByteCount, cipher == 0 else {
      let index = firstIndex + Int((cluster - host) >> geometry.clusterBits)
      throw ImageError(
        .truncated,
        "\(describe(index)): data cluster \(cluster.hex) reaches past the end of the file (\(storeByteCount.hex))")
    }
    let inCluster = min(byteCount, cluster + geometry.clusterByteCount - offset)
    answer.append(.zero(start: answer.position, byteCount: inCluster, store: store, offset: offset), &extents)
  }

  func appendPacked(_ word: UInt64, _ index: Int, _ answer: inout Answer, _ extents: inout [Extent])
    throws(ImageError)
  {
    guard !hasDataFile else {
      throw .corrupt("\(describe(index)): a compressed cluster in an image with an external data file")
    }
    // In an encrypted image too it lies in the clear: QEMU writes and reads it so.
    let location = PackedLocation(L2Entry(rawValue: word), clusterBits: geometry.clusterBits)
    guard location.reservedBits == 0 else {
      throw .corrupt("\(describe(index)): compressed cluster \(location.offset.hex) lies past any file")
    }
    guard location.offset < storeByteCount else {
      throw .truncated(
        "\(describe(index)): compressed cluster \(location.offset.hex) lies past the end of the file "
          + "(\(storeByteCount.hex))")
    }
    let unitStart = guestStart + UInt64(index) << geometry.clusterBits
    let extent: Extent = .packed(
      start: answer.position, byteCount: length(answer, through: index + 1), codec: codec, store: store,
      offset: location.offset, packedByteCount: min(location.byteCount, storeByteCount - location.offset),
      unitStart: unitStart, unitByteCount: geometry.clusterByteCount)
    answer.append(extent, &extents)
  }

  /// Refuses reserved bits and offsets inside a cluster.
  @inline(__always)
  private func checkStandard(_ word: UInt64, _ index: Int) throws(ImageError) {
    let host = word & L2Entry.offsetMask
    if word & L2Entry.reservedMask != 0 || host & (geometry.clusterByteCount - 1) != 0
      || (word & L2Entry.zero != 0 && !isVersion3) || hasDataFile
    {
      try checkUncommon(word, index)
    }
  }

  func checkUncommon(_ word: UInt64, _ index: Int) throws(ImageError) {
    let host = word & L2Entry.offsetMask
    let reserved = L2Entry.reservedMask | (geometry.hasExtendedL2 ? L2Entry.zero : 0)
    guard word & reserved == 0 else {
      throw .corrupt("\(describe(index)): reserved bits are set (\(word.hex))")
    }
    guard isVersion3 || word & L2Entry.zero == 0 else {
      throw .corrupt("\(describe(index)): the zero flag is set (\(word.hex)), which version 2 does not have")
    }
    guard host % geometry.clusterByteCount == 0 else {
      throw .corrupt(
        "\(describe(index)): data cluster \(host.hex) is not aligned to the cluster size "
          + "(\(geometry.clusterByteCount.hex))")
    }
    let guest = guestStart + UInt64(index) << geometry.clusterBits
    let isAllocated = host != 0 || word & L2Entry.copied != 0
    guard !hasDataFile || !isAllocated || host == guest || (host == 0 && word & L2Entry.zero != 0) else {
      throw .corrupt(
        "\(describe(index)): cluster \(host.hex) of the data file is not at the guest's offset (\(guest.hex))")
    }
  }

  /// Whether a writer must leave the cluster of an entry alone.
  @inline(__always)
  func isShared(_ word: UInt64) -> Bool {
    tellsShared && !hasDataFile && (isTableShared || word & L2Entry.copied == 0)
  }

  /// Guest bytes from the answer's position to the start of an entry.
  @inline(__always)
  func length(_ answer: Answer, through index: Int) -> UInt64 {
    min(guestStart + UInt64(index) << geometry.clusterBits, answer.end) - answer.position
  }

  /// How far inside an entry's cluster the position lies.
  @inline(__always)
  private func skip(_ position: UInt64, _ index: Int) -> UInt64 {
    position - (guestStart + UInt64(index) << geometry.clusterBits)
  }

  func describe(_ index: Int) -> String {
    "L2 table at \(tableOffset.hex), entry \(firstEntry + UInt64(index))"
  }
}
