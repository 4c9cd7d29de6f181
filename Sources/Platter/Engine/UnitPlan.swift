import PlatterCore

/// Some neighbouring units of a new image and the runs that fill them.
struct UnitBlock {
  /// Its place in the order of blocks, from 0.
  var number: UInt64 = 0
  /// Guest bytes of the target: whole units, the last of the disk perhaps cut.
  var range: Range<UInt64> = 0..<0
  /// What is not zero, in order.
  var segments: [Segment] = []
  /// Bytes of the copy that are done with this block, skipped ones before it included.
  var progress: UInt64 = 0
  /// Blocks of units of one kind: how many of them come before.
  var ordinal: UInt64 = 0
  /// Blocks of packed units: the bytes of each.
  var packedByteCounts: [Int] = []

  struct Segment {
    var source: Int
    var run: Run
    /// Where it lies in the target.
    var offset: UInt64
    var end: UInt64 { offset + run.extent.byteCount }
  }
}

/// Cuts one or several disks, one behind the other, into blocks of whole units of the target, in guest order.
///
/// A unit belongs to one block only, so that whoever has the block may take a place for it.
struct UnitPlan {
  private let sources: [DiskImage]
  private let unit: UInt64
  private let blockByteCount: UInt64
  private let total: UInt64
  /// Runs that read as zeros are left out where the target does so by itself; else they make blocks too.
  private let skipsZeros: Bool
  /// Walks what the target reads where it has nothing of its own; nil where that is zeros.
  private var below: RunCursor?
  private var cursor: RunCursor
  private var source = 0
  private var sourceStart: UInt64 = 0
  private var number: UInt64 = 0
  private var told: UInt64 = 0
  private var position: UInt64 { sourceStart + cursor.position }

  init(_ sources: [DiskImage], unit: UInt64, blockByteCount: UInt64, skipsZeros: Bool, backing: DiskImage?) {
    self.sources = sources
    self.unit = unit
    self.blockByteCount = blockByteCount
    self.skipsZeros = skipsZeros
    below = backing.map { RunCursor($0, 0..<$0.byteCount) }
    total = sources.totalByteCount
    cursor = RunCursor(sources[0], 0..<sources[0].byteCount)
  }

  /// The next run of any source, or nil at the end of the last.
  private mutating func peek() throws(ImageError) -> Run? {
    while true {
      if let run = try cursor.peek() { return run }
      guard source + 1 < sources.count else { return nil }
      sourceStart += sources[source].byteCount
      source += 1
      cursor = RunCursor(sources[source], 0..<sources[source].byteCount)
    }
  }

  /// How many bytes from `position` on need no word where the sources read as zeros: the target does so by itself.
  private mutating func zerosBelow(_ position: UInt64) throws(ImageError) -> UInt64 {
    guard skipsZeros else { return 0 }
    guard var below else { return .max }
    while below.position < position, let run = try below.peek() {
      below.advance(min(run.extent.byteCount, position - below.position))
    }
    let run = try below.peek()
    self.below = below
    guard let run else { return .max }
    return run.readsZero ? run.extent.end - position : 0
  }

  /// The next block; nil at the end.
  mutating func next() throws(ImageError) -> UnitBlock? {
    while let run = try peek(), run.readsZero {
      let zeros = try zerosBelow(position)
      guard zeros > 0 else { break }
      cursor.advance(min(run.extent.byteCount, zeros))
    }
    guard try peek() != nil else { return nil }
    let start = position / unit * unit
    let limit = min((start / blockByteCount + 1) * blockByteCount, total)
    var block = UnitBlock(number: number)
    var end = limit
    while position < end, let run = try peek() {
      let count = min(run.extent.byteCount, end - position)
      if run.readsZero {
        // A long run of zeros ends the block with the unit that it starts in.
        if try zerosBelow(position) > 0 {
          end = min(end, position.dividedRoundingUp(by: unit) * unit)
          guard position < end else { break }
        }
        cursor.advance(min(count, end - position))
      } else {
        let part = run.extent.clipped(to: run.extent.start..<run.extent.start + count)
        block.segments.append(.init(source: source, run: Run(part, depth: run.depth), offset: position))
        cursor.advance(count)
      }
    }
    block.range = start..<end
    block.progress = position - told
    told = position
    number += 1
    return block
  }

  /// Bytes skipped behind the last block.
  mutating func rest() -> UInt64 {
    defer { told = total }
    return total - told
  }
}
