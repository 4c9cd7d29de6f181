import PlatterCore

/// The text of a block on its way out: its runs are written out, in as many pieces as the caller's room asks for.
@safe struct BZip2Text {
  private let bytes: UnsafeMutablePointer<UInt8>
  private let count: Int
  private var position = 0
  /// A run that is under way.
  private var runByte: UInt8 = 0
  private var runLeft = 0
  private(set) var checksum = BitwiseCRC32()

  /// - Parameter bytes: `count` bytes, and 16 more that may be read.
  init(_ bytes: UnsafeMutablePointer<UInt8>, count: Int) {
    unsafe self.bytes = bytes
    self.count = count
  }

  var isFinished: Bool { position == count && runLeft == 0 }

  /// Appends to `target` as much as there is room for.
  mutating func write(to target: inout OutputTarget) throws(ImageError) {
    let start = target.written
    while target.written < target.capacity {
      let room = target.capacity - target.written
      let end = unsafe target.base + target.written
      if runLeft > 0 {
        let taken = min(runLeft, room)
        _ = unsafe end.initializeMemory(as: UInt8.self, repeating: runByte, count: taken)
        runLeft -= taken
        target.written += taken
        continue
      }
      guard position < count else { break }
      let limit = min(count, position + room)
      let quad = nextQuad(before: limit)
      let single = quad - position
      unsafe end.copyMemory(from: bytes + position, byteCount: single)
      position = quad
      target.written += single
      guard quad < limit else { continue }
      guard quad + 4 < count else { throw BZip2.damaged("a run without its length at the end of a block") }
      runByte = unsafe bytes[quad]
      runLeft = unsafe 4 + Int(bytes[quad + 4])
      position += 5
    }
    let written = unsafe UnsafeRawBufferPointer(start: target.base + start, count: target.written - start)
    unsafe checksum.update(written)
  }

  /// The place of the next four equal bytes, or `end` where none start before it.
  private func nextQuad(before end: Int) -> Int {
    var place = position
    while place < end {
      let base = unsafe UnsafeRawPointer(bytes + place)
      let word0 = unsafe UInt64(littleEndian: base.loadUnaligned(as: UInt64.self))
      let word1 = unsafe UInt64(littleEndian: base.loadUnaligned(fromByteOffset: 1, as: UInt64.self))
      let word2 = unsafe UInt64(littleEndian: base.loadUnaligned(fromByteOffset: 2, as: UInt64.self))
      let word3 = unsafe UInt64(littleEndian: base.loadUnaligned(fromByteOffset: 3, as: UInt64.self))
      // A byte is zero where it equals its three followers; the lowest bit set belongs to the lowest such byte.
      let unequal = (word0 ^ word1) | (word1 ^ word2) | (word2 ^ word3)
      let zeros = (unequal &- 0x0101_0101_0101_0101) & ~unequal & 0x8080_8080_8080_8080
      if zeros != 0 {
        let quad = place &+ zeros.trailingZeroBitCount &>> 3
        // What follows the text is not a part of it.
        return quad &+ 3 < count ? min(quad, end) : end
      }
      place &+= 8
    }
    return end
  }
}
