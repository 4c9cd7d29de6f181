import CPlatter

/// Encodings of names inside images, made into UTF-8.
package enum TextEncoding {
  /// The text in UTF-8, or nil where the encoding is unknown to this system or the bytes are not of it.
  ///
  /// - Parameter name: as images spell it: "UTF-8", "windows-1252", "GBK", "Big5", "Shift_JIS".
  package static func utf8(_ bytes: [UInt8], from name: String) -> [UInt8]? {
    switch name.lowercased() {
    case "utf-8", "utf8": return bytes
    case "windows-1252", "cp1252": return windows1252(bytes)
    default: return converted(bytes, from: name)
    }
  }

  /// Bytes 0x80 to 0x9F of windows-1252; the rest is Latin-1. Five places are unused and stand for themselves.
  private static let windows1252HighControls: [UInt16] = [
    0x20ac, 0x81, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160, 0x2039, 0x0152, 0x8d, 0x017d,
    0x8f,
    0x90, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0x9d, 0x017e,
    0x0178,
  ]

  private static func windows1252(_ bytes: [UInt8]) -> [UInt8] {
    var text: [UInt8] = []
    for byte in bytes {
      let code = (0x80...0x9f).contains(byte) ? windows1252HighControls[Int(byte) - 0x80] : UInt16(byte)
      if let scalar = Unicode.Scalar(code) { text += Array(String(Character(scalar)).utf8) }
    }
    return text
  }

  private static func converted(_ bytes: [UInt8], from name: String) -> [UInt8]? {
    // Two bytes become three at most, one becomes three.
    var output = [UInt8](repeating: 0, count: bytes.count * 3)
    let capacity = output.count
    let count = unsafe name.withCString { name in
      unsafe bytes.withUnsafeBufferPointer { input in
        unsafe output.withUnsafeMutableBufferPointer { output in
          unsafe platter_to_utf8(name, input.baseAddress, input.count, output.baseAddress, capacity)
        }
      }
    }
    guard count >= 0, count <= capacity else { return nil }
    output.removeLast(capacity - count)
    return output
  }
}
