/// Finds earlier occurrences of the bytes at a position: hash chains over a window.
///
/// Invariants: `head[h]` is the last inserted position with hash h, or -1; `previous[p & mask]` is the one before p with
/// p's hash, valid for positions no further back than the ring is long. Reused from unit to unit.
@safe final class MatchFinder {
  private static let hashBits: UInt32 = 16
  /// A match this long is taken without looking for a longer one.
  private static let niceLength = 128

  private let head: UnsafeMutablePointer<Int32>
  private let previous: UnsafeMutablePointer<Int32>
  private let mask: Int
  private let maximumDistance: Int
  private let minimumLength: Int
  private let depth: Int

  /// - Parameters:
  ///   - minimumLength: 3 or 4: bytes that are hashed.
  ///   - depth: earlier occurrences that are looked at.
  init(maximumDistance: Int, minimumLength: Int, depth: Int) {
    precondition(minimumLength == 3 || minimumLength == 4)
    var ring = 1
    while ring <= maximumDistance { ring *= 2 }
    mask = ring - 1
    self.maximumDistance = maximumDistance
    self.minimumLength = minimumLength
    self.depth = depth
    unsafe head = .allocate(capacity: 1 << Int(Self.hashBits))
    unsafe previous = .allocate(capacity: ring)
    unsafe previous.initialize(repeating: -1, count: ring)
    reset()
  }

  deinit {
    unsafe head.deallocate()
    unsafe previous.deallocate()
  }

  /// Forgets all positions.
  func reset() { unsafe head.initialize(repeating: -1, count: 1 << Int(Self.hashBits)) }

  /// Inserts a position and returns the longest match there, length 0 for none.
  ///
  /// - Parameters:
  ///   - position: larger than every one inserted before; below 2^31.
  ///   - end: of the bytes.
  ///   - limit: longest match wanted.
  @inline(__always)
  func insert(_ position: Int, _ bytes: UnsafeRawPointer, end: Int, limit: Int) -> (length: Int, distance: Int) {
    // Four bytes are loaded for a hash of three too.
    guard end &- position >= 4 else { return (0, 0) }
    let hash = unsafe hash(bytes + position)
    var candidate = unsafe Int(head[hash])
    unsafe previous[position & mask] = Int32(truncatingIfNeeded: candidate)
    unsafe head[hash] = Int32(truncatingIfNeeded: position)
    var best = (length: minimumLength &- 1, distance: 0)
    let longest = min(limit, end &- position)
    var left = depth
    while candidate >= 0, position &- candidate <= maximumDistance, left > 0 {
      // The byte that would make it the longest: most candidates fail here, without a loop.
      if best.length < longest,
        unsafe bytes.load(fromByteOffset: candidate &+ best.length, as: UInt8.self)
          == bytes.load(fromByteOffset: position &+ best.length, as: UInt8.self)
      {
        let length = unsafe Self.commonLength(bytes + candidate, bytes + position, longest)
        if length > best.length {
          best = (length, position &- candidate)
          if length >= Self.niceLength || length == longest { break }
        }
      }
      let next = unsafe Int(previous[candidate & mask])
      // A slot may have been taken over by a later position: chains only ever go back.
      guard next < candidate else { break }
      candidate = next
      left &-= 1
    }
    return best.distance == 0 ? (0, 0) : best
  }

  /// Inserts without searching.
  @inline(__always)
  func insert(_ position: Int, _ bytes: UnsafeRawPointer, end: Int) {
    guard end &- position >= 4 else { return }
    let hash = unsafe hash(bytes + position)
    unsafe previous[position & mask] = head[hash]
    unsafe head[hash] = Int32(truncatingIfNeeded: position)
  }

  @inline(__always)
  private func hash(_ bytes: UnsafeRawPointer) -> Int {
    var word = unsafe UInt32(littleEndian: bytes.loadUnaligned(as: UInt32.self))
    if minimumLength == 3 { word &<<= 8 }
    return Int(truncatingIfNeeded: (word &* 2_654_435_761) &>> (32 &- Self.hashBits))
  }

  /// Equal bytes at two places, at most `limit`.
  @inline(__always)
  private static func commonLength(_ first: UnsafeRawPointer, _ second: UnsafeRawPointer, _ limit: Int) -> Int {
    var length = 0
    while length &+ 8 <= limit {
      let difference = unsafe UInt64(
        littleEndian: first.loadUnaligned(fromByteOffset: length, as: UInt64.self)
          ^ second.loadUnaligned(fromByteOffset: length, as: UInt64.self))
      if difference != 0 { return length &+ difference.trailingZeroBitCount &>> 3 }
      length &+= 8
    }
    while length < limit,
      unsafe first.load(fromByteOffset: length, as: UInt8.self)
        == second.load(fromByteOffset: length, as: UInt8.self)
    { length &+= 1 }
    return length
  }
}
