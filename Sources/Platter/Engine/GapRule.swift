import PlatterCore

/// Which units of zeros among data are left out of a new image, where its units are shorter than the gaps that the user
/// wants: those that fill aligned steps which are long enough together, as far as the data around them goes.
///
/// A step is the largest power of two in the shortest gap, so two of them are always enough. Gaps at the ends of the data
/// may be shorter: they may go on behind it. What the source's map calls zero is left out in any length: it is no gap in
/// data. [observed: qemu-img 7.2]
struct GapRule {
  /// The gap that was looked at last.
  struct Gap {
    fileprivate var range: Range<UInt64> = 0..<0
    fileprivate var isAllZero = false
  }

  private let unit: UInt64
  private let shortest: UInt64
  private let step: UInt64

  /// - Parameter byteCount: the shortest gap; 0 for any.
  init(unit: UInt64, byteCount: UInt64) {
    self.unit = unit
    shortest = byteCount
    step = UInt64(Self.step(ofGap: Int(byteCount)))
  }

  /// Length and alignment of the steps that gaps of at least `byteCount` bytes are made of; 0 for 0.
  static func step(ofGap byteCount: Int) -> Int {
    byteCount == 0 ? 0 : 1 << (Int.bitWidth - 1 - byteCount.leadingZeroBitCount)
  }

  /// Whether a unit of zeros may be left out.
  ///
  /// Cost: each gap is looked at once, where units come in order.
  /// - Parameters:
  ///   - range: the unit's place in the block.
  ///   - bytes: the block's bytes.
  func allow(_ range: Range<Int>, of block: UnitBlock, _ bytes: RawSpan, _ last: inout Gap) -> Bool {
    guard shortest > unit else { return true }
    let start = block.range.lowerBound + UInt64(range.lowerBound)
    guard let data = dataRange(start..<start + unit, block) else { return true }
    let stepStart = start / step * step
    let own = data.clamped(to: stepStart..<stepStart + step)
    func isZero(_ part: Range<UInt64>) -> Bool {
      let first = block.range.lowerBound
      return bytes.extracting(Int(part.lowerBound - first)..<Int(part.upperBound - first)).isAllZero
    }
    if last.range != own {
      let isLongEnough = shortest == step || own.lowerBound == data.lowerBound || own.upperBound == data.upperBound
      // Between the ends of the data a step has a neighbour on either side.
      last = Gap(
        range: own,
        isAllZero: isZero(own)
          && (isLongEnough || isZero(data.clamped(to: stepStart - min(step, stepStart)..<stepStart))
            || isZero(data.clamped(to: stepStart + step..<stepStart + 2 * step)))
      )
    }
    return last.isAllZero
  }

  /// The data that a unit lies in, as far as the steps before and behind its own; nil where the source has none there.
  private func dataRange(_ unit: Range<UInt64>, _ block: UnitBlock) -> Range<UInt64>? {
    let segments = block.segments
    // What comes through a pipe is all data.
    guard !segments.isEmpty else { return block.range }
    var first = 0
    var high = segments.count
    while first < high {
      let middle = (first + high) / 2
      if segments[middle].end <= unit.lowerBound { first = middle + 1 } else { high = middle }
    }
    guard first < segments.count, segments[first].offset < unit.upperBound else { return nil }
    var end = first
    let stepStart = unit.lowerBound / step * step
    let farthest = stepStart - min(step, stepStart)..<stepStart + 2 * step
    while first > 0, segments[first].offset > farthest.lowerBound, segments[first - 1].end == segments[first].offset {
      first -= 1
    }
    while end + 1 < segments.count, segments[end].end < farthest.upperBound,
      segments[end + 1].offset == segments[end].end
    {
      end += 1
    }
    return segments[first].offset..<segments[end].end
  }
}
