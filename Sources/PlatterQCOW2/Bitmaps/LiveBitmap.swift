import PlatterCore

/// A bitmap of an image that is being written: its table, and the bits that were set since the file was read.
struct LiveBitmap {
  static let maximumByteCount: UInt64 = 0x2000_0000  // QEMU's
  static let maximumPageByteCount: UInt64 = 4096
  /// A table entry without a cluster: all bits set, or none.
  static let allOnes: UInt64 = 1

  var record: BitmapRecord
  /// False where the image says that its content cannot be trusted: it can only be removed.
  let isUsable: Bool
  /// Clusters of bits, as the table will say; empty where it is not usable.
  var table: [UInt64] = []
  /// Set bits to add to what the clusters hold, by number of the page.
  var pages: [UInt64: [UInt8]] = [:]
  /// The table in memory is not the one on disk.
  var isTableChanged = false

  /// A bitmap without a table yet.
  init(_ record: BitmapRecord) {
    self.record = record
    isUsable = record.isTrusted
  }

  var granularity: UInt64 { record.granularity }
  var isRecording: Bool { isUsable && record.flags.contains(.auto) }

  func bitCount(_ byteCount: UInt64) -> UInt64 { byteCount.dividedRoundingUp(by: granularity) }

  /// Entries that the table of a disk of this size has.
  func tableEntryCount(_ byteCount: UInt64, _ clusterByteCount: UInt64) throws(ImageError) -> Int {
    let bytes = bitCount(byteCount).dividedRoundingUp(by: 8)
    guard bytes <= Self.maximumByteCount else {
      throw .unsupported(
        "a bitmap of granularity \(granularity) needs \(bytes) bytes for a disk of \(byteCount) bytes, more than "
          + "\(Self.maximumByteCount)")
    }
    return Int(bytes.dividedRoundingUp(by: clusterByteCount))
  }

  /// Sets the bits of guest bytes. Table entries that are covered whole become "all ones".
  /// - Returns: clusters that are no longer needed.
  mutating func mark(_ range: Range<UInt64>, _ clusterByteCount: UInt64) -> [UInt64] {
    guard !range.isEmpty, !table.isEmpty else { return [] }
    var free: [UInt64] = []
    let perEntry = clusterByteCount * 8
    var bit = range.lowerBound / granularity
    let end = min((range.upperBound - 1) / granularity + 1, UInt64(table.count) * perEntry)
    while bit < end {
      let entry = bit / perEntry
      let entryEnd = min((entry + 1) * perEntry, end)
      if table[Int(entry)] != Self.allOnes {
        if entryEnd - bit == perEntry {
          free += setAllOnes(Int(entry), clusterByteCount)
        } else {
          setBits(bit..<entryEnd, clusterByteCount)
        }
      }
      bit = entryEnd
    }
    return free
  }

  private mutating func setAllOnes(_ entry: Int, _ clusterByteCount: UInt64) -> [UInt64] {
    let old = table[entry]
    table[entry] = Self.allOnes
    isTableChanged = true
    let perEntry = clusterByteCount / pageByteCount(clusterByteCount)
    for page in UInt64(entry) * perEntry..<UInt64(entry + 1) * perEntry { pages[page] = nil }
    return old == 0 ? [] : [old / clusterByteCount]
  }

  func pageByteCount(_ clusterByteCount: UInt64) -> UInt64 { min(clusterByteCount, Self.maximumPageByteCount) }

  private mutating func setBits(_ bits: Range<UInt64>, _ clusterByteCount: UInt64) {
    let size = pageByteCount(clusterByteCount)
    var bit = bits.lowerBound
    while bit < bits.upperBound {
      let page = bit / (size * 8)
      let end = min((page + 1) * size * 8, bits.upperBound)
      var bytes = pages[page] ?? [UInt8](repeating: 0, count: Int(size))
      while bit < end {
        let index = Int(bit / 8 % size)
        if bit % 8 == 0, end - bit >= 8 {
          bytes[index] = 0xff
          bit += 8
        } else {
          bytes[index] |= 1 << UInt8(bit % 8)
          bit += 1
        }
      }
      pages[page] = bytes
    }
  }
}
