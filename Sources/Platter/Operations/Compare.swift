package import PlatterCore
import Synchronization

/// Compares the guest content of two disks on all workers.
package struct Compare: Sendable {
  package enum Outcome: Sendable, Equatable {
    case identical
    /// The first guest offset at which they differ.
    case contentDiffers(at: UInt64)
    /// Strict only: the first guest offset at which one has space and the other has not, or the like.
    case statusDiffers(at: UInt64)
    /// Strict only.
    case sizeDiffers
  }

  package enum Side: Sendable { case first, second }

  /// What went wrong while comparing, and where.
  package struct Failure: Error, Sendable {
    package enum Stage: Sendable { case status, read }
    package var stage: Stage
    package var side: Side
    package var error: ImageError
  }

  package var first: DiskImage
  package var second: DiskImage
  /// Sizes and allocation must agree too.
  package var isStrict = false
  package var workerCount = min(Workers.processorCount, Workers.maximumCount)

  package init(_ first: DiskImage, _ second: DiskImage) {
    self.first = first
    self.second = second
  }

  /// The disks' sizes differ: without `isStrict` the longer one's tail must be zero.
  package var sizesDiffer: Bool { first.byteCount != second.byteCount }

  /// Compares everything up to the first difference.
  package func run(progress: ProgressHandler? = nil) throws(ImageError) -> Outcome {
    if isStrict, sizesDiffer { return .sizeDiffers }
    let total = max(first.byteCount, second.byteCount)
    let engine = CompareEngine(first, second, isStrict: isStrict)
    let counter = ProgressCounter(total: total, progress)
    try Workers.run(workerCount) { _, stop throws(ImageError) in try engine.work(counter, stop) }
    return engine.outcome
  }
}

/// The planner walks both maps side by side and hands out pieces in which at least one side has data; workers read and
/// compare them. The smallest offset of a difference wins, and nobody starts a piece behind it.
private final class CompareEngine: Sendable {
  private struct Plan {
    var first: RunCursor
    var second: RunCursor
  }

  /// A run of equal length on both sides; nil where a side has ended.
  private struct Pair {
    var first: Run?
    var second: Run?
    var range: Range<UInt64>
  }

  /// Two buffers of this size fit the processor's cache.
  private static let stepByteCount: UInt64 = 256 << 10

  private let images: (first: DiskImage, second: DiskImage)
  private let isStrict: Bool
  private let total: UInt64
  private let plan: Mutex<Plan>
  private let firstDifference = Mutex<(offset: UInt64, isStatus: Bool)?>(nil)

  init(_ first: DiskImage, _ second: DiskImage, isStrict: Bool) {
    images = (first, second)
    self.isStrict = isStrict
    total = max(first.byteCount, second.byteCount)
    plan = Mutex(Plan(first: RunCursor(first, 0..<first.byteCount), second: RunCursor(second, 0..<second.byteCount)))
  }

  var outcome: Compare.Outcome {
    guard let difference = firstDifference.withLock({ $0 }) else { return .identical }
    return difference.isStatus ? .statusDiffers(at: difference.offset) : .contentDiffers(at: difference.offset)
  }

  private func note(_ offset: UInt64, isStatus: Bool = false) {
    firstDifference.withLock { present in
      if let known = present, known.offset <= offset { return }
      present = (offset, isStatus)
    }
  }

  private func isMoot(_ offset: UInt64) -> Bool {
    firstDifference.withLock { $0.map { $0.offset <= offset } ?? false }
  }

  func work(_ progress: ProgressCounter, _ stop: StopFlag) throws(ImageError) {
    let scratch = Scratch()
    var one = AlignedBuffer(byteCount: Int(Self.stepByteCount))
    var other = AlignedBuffer(byteCount: Int(Self.stepByteCount))
    while !stop.isRaised, let pair = try plan.withLock({ plan throws(ImageError) in try next(&plan) }) {
      guard !isMoot(pair.range.lowerBound) else { return }
      if isStrict, Self.status(pair.first, images.first) != Self.status(pair.second, images.second) {
        note(pair.range.lowerBound, isStatus: true)
        return
      }
      let isFirstZero = pair.first?.readsZero ?? true
      let isSecondZero = pair.second?.readsZero ?? true
      let count = Int(truncatingIfNeeded: pair.range.upperBound - pair.range.lowerBound)
      switch (isFirstZero, isSecondZero) {
      case (true, true): break
      case (false, true): try compareWithZero(pair.first, images.first, count, &one, scratch)
      case (true, false): try compareWithZero(pair.second, images.second, count, &one, scratch)
      case (false, false): try compare(pair, count, &one, &other, scratch)
      }
      try progress.add(pair.range.upperBound - pair.range.lowerBound)
    }
  }

  /// The next run of equal kind on both sides, cut so that it fits a buffer where something must be read.
  private func next(_ plan: inout Plan) throws(ImageError) -> Pair? {
    let position = max(plan.first.position, plan.second.position)
    let first = try plan.first.peek()
    let second = try plan.second.peek()
    guard first != nil || second != nil else { return nil }
    var end = min(first?.extent.end ?? total, second?.extent.end ?? total)
    let readsZero = (first?.readsZero ?? true) && (second?.readsZero ?? true)
    if !readsZero { end = min(end, (position / Self.stepByteCount + 1) * Self.stepByteCount) }
    let range = position..<end
    if first != nil { plan.first.advance(end - position) }
    if second != nil { plan.second.advance(end - position) }
    return Pair(first: first.map { Self.clip($0, range) }, second: second.map { Self.clip($0, range) }, range: range)
  }

  private static func clip(_ run: Run, _ range: Range<UInt64>) -> Run {
    Run(run.extent.clipped(to: range), depth: run.depth)
  }

  /// What strict comparison looks at: whether the bytes are data, zero, there at all, and at a place of their own.
  private static func status(_ run: Run?, _ image: DiskImage) -> [Bool] {
    guard let run else { return [false, true, false, false] }
    let status = BlockStatus(run, in: image.layers[Int(run.depth)].map)
    return [status.isData, status.isZero, status.isPresent, status.hasOffset]
  }

  private func compareWithZero(
    _ run: Run?, _ image: DiskImage, _ count: Int, _ buffer: inout AlignedBuffer, _ scratch: Scratch
  ) throws(ImageError) {
    guard let run else { return }
    try Self.fill(run, image, count, &buffer, scratch)
    let bytes = buffer.bytes.extracting(0..<count)
    guard !bytes.isAllZero else { return }
    var index = 0
    while bytes[index] == 0 { index += 1 }
    note(run.extent.start + UInt64(index))
  }

  private func compare(
    _ pair: Pair, _ count: Int, _ one: inout AlignedBuffer, _ other: inout AlignedBuffer, _ scratch: Scratch
  ) throws(ImageError) {
    guard let first = pair.first, let second = pair.second else { return }
    try Self.fill(first, images.first, count, &one, scratch)
    try Self.fill(second, images.second, count, &other, scratch)
    if let index = one.bytes.extracting(0..<count).firstDifference(from: other.bytes.extracting(0..<count)) {
      note(pair.range.lowerBound + UInt64(index))
    }
  }

  private static func fill(
    _ run: Run, _ image: DiskImage, _ count: Int, _ buffer: inout AlignedBuffer, _ scratch: Scratch
  ) throws(ImageError) {
    let reader = RunReader(image: image)
    try buffer.withMutableBytes { bytes throws(ImageError) in
      var part = bytes._mutatingExtracting(0..<count)
      try reader.read(run, into: &part, scratch)
    }
  }
}
