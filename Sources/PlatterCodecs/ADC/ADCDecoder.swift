import PlatterCore

/// Apple Data Compression: byte-oriented LZ77 with a window of 64 KiB. No header, no end mark, no checksum; the size of
/// the output is known from elsewhere.
///
/// | first byte | bytes | action |
/// |---|---|---|
/// | 0x80..0xFF | 1 + n | n = (byte & 0x7F) + 1 literals follow |
/// | 0x40..0x7F | 3 | (byte & 0x3F) + 4 bytes from 1 + the next two bytes (big-endian) back |
/// | 0x00..0x3F | 2 | (byte >> 2) + 3 bytes from 1 + (the low two bits, next byte) back |
enum ADCDecoder {
  static let windowByteCount = 1 << 16
  /// Most that one action takes, and gives.
  static let maximumActionByteCount = 129
  static let maximumOutputByteCount = 128

  /// Decodes until `output` is full; later input is ignored.
  ///
  /// - Returns: `output.byteCount`.
  /// - Throws: `.corrupt` where the input ends early, a copy starts before the output, or the last action gives too
  ///   much. Cost: linear.
  static func decode(_ packed: RawSpan, into output: inout MutableRawSpan) throws(ImageError) -> Int {
    try unsafe packed.withUnsafeBytes { source throws(ImageError) in
      try unsafe output.withUnsafeMutableBytes { buffer throws(ImageError) in
        guard let base = buffer.baseAddress else { return 0 }
        var target = unsafe OutputTarget(base: base, capacity: buffer.count, written: 0)
        _ = try unsafe run(source, &target, isLast: true)
        guard target.written == target.capacity else { throw cutShort }
        return target.written
      }
    }
  }

  /// Carries out actions until `target` is full or `source` is used up.
  ///
  /// - Parameter isLast: no more of either will come. Otherwise stops where the next action might not fit.
  /// - Returns: bytes taken from `source`.
  static func run(_ source: UnsafeRawBufferPointer, _ target: inout OutputTarget, isLast: Bool) throws(ImageError)
    -> Int
  {
    guard let base = source.baseAddress else { return 0 }
    var read = 0
    while target.written < target.capacity, read < source.count {
      if !isLast {
        guard source.count &- read >= maximumActionByteCount,
          target.capacity &- target.written >= maximumOutputByteCount
        else { return read }
      }
      let opcode = unsafe base.load(fromByteOffset: read, as: UInt8.self)
      let (byteCount, length) = size(of: opcode)
      guard byteCount <= source.count &- read else { throw cutShort }
      guard length <= target.capacity &- target.written else { throw tooLong }
      let destination = unsafe target.base + target.written
      if opcode & 0x80 != 0 {
        unsafe destination.copyMemory(from: base + read + 1, byteCount: length)
      } else {
        let distance = unsafe distance(of: opcode, base + read)
        guard distance <= target.written else {
          throw .corrupt("ADC copy reaches \(distance) bytes back, but only \(target.written) bytes precede it")
        }
        if target.capacity &- target.written &- length >= wideCopySlack {
          unsafe copyBackWide(destination, distance, length)
        } else {
          unsafe copyBack(destination, distance, length)
        }
      }
      read &+= byteCount
      target.written &+= length
    }
    return read
  }

  /// Bytes of the action, literals included, and bytes that it gives.
  @inline(__always)
  private static func size(of opcode: UInt8) -> (byteCount: Int, length: Int) {
    if opcode & 0x80 != 0 {
      let length = Int(opcode & 0x7F) + 1
      return (1 + length, length)
    }
    if opcode & 0x40 != 0 { return (3, Int(opcode & 0x3F) + 4) }
    return (2, Int(opcode >> 2) + 3)
  }

  /// - Parameter action: the opcode and what follows it, whole.
  @inline(__always)
  private static func distance(of opcode: UInt8, _ action: UnsafeRawPointer) -> Int {
    let second = unsafe Int(action.load(fromByteOffset: 1, as: UInt8.self))
    guard opcode & 0x40 != 0 else { return Int(opcode & 3) << 8 + second + 1 }
    return unsafe second << 8 + Int(action.load(fromByteOffset: 2, as: UInt8.self)) + 1
  }

  static let cutShort = ImageError.corrupt("ADC data is cut short")
  static let tooLong = ImageError.corrupt("ADC data gives more than its unit holds")
}
