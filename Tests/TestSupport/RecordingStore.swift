package import PlatterCore
import Synchronization

/// A store in memory that remembers every change in order: what the power-cut simulator replays.
package final class RecordingStore: ByteStore {
  package enum Operation: Sendable, Equatable {
    case write(offset: UInt64, bytes: [UInt8])
    case zero(Range<UInt64>)
    case resize(UInt64)
    case flush
  }

  private let base: MemoryStore
  private let log = Mutex<[Operation]>([])
  private let initial: [UInt8]

  package init(_ bytes: [UInt8] = [], name: String = "memory") {
    base = MemoryStore(bytes, name: name)
    initial = bytes
  }

  package var operations: [Operation] { log.withLock { $0 } }
  package var bytes: [UInt8] { base.bytes }

  /// The content that a disk may hold after a power cut: all changes up to a number of operations, of which those since
  /// the last flush survive only where `survives` says so.
  package func content(afterOperations count: Int, survives: (Int) -> Bool = { _ in true }) throws(ImageError)
    -> [UInt8]
  {
    let operations = operations.prefix(count)
    let lastFlush = operations.lastIndex(of: .flush) ?? -1
    let disk = MemoryStore(initial)
    for (index, operation) in operations.enumerated() where index < lastFlush || survives(index) {
      switch operation {
      case .write(let offset, let bytes): try disk.write(bytes.rawBytes, at: offset)
      case .zero(let range): try disk.zero(range)
      case .resize(let byteCount): try disk.resize(to: byteCount)
      case .flush: break
      }
    }
    return disk.bytes
  }

  package var name: String { base.name }
  package var isWritable: Bool { true }
  package func byteCount() throws(ImageError) -> UInt64 { try base.byteCount() }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) throws(ImageError) -> Int {
    try base.read(into: &buffer, at: offset)
  }

  package func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) {
    let copy = bytes.array()
    log.withLock { $0.append(.write(offset: offset, bytes: copy)) }
    try base.write(bytes, at: offset)
  }

  package func punch(_ range: Range<UInt64>) throws(ImageError) { try zero(range) }

  package func zero(_ range: Range<UInt64>) throws(ImageError) {
    log.withLock { $0.append(.zero(range)) }
    try base.zero(range)
  }

  package func allocate(_ range: Range<UInt64>) throws(ImageError) {
    if range.upperBound > (try byteCount()) { try resize(to: range.upperBound) }
  }

  package func flush() throws(ImageError) { log.withLock { $0.append(.flush) } }

  package func resize(to byteCount: UInt64) throws(ImageError) {
    log.withLock { $0.append(.resize(byteCount)) }
    try base.resize(to: byteCount)
  }
}
