import PlatterCore
package import TestSupport

/// Something that the writer did that it should not have.
package struct WriterFault: Error, CustomStringConvertible {
  package var description: String
  package init(_ description: String) { self.description = description }
}

extension SeededGenerator {
  /// True once in `count` times.
  package mutating func chance(_ count: Int) -> Bool { Int.random(in: 0..<count, using: &self) == 0 }
}

/// Random bytes that everybody may take pieces of: making them anew each time is slow.
package let randomPool: [UInt8] = {
  var random = SeededGenerator(seed: 0x5eed)
  return random.bytes(1 << 20)
}()

/// Some of the pool; from its start again where it ends.
package func randomBytes(_ count: Int, from start: Int) -> [UInt8] {
  var bytes: [UInt8] = []
  bytes.reserveCapacity(count)
  var position = start % randomPool.count
  while bytes.count < count {
    let end = min(position + count - bytes.count, randomPool.count)
    bytes += randomPool[position..<end]
    position = 0
  }
  return bytes
}

extension [UInt8] {
  package mutating func clear(_ range: Range<Int>) { withMutableRawBytes { $0.zero(range) } }
  package func part(_ range: Range<Int>) -> [UInt8] { rawBytes.extracting(range).array() }
  /// Whether a range of both holds the same; false where one of them ends before.
  package func isEqual(_ other: [UInt8], _ range: Range<Int>) -> Bool {
    guard range.upperBound <= count, range.upperBound <= other.count else { return false }
    let theirs = other.rawBytes.extracting(range)
    return rawBytes.extracting(range).firstDifference(from: theirs) == nil
  }
  /// The same bytes with another length; zeros at the end.
  package func resized(to count: Int) -> [UInt8] {
    count <= self.count ? Array(prefix(count)) : self + [UInt8](repeating: 0, count: count - self.count)
  }
}
