import PlatterCodecs
import PlatterCore

/// A log entry that was written whole, and its place in the ring.
struct LogEntry: Sendable {
  var header: LogEntryHeader
  /// Sector of the ring that it begins at.
  var sector: Int
}

/// Finds what a log holds. Bounded work: an entry's sectors begin with other marks than its first one, so that no two
/// readings of entries overlap by more than they fail.
struct LogScan {
  let store: any ByteStore
  /// The ring's place in the file; inside the file.
  let range: Range<UInt64>
  let guid: GUID

  private static let sectorByteCount = LogEntryHeader.sectorByteCount
  /// Sectors read at once.
  private static let batchSectorCount = 64

  var sectorCount: Int { Int((range.upperBound - range.lowerBound) / UInt64(Self.sectorByteCount)) }

  /// Every whole entry of this log by its first sector, in the order of the ring.
  func entries() throws(ImageError) -> [LogEntry] {
    var found: [LogEntry] = []
    var sector = 0
    while sector < sectorCount {
      let count = min(Self.batchSectorCount, sectorCount - sector)
      let batch = try sectors(from: sector, count: count)
      for index in 0..<count {
        let part = batch.rawBytes.extracting(index * Self.sectorByteCount..<(index + 1) * Self.sectorByteCount)
        guard
          let header = LogEntryHeader(
            parsing: part, logByteCount: UInt64(sectorCount) * UInt64(Self.sectorByteCount)),
          header.logGUID == guid, try isWhole(header, at: sector + index)
        else { continue }
        found.append(LogEntry(header: header, sector: sector + index))
      }
      sector += count
    }
    return found
  }

  /// Up to `count` sectors from one on; fewer at the ring's end.
  private func sectors(from sector: Int, count: Int) throws(ImageError) -> [UInt8] {
    let count = min(count, sectorCount - sector)
    return try store.readFully(
      "the log", at: range.lowerBound + UInt64(sector * Self.sectorByteCount), count: count * Self.sectorByteCount)
  }

  /// Calls `body` with each sector of an entry, in order around the ring's end, until it returns false.
  func forEachSector(
    of header: LogEntryHeader, at start: Int, upTo count: Int,
    _ body: (_ index: Int, _ bytes: RawSpan) throws(ImageError) -> Bool
  ) throws(ImageError) {
    var index = 0
    // The first read is small: most heads that are not entries fail at once.
    var batchCount = 4
    while index < count {
      let sector = (start + index) % sectorCount
      let batch = try sectors(from: sector, count: min(batchCount, count - index))
      batchCount = Self.batchSectorCount
      for part in 0..<batch.count / Self.sectorByteCount {
        let bytes = batch.rawBytes.extracting(part * Self.sectorByteCount..<(part + 1) * Self.sectorByteCount)
        guard try body(index + part, bytes) else { return }
      }
      index += batch.count / Self.sectorByteCount
    }
  }

  /// Whether every sector of the entry is there: marks, sequence numbers, their count, and the checksum.
  private func isWhole(_ header: LogEntryHeader, at start: Int) throws(ImageError) -> Bool {
    let headSectorCount = header.headSectorCount
    var pageCount = 0
    var checksum: UInt32 = 0
    var isGood = true
    try forEachSector(of: header, at: start, upTo: header.sectorCount) { index, bytes in
      if index < headSectorCount {
        for offset in header.descriptorOffsets(inHeadSector: index) {
          guard let descriptor = LogDescriptor(parsing: bytes, at: offset),
            descriptor.sequenceNumber == header.sequenceNumber
          else {
            isGood = false
            return false
          }
          if case .page = descriptor { pageCount += 1 }
        }
        if index == headSectorCount - 1 { isGood = header.sectorCount == headSectorCount + pageCount }
      } else {
        isGood = LogDataSector.isIntact(bytes, at: 0, sequenceNumber: header.sequenceNumber)
      }
      checksum =
        index == 0 ? Checksum.ofStructure(bytes) : CRC32C.checksum(of: bytes, continuing: checksum)
      return isGood
    }
    return isGood && checksum == header.checksum
  }

  /// The entries to replay, oldest first [MS-VHDX 2.3.2]: of the runs of entries that follow each other, the one whose
  /// last entry is the newest and names, as its tail, an entry of the same run; from that tail on.
  ///
  /// Only the longest runs need a look: what follows an entry is one place, so shorter runs are ends of longer ones.
  func activeEntries() throws(ImageError) -> [LogEntry] {
    let entries = try entries()
    var indexBySector: [Int: Int] = [:]
    for (index, entry) in entries.enumerated() { indexBySector[entry.sector] = index }
    func follower(of index: Int) -> Int? {
      let entry = entries[index]
      guard let next = indexBySector[(entry.sector + entry.header.sectorCount) % sectorCount],
        let expected = entry.header.sequenceNumber.adding(1), entries[next].header.sequenceNumber == expected
      else { return nil }
      return next
    }
    var isFollower = [Bool](repeating: false, count: entries.count)
    for index in entries.indices { if let next = follower(of: index) { isFollower[next] = true } }
    var best: [Int] = []
    for first in entries.indices where !isFollower[first] {
      var run = [first]
      while let last = run.last, let next = follower(of: last) { run.append(next) }
      guard let last = run.last else { continue }
      let tail = Int(entries[last].header.tail) / Self.sectorByteCount
      guard let start = run.firstIndex(where: { entries[$0].sector == tail }) else { continue }
      if let present = best.last, entries[present].header.sequenceNumber >= entries[last].header.sequenceNumber {
        continue
      }
      best = Array(run[start...])
    }
    return best.map { entries[$0] }
  }
}
