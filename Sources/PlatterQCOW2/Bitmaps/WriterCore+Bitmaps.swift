import PlatterCore

// Bitmaps while an image is written. Before the first change every bitmap is marked "in use" on disk: from then on its
// bits may be anything there, since nobody trusts them. Closing writes
//
//   bits, tables, a new directory -- barrier -- header: extension and autoclear bit -- barrier -- old places given up

extension WriterCore {
  /// Pages of new bits that are held in memory; beyond that they go to their clusters.
  private static let maximumPageCount = 4096

  // MARK: Opening

  /// Reads the tables, and marks all bitmaps on disk.
  mutating func openBitmaps(_ barrier: Barrier) throws(ImageError) {
    guard let place = try bitmapsPlace() else { return }
    let records = bitmaps
    var opened: [LiveBitmap] = []
    for record in records {
      var bitmap = LiveBitmap(record: record, isUsable: !record.flags.contains(.inUse))
      if bitmap.isUsable { bitmap.table = try loadTable(of: bitmap) }
      opened.append(bitmap)
    }
    liveBitmaps = opened
    overlaps.add(.bitmapDirectory, at: place.directoryOffset, byteCount: place.directoryByteCount)
    let marked = directory { _ in true }
    // Padding may differ, the length may not: this is written over what is there.
    guard UInt64(marked.count) == place.directoryByteCount else {
      throw .corrupt("the bitmap directory has \(place.directoryByteCount) bytes instead of \(marked.count)")
    }
    try store.write(marked.rawBytes, at: place.directoryOffset)
    try barrier()
  }

  private func bitmapsPlace() throws(ImageError) -> BitmapsExtension? {
    guard !bitmaps.isEmpty, let bytes = extensions.bytes(of: HeaderExtensions.Kind.bitmaps) else { return nil }
    return try BitmapsExtension(parsing: bytes, header)
  }

  private func loadTable(of bitmap: LiveBitmap) throws(ImageError) -> [UInt64] {
    let name = "bitmap \"\(bitmap.record.printableName)\""
    let wanted = try bitmap.tableEntryCount(header.virtualByteCount, clusterByteCount)
    guard Int(bitmap.record.tableEntryCount) == wanted else {
      throw .corrupt(
        "\(name): the table has \(bitmap.record.tableEntryCount) entries, but the disk needs \(wanted)")
    }
    let words = try readTable(bitmap.record, name)
    for (index, word) in words.enumerated() where word != 0 && word != LiveBitmap.allOnes {
      guard word & ~L1Entry.offsetMask == 0, word % clusterByteCount == 0, word + clusterByteCount <= fileByteCount
      else {
        throw .corrupt("\(name), table entry \(index): \(word.hex) is no cluster of this file")
      }
    }
    return words
  }

  private func readTable(_ record: BitmapRecord, _ name: String) throws(ImageError) -> [UInt64] {
    Words.decode(
      try store.readFully("the table of \(name)", at: record.tableOffset, count: Int(record.tableEntryCount) * 8))
  }

  private func directory(isInUse: (LiveBitmap) -> Bool) -> [UInt8] {
    var bytes: [UInt8] = []
    for bitmap in liveBitmaps {
      var record = bitmap.record
      if isInUse(bitmap) { record.flags.insert(.inUse) } else { record.flags.remove(.inUse) }
      bytes += record.encoded
    }
    return bytes
  }

  // MARK: Recording

  /// Notes that guest bytes may have changed.
  mutating func record(_ range: Range<UInt64>) throws(ImageError) {
    guard !liveBitmaps.isEmpty else { return }
    let range = min(range.lowerBound, header.virtualByteCount)..<min(range.upperBound, header.virtualByteCount)
    for index in liveBitmaps.indices where liveBitmaps[index].isRecording { try mark(range, index) }
  }

  private mutating func mark(_ range: Range<UInt64>, _ index: Int) throws(ImageError) {
    bitmapGarbage += liveBitmaps[index].mark(range, clusterByteCount)
    haveBitmapsChanged = true
    if liveBitmaps[index].pages.count > Self.maximumPageCount { try writePages(index) }
  }

  // MARK: Storing

  /// Makes the bitmaps on disk what they are in memory, and takes the mark "in use" away.
  mutating func closeBitmaps(_ barrier: Barrier) throws(ImageError) {
    guard haveBitmapsChanged || !liveBitmaps.isEmpty else { return }
    let old = try bitmapsPlace()
    for index in liveBitmaps.indices where liveBitmaps[index].isUsable {
      try writePages(index)
      try writeTable(index)
    }
    let bytes = directory { !$0.isUsable }
    if !haveBitmapsChanged, let old, UInt64(bytes.count) == old.directoryByteCount {
      try barrier()
      return try store.write(bytes.rawBytes, at: old.directoryOffset)
    }
    guard UInt64(bytes.count) <= BitmapsExtension.maximumDirectoryByteCount else {
      throw .unsupported(
        "the bitmap directory would be larger than \(BitmapsExtension.maximumDirectoryByteCount) bytes")
    }
    var (new, field) = (header, [UInt8]())
    overlaps.remove(.bitmapDirectory)
    new.autoclearFeatures.remove(.bitmaps)
    if !liveBitmaps.isEmpty {
      let row = try allocateRow(UInt64(bytes.count).dividedRoundingUp(by: clusterByteCount))
      let offset = row.lowerBound * clusterByteCount
      try writePadded(bytes, in: row)
      overlaps.add(.bitmapDirectory, at: offset, byteCount: UInt64(bytes.count))
      field = withBigEndianBytes(UInt32(liveBitmaps.count)) + [0, 0, 0, 0]
      field += Words.encode([UInt64(bytes.count), offset])
      new.autoclearFeatures.insert(.bitmaps)
    }
    try publish(barrier)
    // Publishing may have moved the refcount table.
    new.refcountTableOffset = header.refcountTableOffset
    new.refcountTableClusterCount = header.refcountTableClusterCount
    new.virtualByteCount = header.virtualByteCount
    try rewriteHeader(new, extensions.replacing(HeaderExtensions.Kind.bitmaps, with: field), barrier)
    if let old { dropClusters(at: old.directoryOffset, byteCount: old.directoryByteCount) }
    for cluster in bitmapGarbage { refcounts.drop(cluster) }
    bitmapGarbage = []
    haveBitmapsChanged = false
    bitmaps = liveBitmaps.map(\.record)
    try publish(barrier)
  }

  /// Adds the bits in memory to the clusters of a bitmap, which nobody trusts until it is closed.
  private mutating func writePages(_ index: Int) throws(ImageError) {
    let size = liveBitmaps[index].pageByteCount(clusterByteCount)
    let perEntry = clusterByteCount / size
    var entries: [UInt64: [UInt64]] = [:]
    for page in liveBitmaps[index].pages.keys { entries[page / perEntry, default: []].append(page) }
    for entry in entries.keys.sorted() {
      let bytes = try bits(ofEntry: Int(entry), index)
      try writeBits(bytes, entry: Int(entry), index)
      for page in entries[entry] ?? [] { liveBitmaps[index].pages[page] = nil }
    }
  }

  /// All bits that one table entry stands for.
  private func bits(ofEntry entry: Int, _ index: Int) throws(ImageError) -> [UInt8] {
    let bitmap = liveBitmaps[index]
    let word = bitmap.table[entry]
    guard word != LiveBitmap.allOnes else { return [UInt8](repeating: 0xff, count: Int(clusterByteCount)) }
    var bytes =
      word == 0
      ? [UInt8](repeating: 0, count: Int(clusterByteCount))
      : try store.readFully("a cluster of bitmap bits", at: word, count: Int(clusterByteCount))
    let size = Int(bitmap.pageByteCount(clusterByteCount))
    for page in 0..<bytes.count / size {
      guard let new = bitmap.pages[UInt64(entry * (bytes.count / size) + page)] else { continue }
      for offset in 0..<size { bytes[page * size + offset] |= new[offset] }
    }
    return bytes
  }

  private mutating func writeBits(_ bytes: [UInt8], entry: Int, _ index: Int) throws(ImageError) {
    var place = liveBitmaps[index].table[entry]
    let owners = place > 1 ? try refcounts.count(of: place / clusterByteCount, store) : 0
    if owners != 1 {
      if place > 1 { bitmapGarbage.append(place / clusterByteCount) }
      place = try allocateRow(1).lowerBound * clusterByteCount
      liveBitmaps[index].table[entry] = place
      liveBitmaps[index].isTableChanged = true
    }
    haveBitmapsChanged = true
    try checkOverlap(place..<place + clusterByteCount, "a cluster of bitmap bits")
    try store.write(bytes.rawBytes, at: place)
  }

  /// Writes a changed table to a new place.
  private mutating func writeTable(_ index: Int) throws(ImageError) {
    guard liveBitmaps[index].isTableChanged else { return }
    let words = liveBitmaps[index].table
    noteGarbage(at: liveBitmaps[index].record.tableOffset, entryCount: liveBitmaps[index].record.tableEntryCount)
    liveBitmaps[index].record.tableEntryCount = UInt32(words.count)
    liveBitmaps[index].record.tableOffset = 0
    if !words.isEmpty {
      let row = try allocateRow((UInt64(words.count) * 8).dividedRoundingUp(by: clusterByteCount))
      try writeWords(words, in: row)
      liveBitmaps[index].record.tableOffset = row.lowerBound * clusterByteCount
    }
    liveBitmaps[index].isTableChanged = false
    haveBitmapsChanged = true
  }

  private mutating func noteGarbage(at offset: UInt64, entryCount: UInt32) {
    guard offset != 0, entryCount > 0 else { return }
    let last = (offset + UInt64(entryCount) * 8 - 1) / clusterByteCount
    bitmapGarbage += Array(offset / clusterByteCount...last)
  }

  // MARK: Size

  /// Whether all bitmaps can be made to fit another disk size.
  func checkBitmapResize(to byteCount: UInt64) throws(ImageError) {
    if let bad = liveBitmaps.first(where: { !$0.isUsable }) {
      throw .unsupported(
        "bitmap \"\(bad.record.printableName)\" was not saved: it must be removed before the disk can be resized")
    }
    for bitmap in liveBitmaps { _ = try bitmap.tableEntryCount(byteCount, clusterByteCount) }
  }

  /// Makes the bitmaps fit another disk size; new bytes are not dirty.
  mutating func resizeBitmaps(to byteCount: UInt64) throws(ImageError) {
    for index in liveBitmaps.indices {
      try writePages(index)
      let old = liveBitmaps[index].table
      let count = try liveBitmaps[index].tableEntryCount(byteCount, clusterByteCount)
      if count < old.count {
        for word in old[count...] where word > LiveBitmap.allOnes { bitmapGarbage.append(word / clusterByteCount) }
        liveBitmaps[index].table.removeLast(old.count - count)
      } else {
        liveBitmaps[index].table.append(contentsOf: repeatElement(0, count: count - old.count))
      }
      liveBitmaps[index].isTableChanged = true
      let bits = liveBitmaps[index].bitCount(min(byteCount, header.virtualByteCount))
      try clearBits(from: bits, index)
      haveBitmapsChanged = true
    }
  }

  /// Clears the rest of the cluster of bits that the disk's last bit lies in.
  private mutating func clearBits(from bit: UInt64, _ index: Int) throws(ImageError) {
    let entry = Int(bit / (clusterByteCount * 8))
    guard entry < liveBitmaps[index].table.count, liveBitmaps[index].table[entry] != 0 else { return }
    var bytes = try bits(ofEntry: entry, index)
    let first = Int(bit % (clusterByteCount * 8))
    if first % 8 != 0 { bytes[first / 8] &= (1 << UInt8(first % 8)) - 1 }
    for offset in (first + 7) / 8..<bytes.count { bytes[offset] = 0 }
    try writeBits(bytes, entry: entry, index)
  }

  // MARK: Requests

  mutating func addBitmap(named name: String, granularity: UInt64?, isEnabled: Bool) throws(ImageError) {
    let bytes = Array(name.utf8)
    guard header.version >= 3 else { throw .unsupported("a version 2 image cannot have bitmaps") }
    guard (1...Int(BitmapRecord.maximumNameByteCount)).contains(bytes.count), !bytes.contains(0) else {
      throw .invalidArgument("a bitmap's name has 1 to \(BitmapRecord.maximumNameByteCount) bytes and no NUL")
    }
    guard !liveBitmaps.contains(where: { $0.record.name == bytes }) else {
      throw .invalidArgument("there is a bitmap \"\(name)\" already")
    }
    guard liveBitmaps.count < Int(BitmapsExtension.maximumCount) else {
      throw .unsupported("the image has \(liveBitmaps.count) bitmaps already, the most that it can have")
    }
    let granularity = granularity ?? min(max(clusterByteCount, 4096), 65536)
    guard granularity.nonzeroBitCount == 1,
      BitmapRecord.granularityBits.contains(UInt8(granularity.trailingZeroBitCount))
    else { throw .invalidArgument("a bitmap's granularity is a power of two between 512 and 2147483648") }
    var bitmap = LiveBitmap(
      record: BitmapRecord(
        name: bytes, granularityBits: UInt8(granularity.trailingZeroBitCount), flags: isEnabled ? .auto : []),
      isUsable: true)
    bitmap.table = [UInt64](
      repeating: 0, count: try bitmap.tableEntryCount(header.virtualByteCount, clusterByteCount))
    bitmap.isTableChanged = true
    liveBitmaps.append(bitmap)
    haveBitmapsChanged = true
  }

  mutating func removeBitmap(named name: String) throws(ImageError) {
    let index = try bitmapIndex(name, mustBeUsable: false)
    let bitmap = liveBitmaps[index]
    var words = bitmap.table
    var isTableReadable = true
    if !bitmap.isUsable {
      // What cannot be read is left behind as unused space.
      do throws(ImageError) { words = try readTable(bitmap.record, "a bitmap") } catch { isTableReadable = false }
    }
    if isTableReadable { noteGarbage(at: bitmap.record.tableOffset, entryCount: bitmap.record.tableEntryCount) }
    for word in words where word > LiveBitmap.allOnes && word < fileByteCount {
      bitmapGarbage.append((word & L1Entry.offsetMask) / clusterByteCount)
    }
    liveBitmaps.remove(at: index)
    haveBitmapsChanged = true
  }

  mutating func clearBitmap(named name: String) throws(ImageError) {
    let index = try bitmapIndex(name)
    for word in liveBitmaps[index].table where word > LiveBitmap.allOnes {
      bitmapGarbage.append(word / clusterByteCount)
    }
    liveBitmaps[index].table = [UInt64](repeating: 0, count: liveBitmaps[index].table.count)
    liveBitmaps[index].pages = [:]
    liveBitmaps[index].isTableChanged = true
    haveBitmapsChanged = true
  }

  mutating func setBitmap(named name: String, isEnabled: Bool) throws(ImageError) {
    let index = try bitmapIndex(name)
    if isEnabled {
      liveBitmaps[index].record.flags.insert(.auto)
    } else {
      liveBitmaps[index].record.flags.remove(.auto)
    }
    haveBitmapsChanged = true
  }

  mutating func markDirty(_ ranges: [Range<UInt64>], inBitmapNamed name: String) throws(ImageError) {
    let index = try bitmapIndex(name)
    for range in ranges {
      try mark(
        min(range.lowerBound, header.virtualByteCount)..<min(range.upperBound, header.virtualByteCount), index)
    }
  }

  mutating func mergeBitmap(named source: String, into target: String) throws(ImageError) {
    let (from, to) = (try bitmapIndex(source), try bitmapIndex(target))
    guard from != to else { return }
    for entry in liveBitmaps[from].table.indices {
      for range in try dirtyRanges(ofEntry: entry, from) { try mark(range, to) }
    }
  }

  func bitmapIndex(_ name: String, mustBeUsable: Bool = true) throws(ImageError) -> Int {
    let wanted = Array(name.utf8)
    guard let index = liveBitmaps.firstIndex(where: { $0.record.name == wanted }) else {
      throw ImageError(.notFound, "there is no bitmap \"\(name)\"")
    }
    guard liveBitmaps[index].isUsable || !mustBeUsable else {
      throw .unsupported("bitmap \"\(name)\" was not saved when the image was used last: it can only be removed")
    }
    return index
  }

  /// Guest ranges whose bits are set among those of one table entry.
  func dirtyRanges(ofEntry entry: Int, _ index: Int) throws(ImageError) -> [Range<UInt64>] {
    let bitmap = liveBitmaps[index]
    let size = bitmap.pageByteCount(clusterByteCount)
    let pages = UInt64(entry) * (clusterByteCount / size)..<UInt64(entry + 1) * (clusterByteCount / size)
    if bitmap.table[entry] == 0, !pages.contains(where: { bitmap.pages[$0] != nil }) { return [] }
    let first = UInt64(entry) * clusterByteCount * 8
    let bytes = try bits(ofEntry: entry, index)
    let end = min(bitmap.bitCount(header.virtualByteCount), first + clusterByteCount * 8)
    var ranges: [Range<UInt64>] = []
    var bit = first
    while bit < end {
      let byte = bytes[Int((bit - first) / 8)]
      if byte == 0 {
        bit = (bit / 8 + 1) * 8
      } else if byte >> UInt8(bit % 8) & 1 == 0 {
        bit += 1
      } else {
        let start = bit
        while bit < end, bytes[Int((bit - first) / 8)] >> UInt8(bit % 8) & 1 == 1 { bit += 1 }
        ranges.append(start * bitmap.granularity..<min(bit * bitmap.granularity, header.virtualByteCount))
      }
    }
    return ranges
  }
}
