import PlatterCore

/// A checksum as trailer and block tables hold it: 136 bytes.
struct StoredChecksum: Sendable, Equatable {
  static let byteCount = 136
  static let maximumValueByteCount = 128

  enum Algorithm: String, Sendable {
    case none
    case crc32
    case md5
    case sha1
    case sha256
    case sha384
    case sha512
    case unknown
  }

  /// Bytes 0..<4.
  var type: UInt32
  /// Bytes 4..<8: **bits** of the value, not bytes.
  var bitCount: UInt32
  /// Bytes 8..<136: the value, here cut to its length.
  var value: [UInt8]

  static let none = StoredChecksum(type: 0, bitCount: 0, value: [])

  /// - Parameter offset: where the checksum lies; its 136 bytes must be inside `bytes`.
  init?(parsing bytes: RawSpan, at offset: Int) {
    guard let type: UInt32 = bytes.bigEndian(at: offset), let bitCount: UInt32 = bytes.bigEndian(at: offset + 4)
    else { return nil }
    let count = min(Int(bitCount / 8), Self.maximumValueByteCount)
    guard let value = bytes.bytes(at: offset + 8, count: count) else { return nil }
    self.init(type: type, bitCount: bitCount, value: value)
  }

  init(type: UInt32, bitCount: UInt32, value: [UInt8]) {
    self.type = type
    self.bitCount = bitCount
    self.value = value
  }

  /// Type 2 is CRC-32. The others are told by their length, which no two of them share.
  var algorithm: Algorithm {
    switch (type, bitCount) {
    case (0, _): .none
    case (2, 32): .crc32
    case (2, _): .unknown
    case (_, 128): .md5
    case (_, 160): .sha1
    case (_, 256): .sha256
    case (_, 384): .sha384
    case (_, 512): .sha512
    default: .unknown
    }
  }

  /// The value of a CRC-32.
  var crc32: UInt32? {
    guard algorithm == .crc32 else { return nil }
    return value.reduce(0) { $0 << 8 | UInt32($1) }
  }

  /// The value in hexadecimal digits, upper case as hdiutil prints it.
  var text: String { value.hexadecimal }
}

extension [UInt8] {
  /// Two upper-case hexadecimal digits a byte.
  var hexadecimal: String {
    let digits = Array("0123456789ABCDEF".utf8)
    var text: [UInt8] = []
    text.reserveCapacity(count * 2)
    for byte in self {
      text.append(digits[Int(byte >> 4)])
      text.append(digits[Int(byte & 15)])
    }
    return String(decoding: text, as: UTF8.self)
  }
}
