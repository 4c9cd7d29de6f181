/// Tells noise (what is encrypted or packed already), which deflate does not make smaller, in a small part of the time that
/// packing it in vain takes.
///
/// Noise is what has its bytes evenly spread, so that a Huffman code would save less than 0.3 %, and no repeat of some KiB,
/// which could be named instead. Belongs to one thread.
@safe final class NoiseDetector {
  /// In fewer bytes noise is not told from what is merely short.
  private static let minimumByteCount = 16 << 10
  private static let sampleCount = 16
  private static let sampleByteCount = 128
  /// Noise is at 255, and seldom 23 away from it.
  private static let sampleLimit = 400
  private static let placeBits = 13
  /// Steps without a common divisor: each repeat of 32 · 31 bytes and a word has a place that both steps meet.
  private static let (placeStep, probeStep) = (32, 31)

  private let counts = UnsafeMutableBufferPointer<UInt32>.allocate(capacity: 256)
  private let places = UnsafeMutableBufferPointer<UInt32>.allocate(capacity: 1 << placeBits)

  deinit {
    unsafe counts.deallocate()
    unsafe places.deallocate()
  }

  func isNoise(_ bytes: RawSpan) -> Bool {
    guard bytes.byteCount >= Self.minimumByteCount, bytes.byteCount <= UInt32.max else { return false }
    return isSampleEven(bytes) && isEven(bytes) && !hasRepeats(bytes)
  }

  // MARK: Spread

  private func isSampleEven(_ bytes: RawSpan) -> Bool {
    unsafe counts.update(repeating: 0)
    let step = bytes.byteCount / Self.sampleCount
    for sample in 0..<Self.sampleCount { count(bytes, sample * step..<sample * step + Self.sampleByteCount) }
    return spread(of: Self.sampleCount * Self.sampleByteCount) < Self.sampleLimit
  }

  /// A Huffman code for bytes of this spread would save about 0.09 bytes for each unit of it.
  private func isEven(_ bytes: RawSpan) -> Bool {
    unsafe counts.update(repeating: 0)
    count(bytes, 0..<bytes.byteCount)
    return spread(of: bytes.byteCount) < bytes.byteCount / 32
  }

  private func count(_ bytes: RawSpan, _ range: Range<Int>) {
    unsafe bytes.withUnsafeBytes { bytes in
      for index in range { unsafe counts[Int(bytes[index])] &+= 1 }
    }
  }

  /// Pearson's chi-squared of the counts of `total` bytes against the same count for each value.
  private func spread(of total: Int) -> Int {
    var squares = 0
    for value in 0..<256 {
      let count = unsafe Int(counts[value])
      squares &+= count &* count
    }
    return squares / (total / 256) - total
  }

  // MARK: Repeats

  private func hasRepeats(_ bytes: RawSpan) -> Bool {
    unsafe places.update(repeating: .max)
    let end = bytes.byteCount - 8
    return unsafe bytes.withUnsafeBytes { bytes in
      for place in stride(from: 0, through: end, by: Self.placeStep) {
        unsafe places[slot(word(bytes, place))] = UInt32(place)
      }
      for probe in stride(from: 0, through: end, by: Self.probeStep) {
        let word = unsafe word(bytes, probe)
        let place = unsafe places[slot(word)]
        guard place != .max, Int(place) != probe else { continue }
        if unsafe self.word(bytes, Int(place)) == word { return true }
      }
      return false
    }
  }

  @inline(__always)
  private func word(_ bytes: UnsafeRawBufferPointer, _ offset: Int) -> UInt64 {
    unsafe bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
  }

  @inline(__always)
  private func slot(_ word: UInt64) -> Int {
    Int(truncatingIfNeeded: (word &* 0x9e37_79b9_7f4a_7c15) &>> UInt64(64 - Self.placeBits))
  }
}
