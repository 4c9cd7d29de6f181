import PlatterCore
import TestSupport

/// A file in memory that may not grow past a limit, as on a disk that is full then: what a hostile image makes its writer
/// ask for must cost no memory.
final class SmallDisk: StoreDecorator {
  let base: any ByteStore
  private let limit: UInt64

  init(_ bytes: [UInt8], room: UInt64) {
    base = PagedStore(PagedBytes(bytes))
    limit = UInt64(bytes.count) + room
  }

  private func check(_ end: UInt64?) throws(ImageError) {
    guard let end, end <= limit else { throw ImageError(.io, "No space left on device", file: name) }
  }

  func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) {
    try check(offset.adding(UInt64(bytes.byteCount)))
    try base.write(bytes, at: offset)
  }

  func allocate(_ range: Range<UInt64>) throws(ImageError) {
    try check(range.upperBound)
    try base.allocate(range)
  }

  func resize(to byteCount: UInt64) throws(ImageError) {
    try check(byteCount)
    try base.resize(to: byteCount)
  }
}
