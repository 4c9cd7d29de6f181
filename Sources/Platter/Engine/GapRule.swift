import PlatterCore

/// Which units of zeros among data are left out of a new image, where its units are shorter than the gaps that the user
/// wants: those that fill an aligned gap, as far as the data around it goes.
///
/// What the source's map calls zero is left out in any length: it is no gap in data. [observed: qemu-img 7.2]
struct GapRule {
  /// The gap that was looked at last.
  struct Gap {
    fileprivate var range = 0..<0
    fileprivate var isAllZero = false
  }

  private let unit: UInt64
  private let byteCount: UInt64

  /// - Parameter byteCount: a power of two, or 0.
  init(unit: UInt64, byteCount: UInt64) {
    self.unit = unit
    self.byteCount = byteCount
  }

  /// Whether a unit of zeros may be left out.
  ///
  /// Cost: each gap is looked at once, where units come in order.
  /// - Parameters:
  ///   - range: the unit's place in the block.
  ///   - bytes: the block's bytes.
  func allow(_ range: Range<Int>, of block: UnitBlock, _ bytes: RawSpan, _ last: inout Gap) -> Bool {
    guard byteCount > unit else { return true }
    let blockStart = block.range.lowerBound
    let start = blockStart + UInt64(range.lowerBound)
    guard let data = dataRange(start..<start + unit, block) else { return true }
    let gapStart = start / byteCount * byteCount
    let gap = max(gapStart, data.lowerBound)..<min(gapStart + byteCount, data.upperBound)
    let place = Int(gap.lowerBound - blockStart)..<Int(gap.upperBound - blockStart)
    if last.range != place { last = Gap(range: place, isAllZero: bytes.extracting(place).isAllZero) }
    return last.isAllZero
  }

  /// The data that a unit lies in, its neighbours in the same gap included; nil where the source has none there.
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
    let gapStart = unit.lowerBound / byteCount * byteCount
    while first > 0, segments[first].offset > gapStart, segments[first - 1].end == segments[first].offset { first -= 1 }
    while end + 1 < segments.count, segments[end].end < gapStart + byteCount,
      segments[end + 1].offset == segments[end].end
    {
      end += 1
    }
    return segments[first].offset..<segments[end].end
  }
}
