import PlatterCore

/// Reads a table of entries of varying length from front to back, 64 KiB of the file at a time.
struct WindowReader {
  private static let windowByteCount = 64 << 10

  private let store: any ByteStore
  private let what: String
  private let start: UInt64
  private var offset: UInt64
  private var window: [UInt8] = []
  private var windowStart: UInt64 = 0

  /// - Parameter what: the table's name for errors.
  init(_ store: any ByteStore, _ what: String, start: UInt64) {
    self.store = store
    self.what = what
    self.start = start
    offset = start
  }

  /// Bytes from the table's start to what comes next.
  var consumedByteCount: UInt64 { offset - start }

  /// The next bytes. `count` must have been checked against a limit.
  mutating func next(_ count: Int) throws(ImageError) -> [UInt8] {
    guard count > 0 else { return [] }
    guard let end = offset.adding(UInt64(count)) else { throw past(count) }
    if offset < windowStart || end > windowStart + UInt64(window.count) {
      window = try store.readPrefix(at: offset, count: max(count, Self.windowByteCount))
      windowStart = offset
      guard window.count >= count else { throw past(count) }
    }
    let first = Int(offset - windowStart)
    offset = end
    return Array(window[first..<first + count])
  }

  /// Passes some bytes, which are few against 2^63.
  mutating func skip(_ count: UInt64) { offset += count }

  /// Skips to the next multiple of `unit` bytes from the table's start.
  mutating func skipPadding(to unit: UInt64) throws(ImageError) {
    guard let rounded = consumedByteCount.roundedUp(toMultipleOf: unit), let next = start.adding(rounded) else {
      throw past(Int(unit))
    }
    offset = next
  }

  private func past(_ count: Int) -> ImageError {
    .truncated("the \(what) (\(count) bytes at \(offset.hex)) lies past the end of the file")
  }
}
