import PlatterCore

/// One LZVN block in progress: byte-oriented opcodes, each a few literals and a copy.
@safe struct LZVNBlock {
  /// Most that one opcode takes from its payload: two bytes and 271 literals.
  static let maximumOpcodeByteCount = 273
  /// Most that one opcode gives.
  static let maximumOutputByteCount = 271

  private(set) var payloadLeft: Int
  private(set) var rawLeft: Int
  /// The end opcode was seen.
  private(set) var isFinished = false
  /// 0: none yet in this block.
  private var lastDistance = 0

  init(rawByteCount: Int, payloadByteCount: Int) {
    rawLeft = rawByteCount
    payloadLeft = payloadByteCount
  }

  private struct Opcode {
    /// Bytes before the literals.
    var byteCount = 1
    var literals = 0
    var length = 0
    /// 0: as before.
    var distance = 0
    var isEnd = false
  }

  /// Carries out opcodes until the end opcode, or until `source` or `target` might not hold the next one.
  ///
  /// - Parameters:
  ///   - source: bytes of the payload that are at hand, at most `payloadLeft`.
  ///   - isLast: no more of either will come: what does not fit is an error.
  /// - Returns: bytes taken from `source`.
  mutating func run(_ source: UnsafeRawBufferPointer, _ target: inout OutputTarget, isLast: Bool) throws(ImageError)
    -> Int
  {
    var read = 0
    defer { payloadLeft -= read }
    while !isFinished {
      if !isLast {
        let isWhole = source.count == payloadLeft
        guard isWhole || source.count - read >= Self.maximumOpcodeByteCount,
          target.capacity - target.written >= Self.maximumOutputByteCount
        else { return read }
      }
      let opcode = try unsafe decode(source, read)
      let taken = opcode.byteCount &+ opcode.literals
      guard taken <= source.count &- read else { throw LZFSE.cutShort }
      if opcode.isEnd {
        read += taken
        try finish(payloadLeft - read)
        return read
      }
      try unsafe execute(opcode, source, read &+ opcode.byteCount, &target)
      read &+= taken
    }
    return read
  }

  private mutating func finish(_ payloadLeft: Int) throws(ImageError) {
    guard payloadLeft == 0 else { throw LZFSE.damaged("\(payloadLeft) bytes follow the end of an LZVN block") }
    guard rawLeft == 0 else { throw LZFSE.damaged("LZVN block gives \(rawLeft) bytes less than its header says") }
    isFinished = true
  }

  /// The opcode at `read`, without its literals.
  @inline(__always)
  private func decode(_ source: UnsafeRawBufferPointer, _ read: Int) throws(ImageError) -> Opcode {
    guard read < source.count, let base = source.baseAddress else { throw LZFSE.cutShort }
    let first = unsafe Int(base.load(fromByteOffset: read, as: UInt8.self))
    let left = source.count &- read
    // The bytes after the first; only what the opcode needs is tested to be there, the rest is not used.
    let second = left > 1 ? unsafe Int(base.load(fromByteOffset: read &+ 1, as: UInt8.self)) : 0
    let third = left > 2 ? unsafe Int(base.load(fromByteOffset: read &+ 2, as: UInt8.self)) : 0
    var opcode = Opcode()
    if first >= 0xE0 {
      let count = first & 15
      opcode.byteCount = count == 0 ? 2 : 1
      if first < 0xF0 {
        opcode.literals = count == 0 ? second + 16 : count
      } else {
        opcode.length = count == 0 ? second + 16 : count
      }
    } else if first & 0xE0 == 0xA0 {
      let word = second | third << 8
      opcode.byteCount = 3
      opcode.literals = first >> 3 & 3
      opcode.length = 3 + (first & 7) << 2 + word & 3
      opcode.distance = word >> 2
      guard opcode.distance > 0 else { throw LZFSE.damaged("LZVN distance of 0") }
    } else {
      try decodeShort(first, second, third, &opcode)
    }
    guard opcode.byteCount <= left else { throw LZFSE.cutShort }
    return opcode
  }

  /// Near, far, same, no-op and end.
  @inline(__always)
  private func decodeShort(_ first: Int, _ second: Int, _ third: Int, _ opcode: inout Opcode) throws(ImageError) {
    guard first & 0xF0 != 0x70, first & 0xF0 != 0xD0 else { throw Self.undefined(first) }
    opcode.literals = first >> 6
    opcode.length = 3 + first >> 3 & 7
    switch first & 7 {
    case 7:
      opcode.byteCount = 3
      opcode.distance = second | third << 8
      guard opcode.distance > 0 else { throw LZFSE.damaged("LZVN distance of 0") }
    case 6:
      guard opcode.literals == 0 else { return }
      opcode.length = 0
      switch first {
      case 0x06:
        opcode.byteCount = 8
        opcode.isEnd = true
      case 0x0E, 0x16: break
      default: throw Self.undefined(first)
      }
    default:
      opcode.byteCount = 2
      opcode.distance = (first & 7) << 8 | second
      guard opcode.distance > 0 else { throw LZFSE.damaged("LZVN distance of 0") }
    }
  }

  private static func undefined(_ opcode: Int) -> ImageError {
    LZFSE.damaged("undefined LZVN opcode 0x\(String(opcode, radix: 16))")
  }

  @inline(__always)
  private mutating func execute(
    _ opcode: Opcode, _ source: UnsafeRawBufferPointer, _ literalStart: Int, _ target: inout OutputTarget
  ) throws(ImageError) {
    let total = opcode.literals &+ opcode.length
    guard total <= rawLeft else { throw LZFSE.damaged("LZVN block gives more bytes than its header says") }
    guard total <= target.capacity &- target.written, let base = source.baseAddress else {
      throw LZFSE.tooLong(target.capacity)
    }
    let start = target.written &+ opcode.literals
    if opcode.length > 0 {
      if opcode.distance > 0 { lastDistance = opcode.distance }
      guard lastDistance > 0 else { throw LZFSE.damaged("first match repeats a distance") }
      guard lastDistance <= start else {
        throw LZFSE.damaged("copy reaches \(lastDistance) bytes back, but only \(start) bytes precede it")
      }
    }
    let literals = unsafe base + literalStart
    let destination = unsafe target.base + target.written
    let hasSlack =
      target.capacity &- target.written &- total >= wideCopySlack
      && source.count &- literalStart &- opcode.literals >= wideCopySlack
    if hasSlack {
      unsafe copyWide(from: literals, to: destination, opcode.literals)
      if opcode.length > 0 { unsafe copyBackWide(destination + opcode.literals, lastDistance, opcode.length) }
    } else {
      unsafe destination.copyMemory(from: literals, byteCount: opcode.literals)
      if opcode.length > 0 { unsafe copyBack(destination + opcode.literals, lastDistance, opcode.length) }
    }
    rawLeft &-= total
    target.written &+= total
  }
}
