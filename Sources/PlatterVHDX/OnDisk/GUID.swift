import PlatterCore

/// A GUID. On disk the first three fields are little-endian and the last eight bytes stand as written
/// [MS-VHDX 2, "GUID"].
package struct GUID: Hashable, Sendable, BitwiseCopyable {
  package static let byteCount = 16
  package static let zero = GUID(0, 0)

  /// The first three fields in reading order.
  package var high: UInt64
  /// The last eight bytes in reading order.
  package var low: UInt64

  package init(_ high: UInt64, _ low: UInt64) {
    self.high = high
    self.low = low
  }

  /// A new random GUID (RFC 9562, version 4).
  package static func random() -> GUID {
    GUID(
      UInt64.random(in: 0 ... .max) & ~0xf000 | 0x4000,
      UInt64.random(in: 0 ... .max) & ~(0xc000 << 48) | 0x8000 << 48)
  }

  init(parsing bytes: RawSpan, at offset: Int) throws(ImageError) {
    let first: UInt32 = try bytes.number(at: offset)
    let second: UInt16 = try bytes.number(at: offset + 4)
    let third: UInt16 = try bytes.number(at: offset + 6)
    let last: UInt64 = try bytes.number(at: offset + 8)
    high = UInt64(first) << 32 | UInt64(second) << 16 | UInt64(third)
    low = last.byteSwapped
  }

  func store(to bytes: inout MutableRawSpan, at offset: Int) {
    bytes.storeLittleEndian(UInt32(high >> 32), at: offset)
    bytes.storeLittleEndian(UInt16(truncatingIfNeeded: high >> 16), at: offset + 4)
    bytes.storeLittleEndian(UInt16(truncatingIfNeeded: high), at: offset + 6)
    bytes.storeBigEndian(low, at: offset + 8)
  }

  /// Reads `{xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx}`, with or without braces, in either case; nil for anything else.
  package init?(text: String) {
    var characters = Array(text.utf8)
    if characters.first == UInt8(ascii: "{"), characters.last == UInt8(ascii: "}"), characters.count > 1 {
      characters.removeFirst()
      characters.removeLast()
    }
    guard characters.count == 36 else { return nil }
    var halves: (UInt64, UInt64) = (0, 0)
    var digitCount = 0
    for (index, character) in characters.enumerated() {
      if [8, 13, 18, 23].contains(index) {
        guard character == UInt8(ascii: "-") else { return nil }
        continue
      }
      guard let digit = Character(Unicode.Scalar(character)).hexDigitValue else { return nil }
      if digitCount < 16 { halves.0 = halves.0 << 4 | UInt64(digit) } else { halves.1 = halves.1 << 4 | UInt64(digit) }
      digitCount += 1
    }
    self.init(halves.0, halves.1)
  }
}

extension GUID: CustomStringConvertible {
  /// Lower-case digits in groups, without braces.
  package var description: String {
    let digits = Array(Self.digits(high) + Self.digits(low))
    return [0..<8, 8..<12, 12..<16, 16..<20, 20..<32].map { String(digits[$0]) }.joined(separator: "-")
  }

  private static func digits(_ half: UInt64) -> String {
    let text = String(half, radix: 16)
    return String(repeating: "0", count: 16 - text.count) + text
  }
}

extension RawSpan {
  /// The little-endian integer at an offset; throws where the structure ends before it.
  @inline(always)
  func number<T: FixedWidthInteger & BitwiseCopyable>(at offset: Int) throws(ImageError) -> T {
    guard let value: T = littleEndian(at: offset) else {
      throw .truncated("a structure of \(byteCount) bytes ends before its field at byte \(offset)")
    }
    return value
  }

  /// Whether the bytes at an offset are these ASCII characters.
  func hasSignature(_ signature: StaticString, at offset: Int = 0) -> Bool {
    let count = signature.utf8CodeUnitCount
    guard offset >= 0, count <= byteCount, offset <= byteCount - count else { return false }
    for (index, expected) in signature.description.utf8.enumerated() where self[offset + index] != expected {
      return false
    }
    return true
  }
}
