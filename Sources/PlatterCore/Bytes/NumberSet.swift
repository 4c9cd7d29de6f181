/// A set of numbers that costs little more than a bit each where they lie together: clusters that tables name.
package struct NumberSet: Sendable {
  private var words: [UInt64: UInt64] = [:]

  package init() {}

  /// False where it was there already.
  package mutating func insert(_ number: UInt64) -> Bool {
    let bit: UInt64 = 1 << (number & 63)
    let word = words[number >> 6, default: 0]
    words[number >> 6] = word | bit
    return word & bit == 0
  }

  /// Members below a bound.
  package func count(below bound: UInt64) -> UInt64 {
    var count: UInt64 = 0
    for (index, word) in words {
      let first = index << 6
      guard first < bound else { continue }
      let kept = bound - first >= 64 ? word : word & ((1 << (bound - first)) - 1)
      count += UInt64(kept.nonzeroBitCount)
    }
    return count
  }
}
