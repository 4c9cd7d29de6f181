/// Writes the payload of an LZVN block. Distances at most 65535.
struct LZVNEncoder {
  static let maximumDistance = 0xFFFF
  static let endOpcode: [UInt8] = [6, 0, 0, 0, 0, 0, 0, 0]

  private static let maximumLongCount = 271
  private static let maximumNearDistance = 0x5FF
  private static let maximumMediumDistance = 0x3FFF
  private static let maximumMediumLength = 34

  private var lastDistance = 0

  /// Literals alone.
  func append(literals: UnsafeRawPointer, _ count: Int, _ writer: inout ByteWriter) {
    var start = 0
    while start < count {
      let part = min(count - start, Self.maximumLongCount)
      Self.append(count: part, 0xE0, &writer)
      unsafe writer.append(literals + start, part)
      start += part
    }
  }

  /// Literals and a match of 3 bytes or more.
  mutating func append(
    literals: UnsafeRawPointer, _ count: Int, length: Int, distance: Int, _ writer: inout ByteWriter
  ) {
    var literalCount = count
    if literalCount > 3 {
      unsafe append(literals: literals, literalCount, &writer)
      literalCount = 0
    }
    var left = length
    if distance != lastDistance || literalCount > 0 {
      let isMedium =
        distance != lastDistance && distance <= Self.maximumMediumDistance
        && (distance > Self.maximumNearDistance || length > 10 - 2 * literalCount)
      let first = min(length, isMedium ? Self.maximumMediumLength : 10 - 2 * literalCount)
      appendOpcode(UInt8(literalCount), first, distance, isMedium: isMedium, &writer)
      unsafe writer.append(literals + (count - literalCount), literalCount)
      left -= first
    }
    while left > 0 {
      let part = min(left, Self.maximumLongCount)
      Self.append(count: part, 0xF0, &writer)
      left -= part
    }
    lastDistance = distance
  }

  /// Same, near, medium or far.
  private func appendOpcode(
    _ literalCount: UInt8, _ length: Int, _ distance: Int, isMedium: Bool, _ writer: inout ByteWriter
  ) {
    let lengthBits = UInt8(length - 3)
    let short = literalCount << 6 | (lengthBits & 7) << 3
    if distance == lastDistance {
      writer.append(short | 6)
    } else if isMedium {
      writer.append(0xA0 | literalCount << 3 | lengthBits >> 2)
      writer.appendLittleEndian(UInt16(distance) << 2 | UInt16(lengthBits & 3))
    } else if distance <= Self.maximumNearDistance {
      writer.append(short | UInt8(distance >> 8))
      writer.append(UInt8(distance & 0xFF))
    } else {
      writer.append(short | 7)
      writer.appendLittleEndian(UInt16(distance))
    }
  }

  /// The two forms of "literals only" and "match only": up to 15 in the opcode, up to 271 in a byte of its own.
  private static func append(count: Int, _ opcode: UInt8, _ writer: inout ByteWriter) {
    if count < 16 {
      writer.append(opcode | UInt8(count))
    } else {
      writer.append(opcode)
      writer.append(UInt8(count - 16))
    }
  }
}
