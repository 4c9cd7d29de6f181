import PlatterCore
import Synchronization

/// Takes the bytes of a copy. Called from many threads, for different ranges.
protocol CopySink: Sendable {
  /// Whether pieces must arrive in guest order.
  var isOrdered: Bool { get }
  /// Whether parts of a piece that are zero may be left out of `write` and told to `zero` instead.
  var takesZeros: Bool { get }
  func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError)
  func zero(_ range: Range<UInt64>) throws(ImageError)
}

/// The parallel copy: a planner that walks the maps and hands out pieces in guest order, and workers that read, decode,
/// look for zeros and write.
///
/// Invariant: the planner's lock is held while maps are asked, never while data is read or written. In ordered mode a
/// worker waits with its piece until all before it are written; since pieces are handed out in order, the one whose turn it
/// is never waits.
final class CopyEngine: Sendable {
  private struct Plan {
    var cursor: RunCursor
    var source = 0
    var sourceOffset: UInt64 = 0
    var number: UInt64 = 0
  }

  private let sources: [DiskImage]
  private let sink: any CopySink
  private let workerCount: Int
  private let sparseByteCount: Int
  private let plan: Mutex<Plan>
  private let turnstile = Turnstile()

  init(_ sources: [DiskImage], _ sink: any CopySink, workerCount: Int, sparseByteCount: Int) {
    precondition(!sources.isEmpty)
    self.sources = sources
    self.sink = sink
    self.workerCount = workerCount
    self.sparseByteCount = sparseByteCount
    plan = Mutex(Plan(cursor: RunCursor(sources[0], 0..<sources[0].byteCount)))
  }

  func run(_ progress: ProgressCounter) throws(ImageError) {
    try turnstile.run(workerCount) { [self] _, stop throws(ImageError) in try work(progress, stop) }
  }

  private func work(_ progress: ProgressCounter, _ stop: StopFlag) throws(ImageError) {
    let scratch = Scratch()
    var buffer = AlignedBuffer(byteCount: Int(Piece.byteCount))
    var piece = Piece()
    while !stop.isRaised, try next(&piece) {
      if piece.readsZero {
        guard try waitForTurn(piece.number) else { return }
        try sink.zero(piece.targetOffset..<piece.targetOffset + piece.byteCount)
      } else {
        let count = Int(piece.byteCount)
        if buffer.byteCount < count { buffer = AlignedBuffer(byteCount: (count + 0xffff) & ~0xffff) }
        let source = sources[piece.source]
        try buffer.withMutableBytes { bytes throws(ImageError) in
          var part = bytes._mutatingExtracting(0..<count)
          try source.read(piece, into: &part, scratch)
        }
        guard try waitForTurn(piece.number) else { return }
        try sink.put(buffer.bytes.extracting(0..<count), at: piece.targetOffset, sparse: sparseByteCount)
      }
      if sink.isOrdered { turnstile.pass() }
      try progress.add(piece.byteCount)
    }
  }

  /// The next piece in guest order over all sources; false when there is none.
  private func next(_ piece: inout Piece) throws(ImageError) -> Bool {
    // Moved in and out, because a lock's closure cannot capture an inout value.
    var taken = piece
    let isThere = try plan.withLock { plan throws(ImageError) in
      while try !taken.take(from: &plan.cursor) {
        guard plan.source + 1 < sources.count else { return false }
        plan.sourceOffset += sources[plan.source].byteCount
        plan.source += 1
        plan.cursor = RunCursor(sources[plan.source], 0..<sources[plan.source].byteCount)
      }
      taken.number = plan.number
      taken.source = plan.source
      taken.targetOffset = plan.sourceOffset + taken.start
      plan.number += 1
      return true
    }
    piece = taken
    return isThere
  }

  /// Waits until every piece before this one is written, where order matters; false when the copy has failed.
  private func waitForTurn(_ number: UInt64) throws(ImageError) -> Bool {
    guard sink.isOrdered else { return true }
    return turnstile.wait(for: number)
  }
}

extension CopySink {
  /// Writes a piece, leaving out the parts that are zero.
  /// - Parameter sparseByteCount: shortest of such parts, which consist of whole aligned steps (`GapRule.step`); shorter
  ///   ones count at the ends of the piece, where they may go on. 0 leaves none out.
  func put(_ bytes: RawSpan, at offset: UInt64, sparse sparseByteCount: Int) throws(ImageError) {
    guard takesZeros, sparseByteCount > 0 else { return try write(bytes, at: offset) }
    let step = GapRule.step(ofGap: sparseByteCount)
    let count = bytes.byteCount
    var dataStart = 0
    var position = 0
    while position < count {
      // Steps are aligned in the target, so that the holes are.
      let misalignment = Int((offset + UInt64(position)) % UInt64(step))
      let end = min(position + step - misalignment, count)
      guard bytes.extracting(position..<end).isAllZero else {
        position = end
        continue
      }
      var zeroEnd = end
      while zeroEnd < count {
        let next = min(zeroEnd + step, count)
        guard bytes.extracting(zeroEnd..<next).isAllZero else { break }
        zeroEnd = next
      }
      if zeroEnd - position >= sparseByteCount || zeroEnd == count || position == 0 {
        if dataStart < position {
          try write(bytes.extracting(dataStart..<position), at: offset + UInt64(dataStart))
        }
        try zero(offset + UInt64(position)..<offset + UInt64(zeroEnd))
        dataStart = zeroEnd
      }
      position = zeroEnd
    }
    if dataStart < count { try write(bytes.extracting(dataStart..<count), at: offset + UInt64(dataStart)) }
  }
}

/// Writes a raw disk into a store.
final class RawSink: CopySink {
  private let store: any ByteStore
  /// The store reads as zeros where nothing was written.
  private let isZero: Bool
  private let isSparse: Bool
  init(_ store: any ByteStore, isZero: Bool, sparse: Bool) {
    self.store = store
    self.isZero = isZero
    isSparse = sparse
  }

  var isOrdered: Bool { false }
  var takesZeros: Bool { isSparse }

  func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) { try store.write(bytes, at: offset) }

  func zero(_ range: Range<UInt64>) throws(ImageError) {
    if isSparse {
      if !isZero { try store.punch(range) }
    } else {
      try store.zero(range)
    }
  }
}

/// Writes everything to somebody who cannot seek.
final class StreamSink: CopySink {
  private let stream: OutputStream

  init(_ stream: OutputStream) { self.stream = stream }

  var isOrdered: Bool { true }
  var takesZeros: Bool { false }

  func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) { try stream.write(bytes) }

  func zero(_ range: Range<UInt64>) throws(ImageError) {
    try stream.writeZeros(range.upperBound - range.lowerBound)
  }
}
