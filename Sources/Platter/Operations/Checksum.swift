package import PlatterCore
import PlatterCrypto
import Synchronization

/// A digest of the guest content of a disk: the same for every format, chain and allocation that hold the same bytes.
package struct Checksum: Sendable {
  package enum Method: String, Sendable, CaseIterable {
    /// SHA-256 over a list of SHA-256 digests of the 64 KiB units that are not zero. Zeros and holes cost nothing, and all
    /// workers take part:
    ///
    ///     leaf(i) = SHA-256(unit i; the last one as short as it is)
    ///     result  = SHA-256("platter-checksum-1" ‖ disk bytes as u64 ‖ (i as u64 ‖ leaf(i)) for every non-zero unit)
    ///
    /// Numbers are little-endian.
    case tree = "sha256-64k"
    /// SHA-256 of all guest bytes: what `sha256sum` says of the raw disk.
    case plain = "sha256"
  }

  static let unitByteCount: UInt64 = 64 << 10

  package var image: DiskImage
  package var method = Method.tree
  package var workerCount = min(Workers.processorCount, Workers.maximumCount)

  package init(_ image: DiskImage) { self.image = image }

  /// The digest, 32 bytes.
  package func run(progress: ProgressHandler? = nil) throws(ImageError) -> [UInt8] {
    let counter = ProgressCounter(total: image.byteCount, progress)
    switch method {
    case .tree:
      let tree = try TreeDigest(image)
      try Workers.run(workerCount) { _, stop throws(ImageError) in try tree.work(counter, stop) }
      return tree.result()
    case .plain:
      let sink = try DigestSink()
      let engine = CopyEngine([image], sink, workerCount: workerCount, sparseByteCount: 0)
      try engine.run(counter)
      return sink.result()
    }
  }
}

/// Feeds everything in order to one digest.
private final class DigestSink: CopySink {
  private let digest: Mutex<Digest>
  private static let zeros = [UInt8](repeating: 0, count: 1 << 20)

  init() throws(ImageError) { digest = Mutex(try Digest(.sha256)) }

  var isOrdered: Bool { true }
  var takesZeros: Bool { false }

  func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) {
    let copy = bytes.array()
    digest.withLock { $0.update(copy.rawBytes) }
  }

  func zero(_ range: Range<UInt64>) throws(ImageError) {
    var left = range.upperBound - range.lowerBound
    while left > 0 {
      let count = Int(min(left, UInt64(Self.zeros.count)))
      digest.withLock { $0.update(Self.zeros.rawBytes.extracting(0..<count)) }
      left -= UInt64(count)
    }
  }

  func result() -> [UInt8] { digest.withLock { $0.finish() } }
}

/// Digests of units, computed in any order, put in order at the end of each stretch.
///
/// Invariant: leaves are folded into `outer` strictly by index; those that came early wait in `waiting`, which holds no
/// more than the workers have in flight.
private final class TreeDigest: Sendable {
  private struct Plan {
    var cursor: RunCursor
    var number: UInt64 = 0
  }

  private struct Fold: ~Copyable, Sendable {
    var outer: Digest
    var nextNumber: UInt64 = 0
    var isOver = false
  }

  private struct Stretch {
    var number: UInt64
    var range: Range<UInt64>
  }

  private let image: DiskImage
  private let plan: Mutex<Plan>
  private let fold: Monitor<Fold>

  init(_ image: DiskImage) throws(ImageError) {
    self.image = image
    plan = Mutex(Plan(cursor: RunCursor(image, 0..<image.byteCount)))
    var start = Fold(outer: try Digest(.sha256))
    start.outer.update(Array("platter-checksum-1".utf8).rawBytes)
    start.outer.update(Self.littleEndian(image.byteCount).rawBytes)
    fold = Monitor(start)
  }

  func result() -> [UInt8] { fold.withLock { $0.outer.finish() } }

  func work(_ progress: ProgressCounter, _ stop: StopFlag) throws(ImageError) {
    do throws(ImageError) {
      try digestStretches(progress, stop)
    } catch {
      fold.withLock { $0.isOver = true }
      throw error
    }
  }

  private func digestStretches(_ progress: ProgressCounter, _ stop: StopFlag) throws(ImageError) {
    let scratch = Scratch()
    var buffer = AlignedBuffer(byteCount: Int(Piece.byteCount))
    while !stop.isRaised, let stretch = try plan.withLock({ plan throws(ImageError) in try next(&plan) }) {
      let count = Int(stretch.range.upperBound - stretch.range.lowerBound)
      try buffer.withMutableBytes { bytes throws(ImageError) in
        var part = bytes._mutatingExtracting(0..<count)
        try image.read(into: &part, at: stretch.range.lowerBound, scratch)
      }
      let leaves = try Self.leaves(buffer.bytes.extracting(0..<count), from: stretch.range.lowerBound)
      let goesOn = fold.wait(until: { $0.nextNumber == stretch.number || $0.isOver }) { fold in
        guard !fold.isOver else { return false }
        fold.outer.update(leaves.rawBytes)
        fold.nextNumber += 1
        return true
      }
      guard goesOn else { return }
      try progress.add(UInt64(count))
    }
  }

  /// The next stretch of whole units that holds data, no longer than a piece.
  private func next(_ plan: inout Plan) throws(ImageError) -> Stretch? {
    while let run = try plan.cursor.peek(), run.readsZero { plan.cursor.advance(run.extent.byteCount) }
    guard let run = try plan.cursor.peek() else { return nil }
    let unit = Checksum.unitByteCount
    let start = run.extent.start / unit * unit
    let limit = min((start / Piece.byteCount + 1) * Piece.byteCount, image.byteCount)
    var position = run.extent.start
    // Data up to the limit, and no further than the unit in which the last data run ends.
    while position < limit, let next = try plan.cursor.peek() {
      if next.readsZero {
        let unitEnd = min((position + unit - 1) / unit * unit, limit)
        guard next.extent.start < unitEnd else { break }
        let count = min(next.extent.end, unitEnd) - next.extent.start
        plan.cursor.advance(count)
        position += count
      } else {
        let count = min(next.extent.end, limit) - next.extent.start
        plan.cursor.advance(count)
        position += count
      }
    }
    let number = plan.number
    plan.number += 1
    return Stretch(number: number, range: start..<position)
  }

  private static func leaves(_ bytes: RawSpan, from offset: UInt64) throws(ImageError) -> [UInt8] {
    var leaves: [UInt8] = []
    var position = 0
    while position < bytes.byteCount {
      let end = min(position + Int(Checksum.unitByteCount), bytes.byteCount)
      let unit = bytes.extracting(position..<end)
      if !unit.isAllZero {
        var digest = try Digest(.sha256)
        digest.update(unit)
        leaves += littleEndian((offset + UInt64(position)) / Checksum.unitByteCount)
        leaves += digest.finish()
      }
      position = end
    }
    return leaves
  }

  private static func littleEndian(_ value: UInt64) -> [UInt8] {
    (0..<8).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
  }
}
