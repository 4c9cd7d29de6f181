package import PlatterCore
import Synchronization
import SystemPackage

/// A store that fails on demand, and counts what is asked of it.
package final class FaultyStore: StoreDecorator {
  package enum Fault: Sendable, Hashable {
    /// The nth read (the first is 1) fails with an I/O error, as do all after it.
    case failRead(nth: Int)
    /// The nth write, punch, zeroing, allocation or resize fails, as do all after it.
    case failWrite(nth: Int)
    /// The nth flush fails, as do all after it.
    case failFlush(nth: Int)
    /// Only the nth read, write or flush fails: whoever goes on afterwards finds a disk that works again.
    case failOnce(FaultyStore.Request, nth: Int)
    /// From the nth write on there is no room: what was never written before cannot be, after a part of it was.
    case fillUp(nth: Int)
    /// Reads end at this byte although the length says more: a file cut by somebody meanwhile.
    case endReads(at: UInt64)
    /// Says "data" of holes too, as a file system without holes does.
    case hideHoles
  }

  package enum Request: Sendable, Hashable, CaseIterable { case read, write, flush }

  package struct Counts: Sendable, Equatable {
    package var reads = 0
    package var bytesRead: UInt64 = 0
    package var writes = 0
    package var bytesWritten: UInt64 = 0
    package var flushes = 0
    package var resizes = 0
    /// How often it was told that a flush will come.
    package var flushesExpected = 0
    package var segments = 0
    /// Largest single read in bytes.
    package var largestRead = 0
  }

  package let base: any ByteStore
  private let faults: Set<Fault>
  private let state = Mutex(Counts())

  package init(_ base: any ByteStore, _ faults: Fault...) {
    self.base = base
    self.faults = Set(faults)
  }

  package var counts: Counts { state.withLock { $0 } }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) throws(ImageError) -> Int {
    let wanted = buffer.byteCount
    let number = state.withLock { counts in
      counts.reads += 1
      counts.largestRead = max(counts.largestRead, wanted)
      return counts.reads
    }
    var end = UInt64.max
    for fault in faults {
      if case .failRead(let nth) = fault, number >= nth {
        throw failure("cannot read \(wanted) bytes at \(offset.hex)")
      }
      if fault == .failOnce(.read, nth: number) { throw failure("cannot read \(wanted) bytes at \(offset.hex)") }
      if case .endReads(let limit) = fault { end = min(end, limit) }
    }
    guard offset < end else { return 0 }
    let allowed = Int(min(UInt64(wanted), end - offset))
    let got = try buffer.withPart(0..<allowed) { part throws(ImageError) in try base.read(into: &part, at: offset) }
    state.withLock { $0.bytesRead += UInt64(got) }
    return got
  }

  package func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) {
    let count = UInt64(bytes.byteCount)
    let number = try countWrite(count, "cannot write \(count) bytes at \(offset.hex)")
    let room = try room(for: offset..<offset + count, number)
    guard room < count else { return try base.write(bytes, at: offset) }
    try base.write(bytes.extracting(0..<Int(room)), at: offset)
    throw ImageError.io("cannot write \(count) bytes at \(offset.hex)", .noSpace, file: name)
  }

  package func segment(at offset: UInt64, limit: UInt64) throws(ImageError) -> StoreSegment {
    state.withLock { $0.segments += 1 }
    if faults.contains(.hideHoles) {
      return StoreSegment(isHole: false, byteCount: min(limit, try base.byteCount() - offset))
    }
    return try base.segment(at: offset, limit: limit)
  }

  package func punch(_ range: Range<UInt64>) throws(ImageError) {
    _ = try countWrite(0, "cannot punch \(range)")
    try base.punch(range)
  }

  package func zero(_ range: Range<UInt64>) throws(ImageError) {
    _ = try countWrite(0, "cannot zero \(range)")
    try base.zero(range)
  }

  package func allocate(_ range: Range<UInt64>) throws(ImageError) {
    let number = try countWrite(0, "cannot allocate \(range)")
    guard try room(for: range, number) == range.upperBound - range.lowerBound else {
      throw ImageError.io("cannot allocate \(range)", .noSpace, file: name)
    }
    try base.allocate(range)
  }

  package func expectFlush() {
    state.withLock { $0.flushesExpected += 1 }
    base.expectFlush()
  }

  package func flush() throws(ImageError) {
    let number = state.withLock { counts in
      counts.flushes += 1
      return counts.flushes
    }
    for case .failFlush(let nth) in faults where number >= nth { throw failure("cannot flush") }
    if faults.contains(.failOnce(.flush, nth: number)) { throw failure("cannot flush") }
    try base.flush()
  }

  package func resize(to byteCount: UInt64) throws(ImageError) {
    _ = try countWrite(0, "cannot resize to \(byteCount)")
    state.withLock { $0.resizes += 1 }
    try base.resize(to: byteCount)
  }

  /// Bytes of a write that find room: up to the first that was never written, once the disk is full.
  private func room(for range: Range<UInt64>, _ number: Int) throws(ImageError) -> UInt64 {
    let isFull = faults.contains { if case .fillUp(let nth) = $0 { number >= nth } else { false } }
    var position = range.lowerBound
    while isFull, position < range.upperBound {
      guard position < (try base.byteCount()) else { return position - range.lowerBound }
      let segment = try base.segment(at: position, limit: range.upperBound - position)
      if segment.isHole { return position - range.lowerBound }
      position += segment.byteCount
    }
    return range.upperBound - range.lowerBound
  }

  private func countWrite(_ byteCount: UInt64, _ what: String) throws(ImageError) -> Int {
    let number = state.withLock { counts in
      counts.writes += 1
      counts.bytesWritten += byteCount
      return counts.writes
    }
    for case .failWrite(let nth) in faults where number >= nth { throw failure(what) }
    if faults.contains(.failOnce(.write, nth: number)) { throw failure(what) }
    return number
  }

  private func failure(_ what: String) -> ImageError { ImageError.io(what, .ioError, file: name) }
}
