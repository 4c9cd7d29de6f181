package import PlatterCore
import Synchronization

/// Bytes of a file in pages: copying is cheap, and so is growing. What a power cut leaves is made of copies of it.
package struct PagedBytes: Sendable, Equatable {
  private static let pageByteCount = 4096

  package private(set) var byteCount: UInt64 = 0
  private var pages: [UInt64: [UInt8]] = [:]

  package init(_ bytes: [UInt8] = []) {
    bytes.withBytes { write($0, at: 0) }
    byteCount = UInt64(bytes.count)
  }

  /// A copy of a range; zeros past the end.
  package func read(_ range: Range<UInt64>) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: Int(range.upperBound - range.lowerBound))
    bytes.withMutableRawBytes { _ = read(into: &$0, at: range.lowerBound) }
    return bytes
  }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) -> Int {
    guard offset < byteCount else { return 0 }
    let count = Int(min(UInt64(buffer.byteCount), byteCount - offset))
    for (page, inPage, place, length) in Self.parts(offset, count) {
      if let bytes = pages[page] {
        buffer.copy(bytes.rawBytes.extracting(inPage..<inPage + length), to: place)
      } else {
        buffer.zero(place..<place + length)
      }
    }
    return count
  }

  /// A big-endian number of 1 to 8 bytes; 0 past the end.
  package func number(at offset: UInt64, byteCount count: Int = 8) -> UInt64 {
    let (page, inPage) = (offset / UInt64(Self.pageByteCount), Int(offset % UInt64(Self.pageByteCount)))
    guard inPage + count <= Self.pageByteCount else {
      return read(offset..<offset + UInt64(count)).reduce(0) { $0 << 8 | UInt64($1) }
    }
    guard offset < byteCount, let bytes = pages[page] else { return 0 }
    var value: UInt64 = 0
    for index in inPage..<inPage + count { value = value << 8 | UInt64(bytes[index]) }
    return value
  }

  /// The kind of the byte at an offset, and how far it goes.
  package func segment(at offset: UInt64, limit: UInt64) -> StoreSegment {
    let size = UInt64(Self.pageByteCount)
    let end = min(byteCount, offset.adding(limit) ?? .max)
    let isHole = pages[offset / size] == nil
    var position = (offset / size + 1) * size
    while position < end, (pages[position / size] == nil) == isHole { position += size }
    return StoreSegment(isHole: isHole, byteCount: min(position, end) - offset)
  }

  /// Visits the entries of a table that are not all zeros.
  /// - Parameters:
  ///   - range: aligned to the width.
  ///   - width: 8 or 16 bytes.
  package func forEachEntry(
    _ range: Range<UInt64>, width: Int, _ body: (_ offset: UInt64, _ word: UInt64, _ second: UInt64) -> Void
  ) {
    let size = UInt64(Self.pageByteCount)
    var position = range.lowerBound
    while position < range.upperBound {
      let (page, start) = (position / size, Int(position % size))
      let end = min(range.upperBound, (page + 1) * size)
      if let bytes = pages[page] {
        let raw = bytes.rawBytes
        for index in stride(from: start, to: start + Int(end - position), by: width) {
          let word = raw.bigEndian(at: index, as: UInt64.self) ?? 0
          let second = width == 16 ? raw.bigEndian(at: index + 8, as: UInt64.self) ?? 0 : 0
          if word | second != 0 { body(page * size + UInt64(index), word, second) }
        }
      }
      position = end
    }
  }

  package mutating func write(_ bytes: RawSpan, at offset: UInt64) {
    for (page, inPage, place, length) in Self.parts(offset, bytes.byteCount) {
      let part = bytes.extracting(place..<place + length)
      pages[page, default: [UInt8](repeating: 0, count: Self.pageByteCount)].withMutableRawBytes {
        $0.copy(part, to: inPage)
      }
    }
    byteCount = max(byteCount, offset + UInt64(bytes.byteCount))
  }

  package mutating func zero(_ range: Range<UInt64>) {
    let end = min(range.upperBound, byteCount)
    guard range.lowerBound < end else { return }
    for (page, inPage, _, length) in Self.parts(range.lowerBound, Int(end - range.lowerBound)) {
      if length == Self.pageByteCount {
        pages[page] = nil
      } else {
        pages[page]?.withMutableRawBytes { $0.zero(inPage..<inPage + length) }
      }
    }
  }

  package mutating func resize(to count: UInt64) {
    if count < byteCount {
      let old = byteCount
      let edge = count.dividedRoundingUp(by: UInt64(Self.pageByteCount))
      zero(count..<min(old, edge * UInt64(Self.pageByteCount)))
      for page in pages.keys where page >= edge { pages[page] = nil }
    }
    byteCount = count
  }

  private static func parts(_ offset: UInt64, _ count: Int) -> [(page: UInt64, inPage: Int, place: Int, length: Int)] {
    var parts: [(page: UInt64, inPage: Int, place: Int, length: Int)] = []
    var place = 0
    while place < count {
      let position = offset + UInt64(place)
      let inPage = Int(position % UInt64(pageByteCount))
      let length = min(pageByteCount - inPage, count - place)
      parts.append((position / UInt64(pageByteCount), inPage, place, length))
      place += length
    }
    return parts
  }
}

extension [UInt8] {
  fileprivate func withBytes(_ body: (RawSpan) -> Void) { body(rawBytes) }
}

/// Every change of some files in the order in which they were asked for: what the power-cut simulator replays.
package final class ChangeJournal: Sendable {
  package struct Change: Sendable {
    package var file: Int
    package var operation: RecordingStore.Operation
  }

  private let list = Mutex<[Change]>([])

  package init() {}

  package var changes: [Change] { list.withLock { $0 } }
  package var count: Int { list.withLock { $0.count } }
  func append(_ change: Change) { list.withLock { $0.append(change) } }
}

/// A store of `PagedBytes`, whose pages that nobody wrote are holes. Notes every change in a journal, where it has one.
package final class PagedStore: ByteStore {
  package let name: String
  package let isWritable: Bool
  package let journal: ChangeJournal?
  private let file: Int
  private let state: Mutex<PagedBytes>

  /// - Parameter file: its number in the journal.
  package init(
    _ bytes: PagedBytes = PagedBytes(), name: String = "memory", isWritable: Bool = true,
    journal: ChangeJournal? = nil, file: Int = 0
  ) {
    self.name = name
    self.isWritable = isWritable
    self.journal = journal
    self.file = file
    state = Mutex(bytes)
  }

  package var bytes: PagedBytes { state.withLock { $0 } }

  package func byteCount() throws(ImageError) -> UInt64 { state.withLock { $0.byteCount } }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) throws(ImageError) -> Int {
    // A copy, since an inout span cannot be captured by the lock's closure; pages are shared.
    bytes.read(into: &buffer, at: offset)
  }

  package func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) {
    try change(.write(offset: offset, bytes: bytes.array()))
  }

  package func punch(_ range: Range<UInt64>) throws(ImageError) { try change(.zero(range)) }
  package func zero(_ range: Range<UInt64>) throws(ImageError) { try change(.zero(range)) }
  package func flush() throws(ImageError) { try change(.flush) }
  package func resize(to byteCount: UInt64) throws(ImageError) { try change(.resize(byteCount)) }

  package func allocate(_ range: Range<UInt64>) throws(ImageError) {
    if range.upperBound > (try byteCount()) { try resize(to: range.upperBound) }
  }

  package func segment(at offset: UInt64, limit: UInt64) throws(ImageError) -> StoreSegment {
    state.withLock { $0.segment(at: offset, limit: limit) }
  }

  private func change(_ operation: RecordingStore.Operation) throws(ImageError) {
    guard isWritable || operation == .flush else {
      throw ImageError(.io, "opened read-only", file: name)
    }
    state.withLock { bytes in
      bytes.apply(operation)
      journal?.append(ChangeJournal.Change(file: file, operation: operation))
    }
  }
}

extension PagedBytes {
  package mutating func apply(_ operation: RecordingStore.Operation) {
    switch operation {
    case .write(let offset, let bytes): write(bytes.rawBytes, at: offset)
    case .zero(let range): zero(range)
    case .resize(let byteCount): resize(to: byteCount)
    case .flush: break
    }
  }
}
