import PlatterCore

/// One change that the log asks for.
enum LogOperation: Sendable {
  /// 4096 bytes at `target`: `leading`, the content of the ring's sector `sector`, `trailing`.
  case page(target: UInt64, leading: UInt64, trailing: UInt32, sector: UInt32)
  /// Bytes that become zero.
  case zero(Range<UInt64>)
}

/// All that replaying the log would change, checked to the last number before anything is changed.
///
/// Holds places, not pages: a log may have 1 GiB.
struct ReplayPlan: Sendable {
  static let maximumZeroRangeCount = 32768  // ours: more than a log of 1 MiB can hold
  static let pageByteCount = UInt64(LogEntryHeader.sectorByteCount)
  /// Nothing below is ever logged: file identifier and headers.
  static let firstTarget: UInt64 = 192 << 10
  static let maximumFileByteCount: UInt64 = 1 << 48  // Microsoft's: 2^28 MiB

  /// Oldest first.
  var operations: [LogOperation]
  var entryCount: Int
  /// The log's place in the file.
  var log: Range<UInt64>
  /// Bytes that the file has afterwards; never fewer than it has now.
  var fileByteCount: UInt64

  /// Reads the log of a file whose header names one, and checks all of it.
  ///
  /// - Throws: `.corrupt` where no whole run of entries is there or an entry asks for nonsense; `.truncated` where the
  ///   file is shorter than the log knows it to be.
  init(reading store: any ByteStore, header: Header) throws(ImageError) {
    let present = try store.byteCount()
    guard let log = header.logRange, log.upperBound <= present else {
      throw .truncated(
        "the log (\(UInt64(header.logByteCount).hex) bytes at \(header.logOffset.hex)) lies past the end of the file "
          + "(\(present.hex))")
    }
    let scan = LogScan(store: store, range: log, guid: header.logGUID)
    let entries = try scan.activeEntries()
    guard let newest = entries.last else {
      throw .corrupt("the header names log \(header.logGUID), but the log holds no whole entry of it")
    }
    guard present >= newest.header.flushedFileByteCount else {
      throw .truncated(
        "the file has \(present.hex) bytes, but the log knows of \(newest.header.flushedFileByteCount.hex): "
          + "its end was cut off")
    }
    var limit = present
    for entry in entries { limit = max(limit, entry.header.lastFileByteCount) }
    guard limit <= Self.maximumFileByteCount || limit == present else {
      throw .corrupt(
        "the log wants the file to have \(limit.hex) bytes; at most \(Self.maximumFileByteCount.hex) are allowed")
    }
    self.log = log
    entryCount = entries.count
    operations = []
    fileByteCount = max(present, newest.header.lastFileByteCount)
    var zeroRangeCount = 0
    for entry in entries {
      try collect(entry, scan, limit: limit, zeroRangeCount: &zeroRangeCount)
    }
  }

  /// Adds an entry's changes. `limit` is the file's largest length.
  private mutating func collect(
    _ entry: LogEntry, _ scan: LogScan, limit: UInt64, zeroRangeCount: inout Int
  ) throws(ImageError) {
    let header = entry.header
    var collected: [LogOperation] = []
    var nextSector = entry.sector + header.headSectorCount
    var zeros = zeroRangeCount
    let log = log
    try scan.forEachSector(of: header, at: entry.sector, upTo: header.headSectorCount) {
      index, bytes throws(ImageError) in
      for offset in header.descriptorOffsets(inHeadSector: index) {
        // The scan has read all of them before.
        guard let descriptor = LogDescriptor(parsing: bytes, at: offset) else { return false }
        switch descriptor {
        case .page(let target, let leading, let trailing, _):
          try Self.check(target, Self.pageByteCount, limit: limit, log: log, header)
          let sector = UInt32(nextSector % scan.sectorCount)
          collected.append(.page(target: target, leading: leading, trailing: trailing, sector: sector))
          nextSector += 1
        case .zero(let target, let byteCount, _):
          try Self.check(target, byteCount, limit: limit, log: log, header)
          zeros += 1
          guard zeros <= Self.maximumZeroRangeCount else {
            throw .unsupported("the log zeroes more than \(Self.maximumZeroRangeCount) ranges")
          }
          if byteCount > 0 { collected.append(.zero(target..<target + byteCount)) }
        }
      }
      return true
    }
    zeroRangeCount = zeros
    operations.append(contentsOf: collected)
    for operation in collected { fileByteCount = max(fileByteCount, operation.range.upperBound) }
  }

  private static func check(
    _ target: UInt64, _ byteCount: UInt64, limit: UInt64, log: Range<UInt64>, _ header: LogEntryHeader
  ) throws(ImageError) {
    func bad(_ reason: String) -> ImageError {
      .corrupt("log entry \(header.sequenceNumber) changes \(byteCount.hex) bytes at \(target.hex), \(reason)")
    }
    guard target % pageByteCount == 0, byteCount % pageByteCount == 0 else { throw bad("which are not whole pages") }
    guard target >= firstTarget else { throw bad("inside the headers") }
    guard let end = target.adding(byteCount), end <= limit else {
      throw bad("past the end of the file (\(limit.hex))")
    }
    guard end <= log.lowerBound || target >= log.upperBound else { throw bad("inside the log itself") }
  }
}

extension LogOperation {
  var range: Range<UInt64> {
    switch self {
    case .page(let target, _, _, _): target..<target + ReplayPlan.pageByteCount
    case .zero(let range): range
    }
  }
}
