/// Random numbers that a seed determines (SplitMix64), so that a failing run can be repeated.
package struct SeededGenerator: RandomNumberGenerator, Sendable {
  private var state: UInt64

  package init(seed: UInt64) { state = seed }

  package mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var mixed = state
    mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
    return mixed ^ (mixed >> 31)
  }

  /// Bytes that no codec can make shorter.
  package mutating func bytes(_ count: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 8)
    while bytes.count < count {
      var word = next()
      for _ in 0..<8 {
        bytes.append(UInt8(truncatingIfNeeded: word))
        word >>= 8
      }
    }
    bytes.removeLast(bytes.count - count)
    return bytes
  }

  /// Lines of words: bytes that every codec makes shorter.
  package mutating func text(_ count: Int) -> [UInt8] {
    let words = ["cluster", "grain", "block", "table", "header", "extent", "map", "disk", "zero", "log"]
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 16)
    while bytes.count < count {
      bytes.append(contentsOf: words[Int(next() % UInt64(words.count))].utf8)
      bytes.append(next() % 8 == 0 ? 0x0a : 0x20)
    }
    bytes.removeLast(bytes.count - count)
    return bytes
  }
}
