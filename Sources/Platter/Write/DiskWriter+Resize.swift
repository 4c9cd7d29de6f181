package import PlatterCore

extension DiskWriter {
  /// Changes the disk's size. New bytes read as zeros. On stable storage when it returns.
  package func resize(to byteCount: UInt64) throws(ImageError) {
    try prepare()
    let old = map.byteCount
    if byteCount < old {
      // What is left of the last unit would be seen again when the disk grows.
      let unitEnd = byteCount.dividedRoundingUp(by: unit) * unit
      try writeZeros(byteCount..<max(byteCount, min(old, unitEnd)))
    }
    try exclusively(0..<UInt64.max) { () throws(ImageError) in
      try map.resize(to: byteCount, isUnsafe ? {} : barrier)
    }
    image.units.removeAll()
    if byteCount > old { try clear(old..<byteCount) }
    try flush()
  }

  /// Makes new bytes read as zeros where old content or a backing image shows.
  private func clear(_ range: Range<UInt64>) throws(ImageError) {
    var walk = ChainWalk(image.layers)
    var position = range.lowerBound
    while position < range.upperBound {
      var runs: [Run] = []
      position = try walk.runs(position..<range.upperBound, limit: 32, into: &runs)
      for run in runs where !run.readsZero { try zero(run.extent.start..<run.extent.end, mayUnmap: true) }
    }
  }
}
