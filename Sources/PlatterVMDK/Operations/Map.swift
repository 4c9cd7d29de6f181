package import PlatterCore

extension VMDKImage {
  package func map(_ range: Range<UInt64>, limit: Int, into extents: inout [Extent]) throws(ImageError) -> UInt64 {
    try naming(stores[0].name) { () throws(ImageError) in
      var run = RunAppender(limit: limit)
      var position = range.lowerBound
      var index = partIndex(holding: position)
      while position < range.upperBound, !run.isFull {
        let part = parts[index]
        let end = min(part.end, range.upperBound)
        let reached = try part.extent.map(
          position - part.start..<end - part.start, base: part.start, &run, &extents)
        position = part.start + reached
        // It stopped for the limit, or to keep the call short.
        guard position == end else { break }
        index += 1
      }
      return position
    }
  }

  /// The part that a guest byte lies in. Cost: logarithmic in the number of extents.
  private func partIndex(holding position: UInt64) -> Int {
    var low = 0
    var high = parts.count
    while high - low > 1 {
      let middle = (low + high) / 2
      if parts[middle].start <= position { low = middle } else { high = middle }
    }
    return low
  }
}
