import PlatterCore

extension LiveBitmap {
  /// Where bits lie: the file, and how it is cut.
  struct Place {
    var store: any ByteStore
    var clusterByteCount: UInt64
    var diskByteCount: UInt64
  }

  /// Reads a bitmap's table, where it can be trusted.
  /// - Throws: `.corrupt` where it does not fit the disk or names no clusters of this file.
  init(loading record: BitmapRecord, _ place: Place, fileByteCount: UInt64) throws(ImageError) {
    self.init(record)
    guard isUsable else { return }
    let name = "bitmap \"\(record.printableName)\""
    let wanted = try tableEntryCount(place.diskByteCount, place.clusterByteCount)
    guard Int(record.tableEntryCount) == wanted else {
      throw .corrupt("\(name): the table has \(record.tableEntryCount) entries, but the disk needs \(wanted)")
    }
    table = try record.readTable(place.store)
    for (index, word) in table.enumerated() where word != 0 && word != Self.allOnes {
      guard word & ~L1Entry.offsetMask == 0, word % place.clusterByteCount == 0,
        word <= fileByteCount.subtracting(place.clusterByteCount) ?? 0
      else {
        throw .corrupt("\(name), table entry \(index): \(word.hex) is no cluster of this file")
      }
    }
  }

  /// All bits that one table entry stands for, those in memory included.
  func bits(ofEntry entry: Int, _ place: Place) throws(ImageError) -> [UInt8] {
    let word = table[entry]
    let count = Int(place.clusterByteCount)
    guard word != Self.allOnes else { return [UInt8](repeating: 0xff, count: count) }
    var bytes =
      word == 0
      ? [UInt8](repeating: 0, count: count)
      : try place.store.readFully("a cluster of bitmap bits", at: word, count: count)
    let size = Int(pageByteCount(place.clusterByteCount))
    for page in 0..<count / size {
      guard let new = pages[UInt64(entry * (count / size) + page)] else { continue }
      for offset in 0..<size { bytes[page * size + offset] |= new[offset] }
    }
    return bytes
  }

  /// Guest ranges whose bits are set among those of one table entry.
  func dirtyRanges(ofEntry entry: Int, _ place: Place) throws(ImageError) -> [Range<UInt64>] {
    let perEntry = place.clusterByteCount / pageByteCount(place.clusterByteCount)
    let inMemory = UInt64(entry) * perEntry..<UInt64(entry + 1) * perEntry
    if table[entry] == 0, !inMemory.contains(where: { pages[$0] != nil }) { return [] }
    let first = UInt64(entry) * place.clusterByteCount * 8
    let end = min(bitCount(place.diskByteCount), first + place.clusterByteCount * 8)
    if table[entry] == Self.allOnes { return [first * granularity..<min(end * granularity, place.diskByteCount)] }
    let bytes = try bits(ofEntry: entry, place)
    func isSet(_ bit: UInt64) -> Bool { bytes[Int((bit - first) / 8)] >> UInt8(bit % 8) & 1 == 1 }
    var ranges: [Range<UInt64>] = []
    var bit = first
    while bit < end {
      if bytes[Int((bit - first) / 8)] == 0 {
        bit = (bit / 8 + 1) * 8
      } else if !isSet(bit) {
        bit += 1
      } else {
        let start = bit
        while bit < end, isSet(bit) { bit += bit % 8 == 0 && bytes[Int((bit - first) / 8)] == 0xff ? 8 : 1 }
        bit = min(bit, end)
        ranges.append(start * granularity..<min(bit * granularity, place.diskByteCount))
      }
    }
    return ranges
  }
}

extension LiveBitmap {
  var summary: BitmapFacts { record.summary(isTrusted: isUsable) }
}

extension BitmapRecord {
  /// Its content may be used: it was saved, and nothing belongs to it that nobody here knows.
  var isTrusted: Bool { !flags.contains(.inUse) && (extra.isEmpty || flags.contains(.extraDataCompatible)) }

  /// What all readers are told of it.
  var summary: BitmapFacts { summary(isTrusted: isTrusted) }

  func summary(isTrusted: Bool) -> BitmapFacts {
    BitmapFacts(
      name: String(decoding: name, as: UTF8.self), granularity: granularity, isEnabled: flags.contains(.auto),
      isInconsistent: !isTrusted)
  }

  func readTable(_ store: any ByteStore) throws(ImageError) -> [UInt64] {
    Words.decode(
      try store.readFully(
        "the table of bitmap \"\(printableName)\"", at: tableOffset, count: Int(tableEntryCount) * 8))
  }
}
