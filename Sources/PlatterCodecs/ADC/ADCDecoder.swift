package import PlatterCore

/// Apple Data Compression: byte-oriented LZ77 with a window of 64 KiB. No header, no end mark, no checksum; the size of
/// the output is known from elsewhere.
///
/// | first byte | bytes | action |
/// |---|---|---|
/// | 0x80..0xFF | 1 + n | n = (byte & 0x7F) + 1 literals follow |
/// | 0x40..0x7F | 3 | (byte & 0x3F) + 4 bytes from 1 + the next two bytes (big-endian) back |
/// | 0x00..0x3F | 2 | (byte >> 2) + 3 bytes from 1 + (the low two bits, next byte) back |
package enum ADCDecoder {
  /// Decodes until `output` is full; later input is ignored.
  ///
  /// - Returns: `output.byteCount`.
  /// - Throws: `.corrupt` where the input ends early, a copy starts before the output, or the last action gives too
  ///   much. Cost: linear.
  package static func decode(_ packed: RawSpan, into output: inout MutableRawSpan) throws(ImageError) -> Int {
    var failure: ImageError?
    unsafe packed.withUnsafeBytes { source in
      unsafe output.withUnsafeMutableBytes { target in
        failure = unsafe run(source, target)
      }
    }
    if let failure { throw failure }
    return output.byteCount
  }

  /// Every access below lies behind a test of `read` and `written` against the two counts.
  private static func run(_ source: UnsafeRawBufferPointer, _ target: UnsafeMutableRawBufferPointer) -> ImageError? {
    var read = 0
    var written = 0
    while written < target.count {
      guard read < source.count else { return cutShort(written, target.count) }
      let opcode = unsafe source[read]
      let action = ADCAction(opcode)
      guard action.byteCount <= source.count - read else { return cutShort(written, target.count) }
      guard action.length <= target.count - written else { return tooLong(target.count) }
      if opcode & 0x80 != 0 {
        unsafe target.baseAddress.unsafelyUnwrapped.advanced(by: written).copyMemory(
          from: source.baseAddress.unsafelyUnwrapped.advanced(by: read + 1), byteCount: action.length)
      } else {
        let next = unsafe Int(source[read + 1])
        let distance =
          opcode & 0x40 != 0 ? unsafe next << 8 + Int(source[read + 2]) + 1 : Int(opcode & 3) << 8 + next + 1
        guard distance <= written else { return tooFar(distance, written) }
        unsafe copyBack(target.baseAddress.unsafelyUnwrapped + written, distance, action.length)
      }
      read += action.byteCount
      written += action.length
    }
    return nil
  }

  static func cutShort(_ written: Int, _ wanted: Int) -> ImageError {
    .corrupt("ADC data is cut short after \(written) of \(wanted) bytes")
  }
  static func tooLong(_ wanted: Int) -> ImageError {
    .corrupt("ADC data gives more than the \(wanted) bytes of its unit")
  }
  static func tooFar(_ distance: Int, _ written: Int) -> ImageError {
    .corrupt("ADC copy reaches \(distance) bytes back, but only \(written) bytes precede it")
  }
}

/// What the first byte of an action says.
struct ADCAction {
  /// Bytes of the action itself, literals included.
  let byteCount: Int
  /// Bytes that it gives.
  let length: Int

  @inline(always)
  init(_ opcode: UInt8) {
    if opcode & 0x80 != 0 {
      length = Int(opcode & 0x7F) + 1
      byteCount = 1 + length
    } else if opcode & 0x40 != 0 {
      length = Int(opcode & 0x3F) + 4
      byteCount = 3
    } else {
      length = Int(opcode >> 2) + 3
      byteCount = 2
    }
  }
}
