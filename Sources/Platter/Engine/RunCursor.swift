import PlatterCore

/// Walks the runs of a disk from front to back, a batch of the map at a time.
struct RunCursor {
  /// Runs fetched at once: enough that a call's cost vanishes, little enough for any memory.
  private static let batchCount = 256

  private let end: UInt64
  private var walk: ChainWalk
  private var batch: [Run] = []
  private var index = 0
  /// Guest offset of the first byte not yet taken.
  private(set) var position: UInt64
  private var mapped: UInt64

  init(_ image: DiskImage, _ range: Range<UInt64>, refinesHoles: Bool = true) {
    walk = ChainWalk(image.layers, refinesHoles: refinesHoles, salvage: image.salvage)
    position = range.lowerBound
    mapped = range.lowerBound
    end = range.upperBound
  }

  /// The run at `position`, or nil at the end.
  mutating func peek() throws(ImageError) -> Run? {
    guard position < end else { return nil }
    if index == batch.count {
      batch.removeAll(keepingCapacity: true)
      index = 0
      mapped = try walk.runs(mapped..<end, limit: Self.batchCount, into: &batch)
    }
    let run = batch[index]
    guard run.extent.start < position else { return run }
    return Run(run.extent.clipped(to: position..<run.extent.end), depth: run.depth)
  }

  /// Moves on by `byteCount` bytes, no further than the end of the run at `position`.
  mutating func advance(_ byteCount: UInt64) {
    position += byteCount
    if position == batch[index].extent.end { index += 1 }
  }

  /// Moves on to a guest offset.
  mutating func advance(to offset: UInt64) throws(ImageError) {
    while let run = try peek(), run.extent.start < offset { advance(min(offset, run.extent.end) - run.extent.start) }
  }
}
