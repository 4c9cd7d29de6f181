import PlatterCore
import TestSupport

/// A file in memory that may not grow past a limit, as on a disk that is full then: what a hostile image makes its writer
/// ask for must cost no memory.
final class SmallDisk: ByteStore {
  private let file: PagedStore
  private let limit: UInt64

  init(_ bytes: [UInt8], room: UInt64) {
    file = PagedStore(PagedBytes(bytes))
    limit = UInt64(bytes.count) + room
  }

  var name: String { file.name }
  var isWritable: Bool { true }

  private func check(_ end: UInt64?) throws(ImageError) {
    guard let end, end <= limit else { throw ImageError(.io, "No space left on device", file: name) }
  }

  func byteCount() throws(ImageError) -> UInt64 { try file.byteCount() }
  func read(into buffer: inout MutableRawSpan, at offset: UInt64) throws(ImageError) -> Int {
    try file.read(into: &buffer, at: offset)
  }
  func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) {
    try check(offset.adding(UInt64(bytes.byteCount)))
    try file.write(bytes, at: offset)
  }
  func segment(at offset: UInt64, limit: UInt64) throws(ImageError) -> StoreSegment {
    try file.segment(at: offset, limit: limit)
  }
  func punch(_ range: Range<UInt64>) throws(ImageError) { try file.punch(range) }
  func zero(_ range: Range<UInt64>) throws(ImageError) { try file.zero(range) }
  func allocate(_ range: Range<UInt64>) throws(ImageError) {
    try check(range.upperBound)
    try file.allocate(range)
  }
  func flush() throws(ImageError) {}
  func resize(to byteCount: UInt64) throws(ImageError) {
    try check(byteCount)
    try file.resize(to: byteCount)
  }
}
