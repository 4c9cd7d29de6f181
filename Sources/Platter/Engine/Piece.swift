import PlatterCore

/// A piece of a disk for one worker: neighbouring runs that are read into one buffer, or one run that reads as zeros.
struct Piece {
  /// The size that plain copies are cut into (Documentation/Decisions/copying.md).
  static let byteCount: UInt64 = 1 << 20

  /// Its place in the order of pieces, from 0.
  var number: UInt64 = 0
  var source = 0
  /// Guest offset in the source.
  var start: UInt64 = 0
  var byteCount: UInt64 = 0
  /// Where `start` lies in the target.
  var targetOffset: UInt64 = 0
  var readsZero = false
  var runs: [Run] = []

  var range: Range<UInt64> { start..<start + byteCount }

  /// Takes the next piece from `cursor`; false at the end.
  ///
  /// A piece ends at a multiple of `Piece.byteCount`, before a run that reads as zeros, and never inside a packed unit
  /// that fits memory: nobody decodes a unit twice.
  mutating func take(from cursor: inout RunCursor) throws(ImageError) -> Bool {
    runs.removeAll(keepingCapacity: true)
    guard let first = try cursor.peek() else { return false }
    start = first.extent.start
    readsZero = first.readsZero
    if readsZero {
      byteCount = first.extent.byteCount
      cursor.advance(byteCount)
      while let next = try cursor.peek(), next.readsZero {
        byteCount += next.extent.byteCount
        cursor.advance(next.extent.byteCount)
      }
      return true
    }
    let boundary = (start / Self.byteCount + 1) * Self.byteCount
    var position = start
    while position < boundary, let run = try cursor.peek(), !run.readsZero {
      var count = min(run.extent.byteCount, boundary - position)
      if run.extent.kind == .packed, run.extent.unitByteCount <= RunReader.maximumUnitByteCount {
        count = run.extent.byteCount
        // A unit that would make the piece much larger starts one of its own.
        if position > start, position + count > boundary { break }
      }
      runs.append(
        count == run.extent.byteCount ? run : Run(run.extent.clipped(to: position..<position + count), depth: run.depth)
      )
      cursor.advance(count)
      position += count
    }
    byteCount = position - start
    return true
  }
}

extension DiskImage {
  /// Fills `buffer` with the bytes of a piece, which it has room for exactly.
  func read(_ piece: borrowing Piece, into buffer: inout MutableRawSpan, _ scratch: Scratch) throws(ImageError) {
    let reader = RunReader(image: self)
    for run in piece.runs {
      let place = Int(run.extent.start - piece.start)
      var part = buffer._mutatingExtracting(place..<place + Int(run.extent.byteCount))
      try reader.read(run, into: &part, scratch)
    }
  }
}
