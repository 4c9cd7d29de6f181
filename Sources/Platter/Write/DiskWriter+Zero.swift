package import PlatterCore

extension DiskWriter {
  /// Makes guest bytes read as zeros, whatever is below the image now or later.
  /// - Parameter mayUnmap: space may be given back.
  package func zero(_ range: Range<UInt64>, mayUnmap: Bool) throws(ImageError) {
    try checkRange(range.upperBound - range.lowerBound, range.lowerBound)
    guard !range.isEmpty else { return }
    try prepare(toChange: range.upperBound)
    try makeZero(range, mayUnmap: mayUnmap)
    try finishRequest()
  }

  /// `zero` without the start and the end of a request.
  func makeZero(_ range: Range<UInt64>, mayUnmap: Bool) throws(ImageError) {
    try map.changed(range)
    let result: Release = mayUnmap ? .zero : .zeroKeepingSpace
    let whole = wholeUnits(of: range)
    try zeroPart(range.lowerBound..<min(whole.lowerBound, range.upperBound), as: result)
    try release(whole, as: result) { (step) throws(ImageError) in try writeStandingZeros(step) }
    if whole.upperBound < range.upperBound {
      try zeroPart(max(whole.upperBound, range.lowerBound)..<range.upperBound, as: result)
    }
  }

  /// Zeros in a part of one unit. Where the rest of it reads as zeros too, the unit can say so as a whole and takes no
  /// space.
  private func zeroPart(_ range: Range<UInt64>, as result: Release) throws(ImageError) {
    guard !range.isEmpty else { return }
    let start = range.lowerBound / map.mapUnit * map.mapUnit
    let unit = start..<min(start + map.mapUnit, map.byteCount)
    let isReleased = try exclusively(unit) { () throws(ImageError) in
      try checkRange(range.upperBound - range.lowerBound, range.lowerBound)
      try map.changed(range)
      guard try readsZero(start..<range.lowerBound), try readsZero(range.upperBound..<unit.upperBound),
        try !hasBytes(unit)
      else { return false }
      return try map.release(unit, as: result) == .done
    }
    if !isReleased { try writeStandingZeros(range) }
  }

  /// Whether a range reads as zeros, told from the tables of the chain alone.
  private func readsZero(_ range: Range<UInt64>) throws(ImageError) -> Bool {
    guard !range.isEmpty else { return true }
    var cursor = RunCursor(image, range, refinesHoles: false)
    while let run = try cursor.peek() {
      guard run.readsZero else { return false }
      cursor.advance(run.extent.byteCount)
    }
    return true
  }

  /// Whether the image itself holds bytes of a range.
  private func hasBytes(_ range: Range<UInt64>) throws(ImageError) -> Bool {
    var position = range.lowerBound
    var extents: [Extent] = []
    while position < range.upperBound {
      extents.removeAll(keepingCapacity: true)
      position = try map.map(position..<range.upperBound, limit: 64, into: &extents)
      guard extents.allSatisfy({ $0.kind == .zero || $0.kind == .absent }) else { return true }
    }
    return false
  }

  /// Writes zeros as data. What reads as zeros already is left alone only where no other image could ever show through.
  private func writeStandingZeros(_ range: Range<UInt64>) throws(ImageError) {
    if image.layers.count > 1 { try writeOwnZeros(range) } else { try writeZeros(range) }
  }

  /// Writes zeros as data everywhere in a range.
  func writeOwnZeros(_ range: Range<UInt64>) throws(ImageError) {
    guard !range.isEmpty else { return }
    let zeros = Self.zeros(range)
    var position = range.lowerBound
    while position < range.upperBound {
      let count = Int(min(UInt64(zeros.count), range.upperBound - position))
      try writeThrough(zeros.rawBytes.extracting(0..<count), at: position)
      if map.mustPublishSoon { try publish() }
      position += UInt64(count)
    }
  }

  static func zeros(_ range: Range<UInt64>) -> [UInt8] {
    [UInt8](repeating: 0, count: Int(min(maximumStepByteCount, range.upperBound - range.lowerBound)))
  }

  /// Writes zeros as data, leaving alone what reads as zeros already.
  func writeZeros(_ range: Range<UInt64>) throws(ImageError) {
    guard !range.isEmpty else { return }
    let zeros = Self.zeros(range)
    var walk = ChainWalk(image.layers)
    var position = range.lowerBound
    var runs: [Run] = []
    while position < range.upperBound {
      runs.removeAll(keepingCapacity: true)
      position = try walk.runs(position..<range.upperBound, limit: 32, into: &runs)
      for run in runs where !run.readsZero {
        var offset = run.extent.start
        while offset < run.extent.end {
          let count = Int(min(UInt64(zeros.count), run.extent.end - offset))
          try writeThrough(zeros.rawBytes.extracting(0..<count), at: offset)
          offset += UInt64(count)
        }
      }
    }
  }
}
