package import PlatterCore
import Synchronization

extension DiskWriter {
  /// Changes the disk's size. New bytes read as zeros, where the format can say so. On stable storage when it returns;
  /// until then requests for new bytes are refused.
  package func resize(to byteCount: UInt64) throws(ImageError) {
    try resizing.withLock { _ throws(ImageError) in
      defer { condition.withLock { $0.usableEnd = .max } }
      try changeSize(to: byteCount)
    }
  }

  private func changeSize(to byteCount: UInt64) throws(ImageError) {
    try prepare()
    try map.checkResize(to: byteCount)
    let old = map.byteCount
    if byteCount < old {
      // What is left of the last unit would be seen again when the disk grows.
      let unitEnd = byteCount.dividedRoundingUp(by: unit) * unit
      try writeZeros(byteCount..<max(byteCount, min(old, unitEnd)))
    }
    // What is written before new bytes are cleared would be cleared too.
    if byteCount > old { condition.withLock { $0.usableEnd = old } }
    try exclusively(0..<UInt64.max) { () throws(ImageError) in
      try endingWithFailure { () throws(ImageError) in try map.resize(to: byteCount, isUnsafe ? {} : barrier) }
    }
    image.units.removeAll()
    if byteCount > old, map.growsWithZeros {
      // The new size must not reach the disk without this.
      try endingWithFailure { () throws(ImageError) in try clear(old..<byteCount) }
    }
    try flush()
  }

  /// Runs `body` on the map while no other request is under way: for what a format does to the whole image.
  package func restructure<R>(_ body: (any WritableMap, Barrier) throws(ImageError) -> R) throws(ImageError) -> R {
    try prepare()
    let result = try exclusively(0..<UInt64.max) { () throws(ImageError) in
      try endingWithFailure { () throws(ImageError) in try body(map, isUnsafe ? {} : barrier) }
    }
    image.units.removeAll()
    try finishRequest()
    return result
  }

  /// Runs a step after whose I/O error nobody knows what is on disk: the writer then takes no more requests. Any other
  /// error is a refusal, which changes nothing.
  func endingWithFailure<R>(_ body: () throws(ImageError) -> R) throws(ImageError) -> R {
    do throws(ImageError) {
      return try body()
    } catch {
      if error.code == .io { condition.withLock { $0.hasFailed = true } }
      throw error
    }
  }

  /// Makes new bytes read as zeros where old content or a backing image shows.
  private func clear(_ range: Range<UInt64>) throws(ImageError) {
    var walk = ChainWalk(image.layers)
    var position = range.lowerBound
    while position < range.upperBound {
      var runs: [Run] = []
      position = try walk.runs(position..<range.upperBound, limit: 32, into: &runs)
      for run in runs where !run.readsZero { try makeZero(run.extent.start..<run.extent.end, mayUnmap: true) }
    }
  }

  /// Fills `buffer` with guest bytes, as `DiskImage.read` does, while others write: space that is read cannot become
  /// something else meanwhile.
  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) throws(ImageError) {
    guard let end = offset.adding(UInt64(buffer.byteCount)), end > offset else { return }
    let hold = ranges.acquire(offset..<end, exclusive: false)
    defer { ranges.release(hold) }
    try image.read(into: &buffer, at: offset)
  }

  /// Names another backing file; `RebaseableMap` says what that means. The writer is to be closed afterwards.
  /// - Throws: `.unsupported` where the format has no such name.
  package func setBacking(_ name: [UInt8]?, format: String?) throws(ImageError) {
    guard let map = map as? any RebaseableMap else {
      throw ImageError(.unsupported, "the \(image.formatName) format names no backing file", file: image.name)
    }
    try prepare()
    try exclusively(0..<UInt64.max) { () throws(ImageError) in
      try endingWithFailure { () throws(ImageError) in
        try map.setBacking(name, format: format, isUnsafe ? {} : barrier)
      }
    }
  }

  /// Makes zeros the image's own, whatever is below it: where it reads as zeros already, too.
  func ownZeros(_ range: Range<UInt64>) throws(ImageError) {
    try prepare()
    try map.changed(range)
    let whole = wholeUnits(of: range)
    try writeOwnZeros(range.lowerBound..<min(whole.lowerBound, range.upperBound))
    try release(whole, as: .zero) { (step) throws(ImageError) in try writeOwnZeros(step) }
    // Where a format has no zeros and nothing lies below yet, it has let go of the units instead.
    var position = whole.lowerBound
    while position < whole.upperBound {
      var extents: [Extent] = []
      position = try map.map(position..<whole.upperBound, limit: 32, into: &extents)
      for extent in extents where extent.kind == .absent { try writeOwnZeros(extent.start..<extent.end) }
    }
    if whole.upperBound < range.upperBound {
      try writeOwnZeros(max(whole.upperBound, range.lowerBound)..<range.upperBound)
    }
  }
}
