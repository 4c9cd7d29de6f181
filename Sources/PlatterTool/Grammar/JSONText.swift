/// A JSON value. Numbers keep their spelling, so that nothing is rounded.
package indirect enum JSONValue: Sendable, Equatable {
  case null
  case flag(Bool)
  case number(String)
  case text(String)
  case list([JSONValue])
  case object([Member])

  package struct Member: Sendable, Equatable {
    package var name: String
    package var value: JSONValue
    package init(_ name: String, _ value: JSONValue) {
      self.name = name
      self.value = value
    }
  }
}

extension JSONValue {
  package static let maximumByteCount = 1 << 20  // ours: a name on a command line
  package static let maximumDepth = 64  // ours; QEMU's is 1024

  /// The value of a JSON text (RFC 8259; QEMU's single-quoted strings too).
  package static func parse(_ text: String) throws(Failure) -> JSONValue {
    guard text.utf8.count <= maximumByteCount else { throw Failure("JSON text is longer than 1 MiB") }
    var parser = JSONParser(Array(text.utf8))
    let value = try parser.value(depth: 0)
    try parser.end()
    return value
  }

  /// An object as driver options: nested names joined with dots, items of lists named by their number.
  package func flattened() throws(Failure) -> [String: String] {
    guard case .object = self else { throw Failure("Expecting a JSON object") }
    var result: [String: String] = [:]
    try flatten(into: &result, name: "")
    return result
  }

  private func flatten(into result: inout [String: String], name: String) throws(Failure) {
    let prefix = name.isEmpty ? "" : name + "."
    switch self {
    case .null: break
    case .flag(let flag): try insert(flag ? "on" : "off")
    case .number(let text), .text(let text): try insert(text)
    case .list(let items):
      for (index, item) in items.enumerated() { try item.flatten(into: &result, name: prefix + String(index)) }
    case .object(let members):
      for member in members { try member.value.flatten(into: &result, name: prefix + member.name) }
    }

    func insert(_ value: String) throws(Failure) {
      guard result.updateValue(value, forKey: name) == nil else { throw Failure("duplicate key '\(name)'") }
    }
  }
}

/// A recursive-descent reader with bounded depth.
private struct JSONParser {
  private let bytes: [UInt8]
  private var position = 0

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  private var next: UInt8? { position < bytes.count ? bytes[position] : nil }

  private mutating func skipSpace() {
    while let byte = next, [0x20, 0x09, 0x0a, 0x0d].contains(byte) { position += 1 }
  }

  private func problem(_ what: String) -> Failure {
    next == nil
      ? Failure("JSON parse error, premature EOI") : Failure("JSON parse error at byte \(position), \(what)")
  }

  mutating func end() throws(Failure) {
    skipSpace()
    guard next == nil else { throw problem("expecting the end") }
  }

  mutating func value(depth: Int) throws(Failure) -> JSONValue {
    guard depth < JSONValue.maximumDepth else { throw Failure("JSON parse error, more than 64 levels") }
    skipSpace()
    switch next {
    case nil where depth == 0: throw Failure("Expecting a JSON value")
    case UInt8(ascii: "{"): return try object(depth: depth)
    case UInt8(ascii: "["): return try list(depth: depth)
    case UInt8(ascii: "\""), UInt8(ascii: "'"): return .text(try string())
    default: return try scalar()
    }
  }

  private mutating func take(_ character: Unicode.Scalar) -> Bool {
    skipSpace()
    guard next == UInt8(ascii: character) else { return false }
    position += 1
    return true
  }

  private mutating func object(depth: Int) throws(Failure) -> JSONValue {
    _ = take("{")
    var members: [JSONValue.Member] = []
    var names: Set<String> = []
    if take("}") { return .object(members) }
    repeat {
      skipSpace()
      guard next == UInt8(ascii: "\"") || next == UInt8(ascii: "'") else { throw problem("expecting a name") }
      let name = try string()
      guard take(":") else { throw problem("expecting \":\"") }
      guard names.insert(name).inserted else { throw Failure("JSON parse error, duplicate key") }
      members.append(JSONValue.Member(name, try value(depth: depth + 1)))
    } while take(",")
    guard take("}") else { throw problem("expecting \",\" or \"}\"") }
    return .object(members)
  }

  private mutating func list(depth: Int) throws(Failure) -> JSONValue {
    _ = take("[")
    var items: [JSONValue] = []
    if take("]") { return .list(items) }
    repeat { items.append(try value(depth: depth + 1)) } while take(",")
    guard take("]") else { throw problem("expecting \",\" or \"]\"") }
    return .list(items)
  }

  private mutating func scalar() throws(Failure) -> JSONValue {
    let start = position
    while let byte = next, isWordByte(byte) { position += 1 }
    let word = String(decoding: bytes[start..<position], as: UTF8.self)
    switch word {
    case "true": return .flag(true)
    case "false": return .flag(false)
    case "null": return .null
    default:
      guard word.first == "-" || word.first?.isNumber == true, Double(word) != nil else {
        position = start
        throw problem("expecting a value")
      }
      return .number(word)
    }
  }

  private func isWordByte(_ byte: UInt8) -> Bool {
    (0x30...0x39).contains(byte) || (0x61...0x7a).contains(byte | 0x20) || byte == 0x2b || byte == 0x2d || byte == 0x2e
  }

  private mutating func string() throws(Failure) -> String {
    guard let quote = next else { throw problem("expecting a string") }
    position += 1
    var result: [UInt8] = []
    while let byte = next {
      position += 1
      if byte == quote { return String(decoding: result, as: UTF8.self) }
      if byte == UInt8(ascii: "\\") {
        result += Array(String(try escape()).utf8)
      } else {
        guard byte >= 0x20 else { throw problem("control character in a string") }
        result.append(byte)
      }
    }
    throw problem("unterminated string")
  }

  private mutating func escape() throws(Failure) -> Unicode.Scalar {
    guard let byte = next else { throw problem("unterminated string") }
    position += 1
    switch byte {
    case UInt8(ascii: "b"): return "\u{8}"
    case UInt8(ascii: "f"): return "\u{c}"
    case UInt8(ascii: "n"): return "\n"
    case UInt8(ascii: "r"): return "\r"
    case UInt8(ascii: "t"): return "\t"
    case UInt8(ascii: "\""), UInt8(ascii: "'"), UInt8(ascii: "\\"), UInt8(ascii: "/"): return Unicode.Scalar(byte)
    case UInt8(ascii: "u"): return try unicodeEscape()
    default: throw problem("unknown escape")
    }
  }

  private mutating func unicodeEscape() throws(Failure) -> Unicode.Scalar {
    let high = try fourDigits()
    var value = UInt32(high)
    if (0xd800..<0xdc00).contains(high) {
      guard next == UInt8(ascii: "\\") else { throw problem("half a surrogate pair") }
      position += 1
      guard next == UInt8(ascii: "u") else { throw problem("half a surrogate pair") }
      position += 1
      let low = try fourDigits()
      guard (0xdc00..<0xe000).contains(low) else { throw problem("half a surrogate pair") }
      value = 0x10000 + (UInt32(high) - 0xd800) << 10 + (UInt32(low) - 0xdc00)
    }
    guard value != 0, let scalar = Unicode.Scalar(value) else { throw problem("invalid character") }
    return scalar
  }

  private mutating func fourDigits() throws(Failure) -> UInt16 {
    guard position + 4 <= bytes.count else { throw problem("cut escape") }
    let digits = String(decoding: bytes[position..<position + 4], as: UTF8.self)
    guard digits.utf8.allSatisfy({ $0 != 0x2b && $0 != 0x2d }), let value = UInt16(digits, radix: 16) else {
      throw problem("invalid escape")
    }
    position += 4
    return value
  }
}
