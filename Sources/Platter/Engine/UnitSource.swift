import PlatterCore
import Synchronization

/// Hands out the units of a copy in blocks, in guest order, to many workers.
protocol UnitSource: Sendable {
  /// The next block; nil at the end.
  func next() throws(ImageError) -> UnitBlock?

  /// Fills `bytes`, whole units from the block's start on, with the block's bytes; what the disk does not have is zero.
  /// A block that turns out to be shorter is cut.
  /// - Returns: false where there is nothing left of it: the disk has ended.
  func read(_ block: inout UnitBlock, into bytes: inout MutableRawSpan, _ scratch: Scratch) throws(ImageError) -> Bool

  /// Bytes skipped behind the last block.
  func rest() -> UInt64

  /// The copy has failed: nobody waits for bytes any longer.
  func abandon()
}

extension UnitSource {
  func rest() -> UInt64 { 0 }
  func abandon() {}
}

extension Turnstile {
  /// Runs `body` on so many workers that share `units`; when one has failed, nobody waits for bytes any longer.
  func run(
    _ workerCount: Int, sharing units: any UnitSource,
    _ body: @escaping @Sendable (_ stop: StopFlag) throws(ImageError) -> Void
  ) throws(ImageError) {
    try run(workerCount) { _, stop throws(ImageError) in
      do throws(ImageError) {
        try body(stop)
      } catch {
        units.abandon()
        throw error
      }
    }
  }
}

extension ConvertSource {
  /// Its units in blocks.
  func units(unit: UInt64, blockByteCount: UInt64, skipsZeros: Bool, backing: DiskImage?) -> any UnitSource {
    switch self {
    case .disks(let disks):
      DiskUnits(disks, unit: unit, blockByteCount: blockByteCount, skipsZeros: skipsZeros, backing: backing)
    case .pipe(let pipe): PipeUnits(pipe, blockByteCount: blockByteCount)
    }
  }
}

/// Units of disks, one behind the other, found by walking their maps.
final class DiskUnits: UnitSource {
  private let sources: [DiskImage]
  private let plan: Mutex<UnitPlan>

  init(_ sources: [DiskImage], unit: UInt64, blockByteCount: UInt64, skipsZeros: Bool, backing: DiskImage?) {
    self.sources = sources
    plan = Mutex(
      UnitPlan(sources, unit: unit, blockByteCount: blockByteCount, skipsZeros: skipsZeros, backing: backing))
  }

  func next() throws(ImageError) -> UnitBlock? {
    try plan.withLock { plan throws(ImageError) in try plan.next() }
  }

  func read(_ block: inout UnitBlock, into bytes: inout MutableRawSpan, _ scratch: Scratch) throws(ImageError) -> Bool {
    var done = 0
    for segment in block.segments {
      let start = Int(segment.offset - block.range.lowerBound)
      let end = start + Int(segment.run.extent.byteCount)
      bytes.zero(done..<start)
      var part = bytes._mutatingExtracting(start..<end)
      try RunReader(image: sources[segment.source]).read(segment.run, into: &part, scratch)
      done = end
    }
    bytes.zero(done..<bytes.byteCount)
    return true
  }

  func rest() -> UInt64 { plan.withLock { $0.rest() } }
}

extension Array where Element == DiskImage {
  /// Bytes of all of them.
  var totalByteCount: UInt64 { reduce(0) { $0 + $1.byteCount } }

  /// The size of blocks: as pieces of a plain copy, or a unit, or one of the sources' own, so that none is decoded twice.
  func blockByteCount(unit: UInt64) -> UInt64 {
    let decoded = compactMap { $0.layers[0].map.allocationUnit }.filter { $0 <= 2 << 20 }.max() ?? 0
    return Swift.max(Piece.byteCount.dividedRoundingUp(by: unit) * unit, unit, decoded)
  }
}
