package import PlatterCore

extension DiskWriter {
  /// Writes zeros, so that every byte of the range has its place. On stable storage when it returns.
  package func fill(_ range: Range<UInt64>) throws(ImageError) {
    let zeros = [UInt8](repeating: 0, count: 1 << 20)
    var position = range.lowerBound
    while position < range.upperBound {
      let count = min(UInt64(zeros.count), range.upperBound - position)
      try write(zeros.rawBytes.extracting(0..<Int(count)), at: position)
      position += count
    }
    try flush()
  }
}
