import Synchronization
import SystemPackage

/// Bytes in memory: the embedded twin of a file, for tests and for small things.
package final class MemoryStore: ByteStore {
  package let name: String
  package let isWritable: Bool
  private let content: Mutex<[UInt8]>

  package init(_ bytes: [UInt8] = [], name: String = "memory", isWritable: Bool = true) {
    self.name = name
    self.isWritable = isWritable
    content = Mutex(bytes)
  }

  /// A copy of everything.
  package var bytes: [UInt8] { content.withLock { $0 } }

  package func byteCount() throws(ImageError) -> UInt64 { content.withLock { UInt64($0.count) } }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) throws(ImageError) -> Int {
    // Copied out first: an inout span cannot be captured by the lock's closure.
    let count = buffer.byteCount
    let part: [UInt8] = content.withLock { bytes in
      guard offset < UInt64(bytes.count) else { return [] }
      return Array(bytes[Int(offset)..<min(Int(offset) + count, bytes.count)])
    }
    buffer.copy(part.rawBytes)
    return part.count
  }

  package func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) {
    try checkWritable()
    let source = bytes.array()
    try content.withLock { content throws(ImageError) in
      guard let end = offset.adding(UInt64(source.count)), end <= 1 << 40 else {
        throw ImageError(.invalidArgument, "write of \(source.count) bytes at \(offset.hex) is too far out", file: name)
      }
      if end > UInt64(content.count) { content.append(contentsOf: repeatElement(0, count: Int(end) - content.count)) }
      content.replaceSubrange(Int(offset)..<Int(end), with: source)
    }
  }

  package func punch(_ range: Range<UInt64>) throws(ImageError) { try zero(range) }

  package func zero(_ range: Range<UInt64>) throws(ImageError) {
    try checkWritable()
    content.withLock { content in
      let end = min(range.upperBound, UInt64(content.count))
      guard range.lowerBound < end else { return }
      let place = Int(range.lowerBound)..<Int(end)
      content.replaceSubrange(place, with: [UInt8](repeating: 0, count: place.count))
    }
  }

  package func allocate(_ range: Range<UInt64>) throws(ImageError) {
    if range.upperBound > (try byteCount()) { try resize(to: range.upperBound) }
  }

  package func flush() throws(ImageError) {}

  package func resize(to byteCount: UInt64) throws(ImageError) {
    try checkWritable()
    content.withLock { content in
      let count = Int(byteCount)
      if count < content.count {
        content.removeLast(content.count - count)
      } else {
        content += [UInt8](repeating: 0, count: count - content.count)
      }
    }
  }

  private func checkWritable() throws(ImageError) {
    guard isWritable else { throw ImageError(.io, "opened read-only", file: name, errno: .badFileDescriptor) }
  }
}
