import PlatterCore

/// Takes the text of one element of a property list, in the way that the element wants it kept.
struct LeafText {
  enum Mode { case ignored, text, base64 }

  /// Most bytes of a text that is kept: names are short.
  static let maximumTextByteCount = 4096
  /// Most bytes that a block table can need.
  static let maximumDataByteCount = BlockTable.headerByteCount + (DMG.maximumChunkCount + 1) * Chunk.byteCount

  let mode: Mode
  private(set) var bytes: [UInt8] = []
  /// Base64: bits not yet written, their number, and whether padding was seen.
  private var bits: UInt32 = 0
  private var digitCount = 0
  private var isPadded = false

  init(_ mode: Mode) { self.mode = mode }

  /// Takes a byte of the text, entities already resolved.
  mutating func take(_ byte: UInt8) throws(ImageError) {
    switch mode {
    case .ignored: break
    case .text:
      guard bytes.count < Self.maximumTextByteCount else {
        throw .corrupt("a text of the property list has more than \(Self.maximumTextByteCount) bytes")
      }
      bytes.append(byte)
    case .base64: try takeBase64(byte)
    }
  }

  private mutating func takeBase64(_ byte: UInt8) throws(ImageError) {
    let digit: UInt8
    switch byte {
    case UInt8(ascii: "A")...UInt8(ascii: "Z"): digit = byte - UInt8(ascii: "A")
    case UInt8(ascii: "a")...UInt8(ascii: "z"): digit = byte - UInt8(ascii: "a") + 26
    case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = byte - UInt8(ascii: "0") + 52
    case UInt8(ascii: "+"): digit = 62
    case UInt8(ascii: "/"): digit = 63
    case UInt8(ascii: "="):
      isPadded = true
      return
    case 0x20, 0x09, 0x0A, 0x0D: return
    default: throw .corrupt("base64 data of the property list holds the byte \(UInt64(byte).hex)")
    }
    guard !isPadded else { throw .corrupt("base64 data of the property list goes on behind its padding") }
    bits = bits << 6 | UInt32(digit)
    digitCount += 1
    if digitCount == 4 { try write(3) }
  }

  /// Writes the first `count` of the three bytes that four digits make.
  private mutating func write(_ count: Int) throws(ImageError) {
    guard bytes.count <= Self.maximumDataByteCount - count else {
      throw .corrupt("a block table has more than \(Self.maximumDataByteCount) bytes")
    }
    for index in 0..<count { bytes.append(UInt8(truncatingIfNeeded: bits >> UInt32(16 - 8 * index))) }
    bits = 0
    digitCount = 0
  }

  /// Called at the end of the element.
  mutating func finish() throws(ImageError) {
    switch digitCount {
    case 0: break
    case 1: throw .corrupt("base64 data of the property list ends inside a byte")
    default:
      let count = digitCount - 1
      bits <<= UInt32(6 * (4 - digitCount))
      try write(count)
    }
  }
}
