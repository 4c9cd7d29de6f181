import PlatterCore

/// A file as it will be once its log is replayed. Reads only; the file itself stays untouched.
///
/// Keeps the place of every changed page in the log, and takes its bytes from there when they are asked for.
final class LogOverlayStore: ByteStore {
  private struct Page {
    var target: UInt64
    var leading: UInt64
    var trailing: UInt32
    var sector: UInt32
  }

  private static let pageByteCount = ReplayPlan.pageByteCount

  let base: any ByteStore
  private let plan: (log: Range<UInt64>, fileByteCount: UInt64)
  /// Sorted by target, one for each page.
  private let pages: [Page]
  /// Sorted, apart from each other. Where a page overlaps a range, the page is the newer.
  private let zeros: [Range<UInt64>]

  init(over base: any ByteStore, _ plan: ReplayPlan) {
    self.base = base
    self.plan = (plan.log, plan.fileByteCount)
    // From the newest change back, so that what is there already wins.
    var pages: [UInt64: Page] = [:]
    var zeros = RangeUnion()
    for operation in plan.operations.reversed() {
      switch operation {
      case .zero(let range): zeros.insert(range)
      case .page(let target, let leading, let trailing, let sector):
        guard pages[target] == nil, !zeros.contains(target) else { continue }
        pages[target] = Page(target: target, leading: leading, trailing: trailing, sector: sector)
      }
    }
    self.pages = pages.values.sorted { $0.target < $1.target }
    self.zeros = zeros.ranges
  }

  var name: String { base.name }
  var isWritable: Bool { false }
  var alignment: Int { base.alignment }
  var identity: StoreIdentity? { base.identity }

  func byteCount() throws(ImageError) -> UInt64 { max(try base.byteCount(), plan.fileByteCount) }
  func allocatedByteCount() throws(ImageError) -> UInt64 { try base.allocatedByteCount() }

  func read(into buffer: inout MutableRawSpan, at offset: UInt64) throws(ImageError) -> Int {
    let length = try byteCount()
    guard offset < length else { return 0 }
    let count = Int(min(UInt64(buffer.byteCount), length - offset))
    let range = offset..<offset + UInt64(count)
    try readBase(into: &buffer, range)
    for zero in zeros[firstZero(endingAfter: offset)...] {
      guard zero.lowerBound < range.upperBound else { break }
      buffer.zero(Self.place(of: zero.clamped(to: range), in: range))
    }
    for page in pages[firstPage(endingAfter: offset)...] {
      guard page.target < range.upperBound else { break }
      let bytes = try content(of: page)
      let part = (page.target..<page.target + Self.pageByteCount).clamped(to: range)
      let inside = Int(part.lowerBound - page.target)..<Int(part.upperBound - page.target)
      buffer.copy(bytes.rawBytes.extracting(inside), to: Int(part.lowerBound - offset))
    }
    return count
  }

  /// Fills the front of `buffer` from the file; what the file lacks reads as zeros.
  private func readBase(into buffer: inout MutableRawSpan, _ range: Range<UInt64>) throws(ImageError) {
    let count = Int(range.upperBound - range.lowerBound)
    let got = try buffer.withPart(0..<count) { part throws(ImageError) in
      try base.read(into: &part, at: range.lowerBound)
    }
    if got < count { buffer.zero(got..<count) }
  }

  private func content(of page: Page) throws(ImageError) -> [UInt8] {
    let position = plan.log.lowerBound + UInt64(page.sector) * Self.pageByteCount
    var bytes = try base.readFully("a data sector of the log", at: position, count: Int(Self.pageByteCount))
    bytes.withMutableRawBytes { bytes in
      bytes.storeLittleEndian(page.leading, at: 0)
      bytes.storeLittleEndian(page.trailing, at: LogDataSector.content.upperBound)
    }
    return bytes
  }

  func segment(at offset: UInt64, limit: UInt64) throws(ImageError) -> StoreSegment {
    let length = try byteCount()
    guard offset < length else { return StoreSegment(isHole: true, byteCount: limit) }
    var end = min(offset.adding(limit) ?? .max, length)
    let page = firstPage(endingAfter: offset)
    if page < pages.count {
      guard pages[page].target > offset else {
        return StoreSegment(isHole: false, byteCount: min(end, pages[page].target + Self.pageByteCount) - offset)
      }
      end = min(end, pages[page].target)
    }
    let zero = firstZero(endingAfter: offset)
    if zero < zeros.count {
      guard zeros[zero].lowerBound > offset else {
        return StoreSegment(isHole: true, byteCount: min(end, zeros[zero].upperBound) - offset)
      }
      end = min(end, zeros[zero].lowerBound)
    }
    let baseLength = try base.byteCount()
    guard offset < baseLength else { return StoreSegment(isHole: true, byteCount: end - offset) }
    return try base.segment(at: offset, limit: min(end, baseLength) - offset)
  }

  private func firstPage(endingAfter offset: UInt64) -> Int {
    pages.partitionIndex { $0.target + Self.pageByteCount > offset }
  }

  private func firstZero(endingAfter offset: UInt64) -> Int {
    zeros.partitionIndex { $0.upperBound > offset }
  }

  private static func place(of part: Range<UInt64>, in range: Range<UInt64>) -> Range<Int> {
    Int(part.lowerBound - range.lowerBound)..<Int(part.upperBound - range.lowerBound)
  }

  func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) { throw readOnly() }
  func punch(_ range: Range<UInt64>) throws(ImageError) { throw readOnly() }
  func zero(_ range: Range<UInt64>) throws(ImageError) { throw readOnly() }
  func allocate(_ range: Range<UInt64>) throws(ImageError) { throw readOnly() }
  func resize(to byteCount: UInt64) throws(ImageError) { throw readOnly() }
  func flush() throws(ImageError) {}

  private func readOnly() -> ImageError {
    ImageError(.io, "opened read-only, its log replayed in memory", file: name)
  }
}

/// A set of byte positions as sorted ranges that neither touch nor overlap.
struct RangeUnion {
  private(set) var ranges: [Range<UInt64>] = []

  func contains(_ position: UInt64) -> Bool {
    let index = ranges.partitionIndex { $0.upperBound > position }
    return index < ranges.count && ranges[index].lowerBound <= position
  }

  /// Adds a range. Cost: a move of the ranges behind it.
  mutating func insert(_ range: Range<UInt64>) {
    let first = ranges.partitionIndex { $0.upperBound >= range.lowerBound }
    let last = ranges.partitionIndex { $0.lowerBound > range.upperBound }
    var joined = range
    if first < last {
      joined = min(range.lowerBound, ranges[first].lowerBound)..<max(range.upperBound, ranges[last - 1].upperBound)
    }
    ranges.replaceSubrange(first..<last, with: CollectionOfOne(joined))
  }
}

extension Array {
  /// The first index from which on `belongs` holds, in an array where it holds for an end part.
  func partitionIndex(where belongs: (Element) -> Bool) -> Int {
    var low = 0
    var high = count
    while low < high {
      let middle = (low + high) / 2
      if belongs(self[middle]) { high = middle } else { low = middle + 1 }
    }
    return low
  }
}
