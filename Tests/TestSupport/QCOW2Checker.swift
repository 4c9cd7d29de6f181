import PlatterCore

/// Counts who refers to each cluster of a qcow2 image, from the specification alone and without a line of the product,
/// and compares that with what the image says.
package struct QCOW2Checker {
  /// Clusters that are counted more often than they are referred to.
  package private(set) var leaks = 0
  /// Everything worse, in sentences; at most 20.
  package private(set) var damages: [String] = []

  private let image: PagedBytes
  private let clusterBits: UInt64
  private let version: UInt64
  private let isExtended: Bool
  private let hasDataFile: Bool
  /// By number of the cluster.
  private var references: [UInt32] = []
  private var refcountOrder: UInt64 = 4
  private var cluster: UInt64 { 1 << clusterBits }

  private static let copied: UInt64 = 1 << 63
  private static let compressed: UInt64 = 1 << 62
  private static let offsetMask: UInt64 = 0x00ff_ffff_ffff_fe00

  /// - Parameter countsLeaks: look at the counts of clusters that nothing refers to as well.
  package init(_ image: PagedBytes, countsLeaks: Bool = true) {
    self.image = image
    version = image.number(at: 4, byteCount: 4)
    clusterBits = image.number(at: 20, byteCount: 4)
    let incompatible = version >= 3 ? image.number(at: 72) : 0
    isExtended = incompatible & 16 != 0
    hasDataFile = incompatible & 4 != 0
    guard image.number(at: 0, byteCount: 4) == 0x5146_49fb, (9...21).contains(clusterBits) else {
      damage("no qcow2 header")
      return
    }
    if incompatible & 3 != 0 { damage("marked dirty or corrupt") }
    references = [UInt32](repeating: 0, count: Int((image.byteCount + cluster - 1) >> clusterBits))
    if version >= 3 { refcountOrder = image.number(at: 96, byteCount: 4) }
    count()
    if countsLeaks { countLeaks() }
    compare()
  }

  private mutating func damage(_ sentence: String) {
    if damages.count < 20 { damages.append(sentence) }
  }

  private mutating func refer(_ what: String, _ offset: UInt64, _ byteCount: UInt64) {
    guard byteCount > 0 else { return }
    if offset == 0, what != "header" { return damage("\(what) lies in the header") }
    for number in offset >> clusterBits...(offset + byteCount - 1) >> clusterBits {
      guard number < references.count else { return damage("\(what) at \(offset) lies past the end of the file") }
      references[Int(number)] += 1
    }
  }

  private mutating func refer(table what: String, _ offset: UInt64, _ byteCount: UInt64) {
    if offset & (cluster - 1) != 0 { damage("\(what) at \(offset) is not aligned") }
    refer(what, offset, byteCount)
  }

  // MARK: Counting

  private mutating func count() {
    refer("header", 0, cluster)
    let refcountTable = image.number(at: 48)
    let refcountByteCount = image.number(at: 56, byteCount: 4) << clusterBits
    refer(table: "refcount table", refcountTable, refcountByteCount)
    var blocks: [UInt64] = []
    image.forEachEntry(refcountTable..<refcountTable + refcountByteCount, width: 8) { _, word, _ in blocks.append(word)
    }
    for block in blocks { refer(table: "refcount block", block, cluster) }
    countTree(image.number(at: 40), image.number(at: 36, byteCount: 4), isActive: true)
    var record = image.number(at: 64)
    let snapshotTable = record
    for _ in 0..<image.number(at: 60, byteCount: 4) {
      countTree(image.number(at: record), image.number(at: record + 8, byteCount: 4), isActive: false)
      let names = image.number(at: record + 12, byteCount: 2) + image.number(at: record + 14, byteCount: 2)
      record = (record + 40 + image.number(at: record + 36, byteCount: 4) + names + 7) / 8 * 8
    }
    refer(table: "snapshot table", snapshotTable, record - snapshotTable)
    countExtensions()
  }

  private mutating func countExtensions() {
    var offset: UInt64 = version >= 3 ? image.number(at: 100, byteCount: 4) : 72
    while offset + 8 <= cluster {
      let kind = image.number(at: offset, byteCount: 4)
      let length = image.number(at: offset + 4, byteCount: 4)
      if kind == 0 { break }
      if kind == 0x0537_be77 {
        refer(table: "crypto header", image.number(at: offset + 8), image.number(at: offset + 16))
      }
      // Without the autoclear bit the bitmaps are nobody's.
      if kind == 0x2385_2875, version >= 3, image.number(at: 88) & 1 == 1 {
        countBitmaps(
          image.number(at: offset + 8, byteCount: 4), image.number(at: offset + 24), image.number(at: offset + 16))
      }
      offset += 8 + (length + 7) / 8 * 8
    }
  }

  private mutating func countBitmaps(_ count: UInt64, _ directory: UInt64, _ byteCount: UInt64) {
    refer(table: "bitmap directory", directory, byteCount)
    var record = directory
    for index in 0..<count {
      let (table, entryCount) = (image.number(at: record), image.number(at: record + 8, byteCount: 4))
      refer(table: "table of bitmap \(index)", table, entryCount * 8)
      for entry in 0..<entryCount {
        let word = image.number(at: table + entry * 8)
        if word > 1 { refer(table: "bits of bitmap \(index)", word, cluster) }
      }
      let names = image.number(at: record + 18, byteCount: 2) + image.number(at: record + 20, byteCount: 4)
      record = (record + 24 + names + 7) / 8 * 8
    }
    if record - directory != byteCount { damage("the bitmap directory has \(byteCount) bytes") }
  }

  private mutating func countTree(_ l1Offset: UInt64, _ l1Count: UInt64, isActive: Bool) {
    refer(table: "L1 table", l1Offset, l1Count * 8)
    for index in 0..<l1Count {
      let word = image.number(at: l1Offset + index * 8)
      guard word != 0 else { continue }
      let table = word & Self.offsetMask
      if table == 0 || word & 0x7f00_0000_0000_01ff != 0 { damage("L1 entry \(index) is \(word)") }
      refer(table: "L2 table", table, cluster)
      countL2(table, isActive: isActive)
    }
  }

  private mutating func countL2(_ table: UInt64, isActive: Bool) {
    var entries: [(offset: UInt64, word: UInt64, bitmap: UInt64)] = []
    image.forEachEntry(table..<table + cluster, width: isExtended ? 16 : 8) { entries.append(($0, $1, $2)) }
    for (entry, word, bitmap) in entries {
      if word & Self.compressed != 0 {
        countPacked(word, entry)
        continue
      }
      let host = word & Self.offsetMask
      let reserved: UInt64 = 0x3f00_0000_0000_01fe | (isExtended || version < 3 ? 1 : 0)
      if word & reserved != 0 { damage("L2 entry at \(entry) is \(word)") }
      if bitmap & 0xffff_ffff & (bitmap >> 32) != 0 { damage("subclusters at \(entry) are \(bitmap)") }
      if hasDataFile { continue }
      if bitmap & 0xffff_ffff != 0, host == 0 { damage("subclusters without a cluster at \(entry)") }
      if host != 0 { refer(table: "data cluster", host, cluster) }
    }
  }

  private mutating func countPacked(_ word: UInt64, _ entry: UInt64) {
    if word & Self.copied != 0 || hasDataFile { damage("compressed entry at \(entry) is \(word)") }
    let offsetBits = 70 - clusterBits
    let offset = word & ((1 << offsetBits) - 1)
    let sectors = (word >> offsetBits) & ((1 << (clusterBits - 8)) - 1)
    refer("compressed cluster", offset, (sectors + 1) * 512 - offset % 512)
  }

  // MARK: Comparing

  /// What the image says of a cluster.
  private func refcount(_ number: UInt64) -> UInt64 {
    let bits: UInt64 = 1 << refcountOrder
    let perBlock = cluster * 8 / bits
    let index = number / perBlock
    guard index < image.number(at: 56, byteCount: 4) << clusterBits / 8 else { return 0 }
    let block = image.number(at: image.number(at: 48) + index * 8)
    guard block != 0 else { return 0 }
    let position = number % perBlock * bits
    guard bits < 8 else { return image.number(at: block + position / 8, byteCount: Int(bits / 8)) }
    return image.number(at: block + position / 8, byteCount: 1) >> (position % 8) & (1 << bits - 1)
  }

  private mutating func countLeaks() {
    for number in references.indices where refcount(UInt64(number)) > UInt64(references[number]) { leaks += 1 }
  }

  private mutating func compare() {
    for (number, found) in references.enumerated() where found > 0 {
      let said = refcount(UInt64(number))
      if said < UInt64(found) { damage("cluster \(number) is counted \(said) times and referred to \(found) times") }
    }
    let l1Offset = image.number(at: 40)
    for index in 0..<image.number(at: 36, byteCount: 4) {
      let word = image.number(at: l1Offset + index * 8)
      guard word != 0 else { continue }
      checkCopied(word, "L1 entry \(index)")
      guard !hasDataFile else { continue }
      let table = word & Self.offsetMask
      var entries: [(offset: UInt64, word: UInt64)] = []
      image.forEachEntry(table..<table + cluster, width: isExtended ? 16 : 8) { offset, word, _ in
        entries.append((offset, word))
      }
      for (entry, word) in entries {
        if word & Self.compressed == 0, word & Self.offsetMask != 0 { checkCopied(word, "L2 entry at \(entry)") }
      }
    }
  }

  /// The flag means that the count is exactly 1, also where the count leaks.
  private mutating func checkCopied(_ word: UInt64, _ what: String) {
    let number = (word & Self.offsetMask) >> clusterBits
    let said = refcount(number)
    if word & Self.copied != 0, said != 1 {
      damage("\(what) says that it owns a cluster that is counted \(said) times")
    }
    if word & Self.copied == 0, said == 1 { damage("\(what) does not say that it owns its cluster") }
  }
}
