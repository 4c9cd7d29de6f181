import PlatterCore

/// One LZFSE block: its tables, its literals, and how far its matches have been carried out. Reused from block to
/// block; about 50 KB.
@safe final class LZFSEBlock {
  /// Bytes after the literals that a wide copy may read.
  private static let slack = 64

  private let literals: UnsafeMutableRawPointer
  /// New state base 16 bits, symbol 8, bits to pull 8, from the top.
  private let literalTable: UnsafeMutablePointer<UInt32>
  /// From the top: value base 32 bits, new state base 16, extra bits 8, bits to pull in all 8. Literal runs 64 entries,
  /// match lengths 64, distances 256.
  private let valueTables: UnsafeMutablePointer<UInt64>
  private var progress = Progress()

  private struct Progress {
    var literalsLeft = 0
    var literalsUsed = 0
    var matchesLeft = 0
    var rawLeft = 0
    var literalRunState = 0
    var matchLengthState = 0
    var distanceState = 0
    /// Bits of the match payload that are left.
    var bitsLeft = 0
    /// 0: none yet in this block.
    var lastDistance = 0
    /// The match that found no room: literals, bytes, distance.
    var pending: (literals: Int, length: Int, distance: Int)?
  }

  init() {
    unsafe literals = .allocate(byteCount: LZFSE.maximumLiteralCount + Self.slack, alignment: 64)
    // The slack is read, never used; still it shall not be undefined.
    _ = unsafe literals.initializeMemory(
      as: UInt8.self, repeating: 0, count: LZFSE.maximumLiteralCount + Self.slack)
    unsafe literalTable = .allocate(capacity: LZFSE.literalStateCount)
    unsafe literalTable.initialize(repeating: 0, count: LZFSE.literalStateCount)
    let valueCount = 2 * LZFSE.lengthStateCount + LZFSE.distanceStateCount
    unsafe valueTables = .allocate(capacity: valueCount)
    unsafe valueTables.initialize(repeating: 0, count: valueCount)
  }

  deinit {
    unsafe literals.deallocate()
    unsafe literalTable.deallocate()
    unsafe valueTables.deallocate()
  }

  var isFinished: Bool { progress.matchesLeft == 0 && progress.pending == nil }

  /// Builds the tables, decodes the literals and makes ready for `run`.
  ///
  /// - Parameter block: the block from its magic on, both payloads included. The header before the payloads is what
  ///   lets the bit readers load eight bytes that end anywhere in a payload.
  func start(_ header: borrowing LZFSEHeader, _ block: UnsafeRawBufferPointer) throws(ImageError) {
    let end = header.byteCount + header.literalPayloadByteCount + header.matchPayloadByteCount
    precondition(end <= block.count)
    buildTables(header)
    guard let base = block.baseAddress else { throw LZFSE.cutShort }
    let literalPayload = unsafe base + header.byteCount
    try unsafe decodeLiterals(header, literalPayload)
    let matchPayload = unsafe literalPayload + header.literalPayloadByteCount
    progress = Progress()
    progress.literalsLeft = header.literalCount
    progress.matchesLeft = header.matchCount
    progress.rawLeft = header.rawByteCount
    progress.literalRunState = header.literalRunState
    progress.matchLengthState = header.matchLengthState
    progress.distanceState = header.distanceState
    progress.bitsLeft = try unsafe Self.bitCount(
      matchPayload, header.matchPayloadByteCount, spareBits: header.matchSpareBits)
    if header.matchCount == 0, header.rawByteCount > 0 {
      throw LZFSE.damaged("block of \(header.rawByteCount) bytes without matches")
    }
  }

  /// Bits of a payload, whose unused top bits must be zero.
  private static func bitCount(_ payload: UnsafeRawPointer, _ byteCount: Int, spareBits: Int) throws(ImageError) -> Int
  {
    guard spareBits > 0 else { return byteCount * 8 }
    guard byteCount > 0, unsafe payload.load(fromByteOffset: byteCount - 1, as: UInt8.self) >> (8 - spareBits) == 0
    else { throw LZFSE.damaged("unused bits are not zero") }
    return byteCount * 8 - spareBits
  }
}

// MARK: - Tables

extension LZFSEBlock {
  private func buildTables(_ header: borrowing LZFSEHeader) {
    let literalTable = unsafe literalTable
    Self.forEachState(header.frequencies, 104..<360, LZFSE.literalStateCount) { state, symbol, bits, base in
      unsafe literalTable[state] = UInt32(base) << 16 | UInt32(symbol) << 8 | UInt32(bits)
    }
    buildValueTable(header, 0..<20, at: 0, LZFSE.lengthStateCount, LZFSE.literalRunExtraBits)
    buildValueTable(header, 20..<40, at: 64, LZFSE.lengthStateCount, LZFSE.matchLengthExtraBits)
    buildValueTable(header, 40..<104, at: 128, LZFSE.distanceStateCount, LZFSE.distanceExtraBits)
  }

  private func buildValueTable(
    _ header: borrowing LZFSEHeader, _ range: Range<Int>, at start: Int, _ stateCount: Int, _ extraBits: [UInt8]
  ) {
    let table = unsafe valueTables + start
    let bases = LZFSE.bases(extraBits)
    Self.forEachState(header.frequencies, range, stateCount) { state, symbol, bits, base in
      let extra = Int(extraBits[symbol])
      unsafe table[state] =
        UInt64(bases[symbol]) << 32 | UInt64(base) << 16 | UInt64(extra) << 8 | UInt64(bits + extra)
    }
  }

  /// Visits the states in order; the frequencies add up to `stateCount`, or to nothing.
  @inline(__always)
  private static func forEachState(
    _ frequencies: [360 of UInt16], _ range: Range<Int>, _ stateCount: Int,
    _ body: (_ state: Int, _ symbol: Int, _ bits: Int, _ base: Int) -> Void
  ) {
    var state = 0
    for index in range {
      let frequency = Int(frequencies[index])
      guard frequency > 0 else { continue }
      let bits = frequency.leadingZeroBitCount - stateCount.leadingZeroBitCount
      let longCount = (2 * stateCount) >> bits - frequency
      for position in 0..<frequency {
        if position < longCount {
          body(state, index - range.lowerBound, bits, (frequency + position) << bits - stateCount)
        } else {
          body(state, index - range.lowerBound, bits - 1, (position - longCount) << (bits - 1))
        }
        state += 1
      }
    }
  }
}

// MARK: - Decoding

/// The 57 or more bits below bit `bitsLeft` of a payload, at the top of a word. The eight bytes that end there are
/// loaded; they may begin up to eight bytes before the payload, in what precedes it in the block.
@inline(__always)
private func bitsBelow(_ bitsLeft: Int, _ payload: UnsafeRawPointer) -> UInt64 {
  let end = (bitsLeft &+ 7) &>> 3
  let word = unsafe UInt64(littleEndian: payload.loadUnaligned(fromByteOffset: end &- 8, as: UInt64.self))
  return word &<< UInt64(truncatingIfNeeded: end &* 8 &- bitsLeft)
}

/// The top `count` bits, at most 63, taken off.
@inline(__always)
private func pull(_ count: UInt64, _ bits: inout UInt64) -> UInt64 {
  // In two steps, since a shift by 64 is none.
  let value = (bits &>> 1) &>> (63 &- count)
  bits &<<= count
  return value
}

extension LZFSEBlock {
  /// Four states take turns at one bit reader: up to 40 bits a round, which one load covers.
  private func decodeLiterals(_ header: borrowing LZFSEHeader, _ payload: UnsafeRawPointer) throws(ImageError) {
    let table = unsafe literalTable
    let literals = unsafe literals
    var bitsLeft = try unsafe Self.bitCount(
      payload, header.literalPayloadByteCount, spareBits: header.literalSpareBits)
    var state0 = header.literalStates[0]
    var state1 = header.literalStates[1]
    var state2 = header.literalStates[2]
    var state3 = header.literalStates[3]
    var position = 0
    while position < header.literalCount {
      var bits = unsafe bitsBelow(bitsLeft, payload)
      var symbols: UInt32 = 0
      @inline(__always) func step(_ state: inout Int, _ shift: UInt32) {
        let entry = unsafe table[state]
        let count = UInt64(entry & 0xFF)
        symbols |= (entry &>> 8 & 0xFF) &<< shift
        state = Int(truncatingIfNeeded: UInt64(entry &>> 16) &+ pull(count, &bits))
        bitsLeft &-= Int(truncatingIfNeeded: count)
      }
      step(&state0, 0)
      step(&state1, 8)
      step(&state2, 16)
      step(&state3, 24)
      guard bitsLeft >= 0 else { throw LZFSE.damaged("literals run out of bits") }
      unsafe literals.storeBytes(of: symbols.littleEndian, toByteOffset: position, as: UInt32.self)
      position &+= 4
    }
  }

  /// Carries out matches until the block ends or the next one finds no room in `target`.
  ///
  /// - Parameters:
  ///   - header, block: as given to `start`; the block's bytes may have moved.
  /// - Throws: `.corrupt` for anything that contradicts the header or reaches before the history.
  func run(_ header: borrowing LZFSEHeader, _ block: UnsafeRawBufferPointer, _ target: inout OutputTarget)
    throws(ImageError)
  {
    guard let base = block.baseAddress else { throw LZFSE.cutShort }
    let payload = unsafe base + header.byteCount + header.literalPayloadByteCount
    // Copied out and back: the loop then works on registers.
    var progress = progress
    defer { self.progress = progress }
    if let pending = progress.pending {
      progress.pending = nil
      guard try copy(pending, &progress, &target) else { return }
    }
    while progress.matchesLeft > 0 {
      let match = try unsafe nextMatch(&progress, payload)
      progress.matchesLeft &-= 1
      guard try copy(match, &progress, &target) else { return }
    }
    guard progress.rawLeft == 0 else {
      throw LZFSE.damaged("block gives \(progress.rawLeft) bytes less than its header says")
    }
  }

  /// Literal run, length, distance: up to 54 bits, which one load covers.
  @inline(__always)
  private func nextMatch(_ progress: inout Progress, _ payload: UnsafeRawPointer) throws(ImageError)
    -> (literals: Int, length: Int, distance: Int)
  {
    let table = unsafe valueTables
    var bits = unsafe bitsBelow(progress.bitsLeft, payload)
    var count: UInt64 = 0
    @inline(__always) func value(_ state: inout Int, _ start: Int) -> Int {
      let entry = unsafe table[start &+ state]
      let extra = entry &>> 8 & 0xFF
      let word = pull(entry & 0xFF, &bits)
      count &+= entry & 0xFF
      state = Int(truncatingIfNeeded: (entry &>> 16 & 0xFFFF) &+ word &>> extra)
      return Int(truncatingIfNeeded: entry &>> 32 &+ (word & (1 &<< extra &- 1)))
    }
    let literals = value(&progress.literalRunState, 0)
    let length = value(&progress.matchLengthState, 64)
    var distance = value(&progress.distanceState, 128)
    progress.bitsLeft &-= Int(truncatingIfNeeded: count)
    guard progress.bitsLeft >= 0 else { throw LZFSE.damaged("matches run out of bits") }
    if distance == 0 { distance = progress.lastDistance }
    guard distance > 0 else { throw LZFSE.damaged("first match repeats a distance") }
    progress.lastDistance = distance
    return (literals, length, distance)
  }

  /// Literals, then the copy; false where they find no room, and then they are pending.
  @inline(__always)
  private func copy(
    _ match: (literals: Int, length: Int, distance: Int), _ progress: inout Progress, _ target: inout OutputTarget
  ) throws(ImageError) -> Bool {
    let total = match.literals &+ match.length
    guard total <= target.capacity &- target.written else {
      progress.pending = match
      return false
    }
    guard total <= progress.rawLeft else { throw LZFSE.damaged("block gives more bytes than its header says") }
    guard match.literals <= progress.literalsLeft else { throw LZFSE.damaged("block uses more literals than it has") }
    let start = target.written &+ match.literals
    guard match.distance <= start || match.length == 0 else {
      throw LZFSE.damaged("copy reaches \(match.distance) bytes back, but only \(start) bytes precede it")
    }
    let source = unsafe literals + progress.literalsUsed
    let destination = unsafe target.base + target.written
    let hasSlack = target.capacity &- target.written &- total >= wideCopySlack
    if hasSlack {
      unsafe copyWide(from: UnsafeRawPointer(source), to: destination, match.literals)
      if match.length > 0 { unsafe copyBackWide(destination + match.literals, match.distance, match.length) }
    } else {
      unsafe destination.copyMemory(from: source, byteCount: match.literals)
      if match.length > 0 { unsafe copyBack(destination + match.literals, match.distance, match.length) }
    }
    progress.literalsUsed &+= match.literals
    progress.literalsLeft &-= match.literals
    progress.rawLeft &-= total
    target.written &+= total
    return true
  }
}
