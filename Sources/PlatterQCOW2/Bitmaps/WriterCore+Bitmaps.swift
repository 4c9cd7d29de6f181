import PlatterCore

// Bitmaps while an image is written. Before the first change every bitmap is marked "in use" on disk: from then on its
// bits may be anything there, since nobody trusts them. Closing writes
//
//   bits, tables, a new directory; autoclear bit off -- barrier -- the header extension that names it, in its own steps
//   -- barrier -- autoclear bit on; old places given up

extension WriterCore {
  /// Pages of new bits that all bitmaps together hold in memory; beyond that they go to their clusters.
  private static let maximumPageCount = 4096
  /// Words of all tables together, which are held in memory.
  private static let maximumTableWordCount = 8 << 20  // ours: 64 MiB

  // MARK: Opening

  /// Reads the tables, and marks all bitmaps on disk.
  mutating func openBitmaps(_ barrier: Barrier) throws(ImageError) {
    guard let place = try bitmapsPlace() else { return }
    var opened: [LiveBitmap] = []
    for record in bitmaps {
      opened.append(try LiveBitmap(loading: record, bitmapPlace, fileByteCount: fileByteCount))
      try Self.checkTables(of: opened)
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

  private static func checkTables(of bitmaps: [LiveBitmap]) throws(ImageError) {
    guard bitmaps.reduce(0, { $0 + $1.table.count }) <= maximumTableWordCount else {
      throw .unsupported("the tables of the bitmaps have more than \(maximumTableWordCount) entries together")
    }
  }

  /// Where bits lie at present.
  var bitmapPlace: LiveBitmap.Place {
    LiveBitmap.Place(store: store, clusterByteCount: clusterByteCount, diskByteCount: header.virtualByteCount)
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

  /// Notes that guest bytes may have changed, in memory alone: a publish may be under way.
  /// - Returns: whether bits take so much memory that `storeBits` must follow.
  mutating func record(_ range: Range<UInt64>) -> Bool {
    for index in liveBitmaps.indices where liveBitmaps[index].isRecording { mark(range, index) }
    return liveBitmaps.indices.contains(where: hasManyPages)
  }

  /// Puts bits to their clusters where they take much memory.
  mutating func storeBits() throws(ImageError) {
    for index in liveBitmaps.indices where hasManyPages(index) { try writePages(index) }
  }

  private mutating func mark(_ range: Range<UInt64>, _ index: Int) {
    let end = header.virtualByteCount
    bitmapGarbage += liveBitmaps[index].mark(
      min(range.lowerBound, end)..<min(range.upperBound, end), clusterByteCount)
    haveBitmapsChanged = true
  }

  private func hasManyPages(_ index: Int) -> Bool {
    liveBitmaps[index].pages.count > Self.maximumPageCount / liveBitmaps.count
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
    overlaps.remove(.bitmapDirectory)
    let item = liveBitmaps.isEmpty ? [] : try writeDirectory(bytes)
    try publish(barrier)
    // While the bit is clear nobody looks at what the extension says.
    try setBitmapsBit(false)
    try switchBitmapsItem(to: item, barrier)
    if !liveBitmaps.isEmpty { try setBitmapsBit(true) }
    if let old { dropClusters(at: old.directoryOffset, byteCount: old.directoryByteCount) }
    for cluster in bitmapGarbage { refcounts.drop(cluster) }
    bitmapGarbage = []
    haveBitmapsChanged = false
    bitmaps = liveBitmaps.map(\.record)
    try publish(barrier)
  }

  /// Writes the directory to a new place.
  /// - Returns: the header extension that names it.
  private mutating func writeDirectory(_ bytes: [UInt8]) throws(ImageError) -> [UInt8] {
    let row = try allocateRow(UInt64(bytes.count).dividedRoundingUp(by: clusterByteCount))
    let offset = row.lowerBound * clusterByteCount
    try writePadded(bytes, in: row)
    overlaps.add(.bitmapDirectory, at: offset, byteCount: UInt64(bytes.count))
    return withBigEndianBytes(UInt32(liveBitmaps.count)) + [0, 0, 0, 0] + Words.encode([UInt64(bytes.count), offset])
  }

  /// Says on disk whether the bitmaps may be looked at. The caller has a barrier where one is needed.
  private mutating func setBitmapsBit(_ isSet: Bool) throws(ImageError) {
    guard header.autoclearFeatures.contains(.bitmaps) != isSet else { return }
    if isSet { header.autoclearFeatures.insert(.bitmaps) } else { header.autoclearFeatures.remove(.bitmaps) }
    try store.write(Words.encode([header.autoclearFeatures.rawValue]).rawBytes, at: 88)
  }

  /// Adds the bits in memory to the clusters of a bitmap, which nobody trusts until it is closed.
  private mutating func writePages(_ index: Int) throws(ImageError) {
    let size = liveBitmaps[index].pageByteCount(clusterByteCount)
    let perEntry = clusterByteCount / size
    var entries: [UInt64: [UInt64]] = [:]
    for page in liveBitmaps[index].pages.keys { entries[page / perEntry, default: []].append(page) }
    for entry in entries.keys.sorted() {
      let bytes = try liveBitmaps[index].bits(ofEntry: Int(entry), bitmapPlace)
      try writeBits(bytes, entry: Int(entry), index, inPlace: true)
      for page in entries[entry] ?? [] { liveBitmaps[index].pages[page] = nil }
    }
  }

  /// Writes all bits that one table entry stands for. After an error the entry is what it was.
  /// - Parameter inPlace: what is there has no bit that `bytes` lacks, so it may be overwritten where nobody shares it.
  private mutating func writeBits(_ bytes: [UInt8], entry: Int, _ index: Int, inPlace: Bool) throws(ImageError) {
    let old = liveBitmaps[index].table[entry]
    haveBitmapsChanged = true
    if inPlace, old > LiveBitmap.allOnes, try refcounts.count(of: old / clusterByteCount, store) == 1 {
      try checkOverlap(old..<old + clusterByteCount, "a cluster of bitmap bits")
      return try store.write(bytes.rawBytes, at: old)
    }
    let new = try allocateRow(1).lowerBound
    do throws(ImageError) {
      try store.write(bytes.rawBytes, at: new * clusterByteCount)
    } catch {
      refcounts.drop(new)
      throw error
    }
    if old > LiveBitmap.allOnes { bitmapGarbage.append(old / clusterByteCount) }
    liveBitmaps[index].table[entry] = new * clusterByteCount
    liveBitmaps[index].isTableChanged = true
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
      throw .inconsistentBitmap(bad.record.printableName)
    }
    guard byteCount > 0 || liveBitmaps.isEmpty else {
      throw .unsupported("a disk of 0 bytes has no bitmaps: they must be removed first")
    }
    for bitmap in liveBitmaps { _ = try bitmap.tableEntryCount(byteCount, clusterByteCount) }
  }

  /// Makes the bitmaps fit another disk size; new bytes are not dirty. After an error they are what they were.
  mutating func resizeBitmaps(to byteCount: UInt64) throws(ImageError) {
    let before = (liveBitmaps, bitmapGarbage)
    do throws(ImageError) {
      for index in liveBitmaps.indices { try resizeBitmap(index, to: byteCount) }
    } catch {
      (liveBitmaps, bitmapGarbage) = before
      throw error
    }
  }

  private mutating func resizeBitmap(_ index: Int, to byteCount: UInt64) throws(ImageError) {
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
    haveBitmapsChanged = true
    try clearBits(from: liveBitmaps[index].bitCount(min(byteCount, header.virtualByteCount)), index)
  }

  /// Clears the rest of the cluster of bits that the disk's last bit lies in.
  private mutating func clearBits(from bit: UInt64, _ index: Int) throws(ImageError) {
    let entry = Int(bit / (clusterByteCount * 8))
    guard entry < liveBitmaps[index].table.count, liveBitmaps[index].table[entry] != 0 else { return }
    var bytes = try liveBitmaps[index].bits(ofEntry: entry, bitmapPlace)
    let first = Int(bit % (clusterByteCount * 8))
    if first % 8 != 0 { bytes[first / 8] &= (1 << UInt8(first % 8)) - 1 }
    for offset in (first + 7) / 8..<bytes.count { bytes[offset] = 0 }
    try writeBits(bytes, entry: entry, index, inPlace: false)
  }

  // MARK: Requests

  /// Errors have QEMU's words: scripts know them.
  mutating func addBitmap(named name: String, granularity: UInt64?, isEnabled: Bool) throws(ImageError) {
    let bytes = Array(name.utf8)
    guard !bytes.isEmpty, !bytes.contains(0) else { throw .invalidArgument("Bitmap name cannot be empty") }
    let granularity = granularity ?? min(max(clusterByteCount, 4096), 65536)
    guard granularity.nonzeroBitCount == 1,
      BitmapRecord.granularityBits.contains(UInt8(granularity.trailingZeroBitCount))
    else { throw .invalidArgument("Granularity must be power of 2 and at least 512") }
    guard !liveBitmaps.contains(where: { $0.record.name == bytes }) else {
      throw .invalidArgument("Bitmap already exists: \(name)")
    }
    guard header.version >= 3 else { throw .unsupported("Cannot store dirty bitmaps in qcow2 v2 files") }
    // QEMU opens no image that has one. [observed: qemu-img 7.2]
    guard header.virtualByteCount > 0 else { throw .unsupported("a disk of 0 bytes has no bitmaps") }
    guard bytes.count <= Int(BitmapRecord.maximumNameByteCount) else {
      throw .unsupported("Name length exceeds maximum (\(BitmapRecord.maximumNameByteCount) characters)")
    }
    let record = BitmapRecord(
      name: bytes, granularityBits: UInt8(granularity.trailingZeroBitCount), flags: isEnabled ? .auto : [])
    var bitmap = LiveBitmap(record)
    guard let count = try? bitmap.tableEntryCount(header.virtualByteCount, clusterByteCount) else {
      throw .unsupported("Too much space will be occupied by the bitmap. Use larger granularity")
    }
    try checkDirectoryRoom(for: record)
    bitmap.table = [UInt64](repeating: 0, count: count)
    bitmap.isTableChanged = true
    try Self.checkTables(of: liveBitmaps + [bitmap])
    liveBitmaps.append(bitmap)
    haveBitmapsChanged = true
  }

  /// Whether closing will be able to write a directory with one more bitmap.
  private func checkDirectoryRoom(for record: BitmapRecord) throws(ImageError) {
    guard liveBitmaps.count < Int(BitmapsExtension.maximumCount) else {
      throw .unsupported("Maximum number of persistent bitmaps is already reached")
    }
    let byteCount = liveBitmaps.reduce(record.encodedByteCount) { $0 + $1.record.encodedByteCount }
    guard byteCount <= BitmapsExtension.maximumDirectoryByteCount else {
      throw .unsupported("No space in the bitmap directory")
    }
    let item = [UInt8](repeating: 0, count: BitmapsExtension.byteCount)
    var new = header
    _ = try new.serialise(
      extensions.replacing(HeaderExtensions.Kind.bitmaps, with: item), backingName: try backingName())
  }

  mutating func removeBitmap(named name: String) throws(ImageError) {
    let index = try bitmapIndex(name, mustBeUsable: false)
    let bitmap = liveBitmaps[index]
    if bitmap.isUsable {
      noteGarbage(at: bitmap.record.tableOffset, entryCount: bitmap.record.tableEntryCount)
      for word in bitmap.table where word > LiveBitmap.allOnes { bitmapGarbage.append(word / clusterByteCount) }
    } else {
      try noteUntrustedGarbage(bitmap.record)
    }
    liveBitmaps.remove(at: index)
    haveBitmapsChanged = true
  }

  /// Gives up what an inconsistent bitmap names, as far as it makes sense: the rest is left behind as unused space.
  private mutating func noteUntrustedGarbage(_ record: BitmapRecord) throws(ImageError) {
    // As many as a bitmap of this image can have.
    guard UInt64(record.tableEntryCount) <= LiveBitmap.maximumByteCount / clusterByteCount else { return }
    let words: [UInt64]
    do throws(ImageError) { words = try record.readTable(store) } catch {
      if error.code == .io { throw error }
      return
    }
    guard overlaps.metadata(in: record.tableOffset..<record.tableOffset + UInt64(words.count) * 8) == nil else {
      return
    }
    noteGarbage(at: record.tableOffset, entryCount: record.tableEntryCount)
    var seen: Set<UInt64> = []
    for word in words
    where word > LiveBitmap.allOnes && word % clusterByteCount == 0 && word <= fileByteCount - clusterByteCount {
      guard seen.insert(word).inserted, overlaps.metadata(in: word..<word + clusterByteCount) == nil,
        try refcounts.count(of: word / clusterByteCount, store) > 0
      else { continue }
      bitmapGarbage.append(word / clusterByteCount)
    }
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
    for range in ranges { try markAndStore(range, index) }
  }

  mutating func mergeBitmap(named source: String, into target: String) throws(ImageError) {
    let (from, to) = (try bitmapIndex(source), try bitmapIndex(target))
    guard from != to else { return }
    for entry in liveBitmaps[from].table.indices {
      for range in try liveBitmaps[from].dirtyRanges(ofEntry: entry, bitmapPlace) { try markAndStore(range, to) }
    }
  }

  private mutating func markAndStore(_ range: Range<UInt64>, _ index: Int) throws(ImageError) {
    mark(range, index)
    if hasManyPages(index) { try writePages(index) }
  }

  func bitmapIndex(_ name: String, mustBeUsable: Bool = true) throws(ImageError) -> Int {
    let wanted = Array(name.utf8)
    guard let index = liveBitmaps.firstIndex(where: { $0.record.name == wanted }) else { throw .noBitmap(name) }
    guard liveBitmaps[index].isUsable || !mustBeUsable else { throw .inconsistentBitmap(name) }
    return index
  }
}
