// Values of `-o` options: text as people write it, read the same way by every format and by the program.

extension CreationOption {
  /// The value as the line about a new image shows it: sizes and numbers in plain digits.
  /// - Throws: `.invalidArgument` where the text is no value of this kind.
  package func shown(_ text: String) throws(ImageError) -> String {
    switch kind {
    case .size: return String(try CreationValue.size(text, of: name))
    case .number: return String(try CreationValue.number(text, of: name))
    case .flag: return try CreationValue.flag(text, of: name) ? "on" : "off"
    case .text: return text
    }
  }
}

package enum CreationValue {
  package static func flag(_ text: String, of name: String) throws(ImageError) -> Bool {
    switch text {
    case "on": return true
    case "off": return false
    default: throw .invalidArgument("Parameter '\(name)' expects 'on' or 'off'")
    }
  }

  package static func number(_ text: String, of name: String) throws(ImageError) -> UInt64 {
    guard let value = UInt64(text) else { throw .invalidArgument("Parameter '\(name)' expects a number") }
    return value
  }

  /// Bytes: a decimal number with an optional fraction and an optional letter of b, k, M, G, T, P, E; or 0x and a
  /// hexadecimal one.
  package static func size(_ text: String, of name: String) throws(ImageError) -> UInt64 {
    guard let value = size(text) else {
      throw .invalidArgument("Parameter '\(name)' expects a non-negative number below 2^64")
    }
    return value
  }

  private static func size(_ text: String) -> UInt64? {
    if text.hasPrefix("0x") || text.hasPrefix("0X") {
      let digits = text.dropFirst(2)
      return digits.first?.isHexDigit == true ? UInt64(digits, radix: 16) : nil
    }
    var digits = text[...]
    var unit: UInt64 = 1
    if let last = text.last?.lowercased().first, let power = "bkmgtpe".firstIndex(of: last) {
      unit = 1 << UInt64(10 * "bkmgtpe".distance(from: "bkmgtpe".startIndex, to: power))
      digits.removeLast()
    }
    let parts = digits.split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
    guard let first = parts.first, let whole = UInt64(first), let bytes = whole.multiplied(by: unit) else { return nil }
    guard parts.count == 2 else { return bytes }
    guard unit > 1, !parts[1].isEmpty, parts[1].allSatisfy({ ("0"..."9").contains($0) }),
      let fraction = Double("0.\(parts[1])")
    else { return nil }
    return bytes.adding(UInt64(fraction * Double(unit)))
  }
}

extension CreationRequest {
  package func text(_ name: String) -> String? { options[name] }

  package func flag(_ name: String) throws(ImageError) -> Bool? {
    try options[name].map { text throws(ImageError) in try CreationValue.flag(text, of: name) }
  }

  package func size(_ name: String) throws(ImageError) -> UInt64? {
    try options[name].map { text throws(ImageError) in try CreationValue.size(text, of: name) }
  }

  package func number(_ name: String) throws(ImageError) -> UInt64? {
    try options[name].map { text throws(ImageError) in try CreationValue.number(text, of: name) }
  }

  /// - Throws: `.invalidArgument` for an option that the format does not list.
  package func checkNames(_ known: [CreationOption]) throws(ImageError) {
    for name in options.keys.sorted() where !known.contains(where: { $0.name == name }) {
      throw .invalidArgument("Invalid parameter '\(name)'")
    }
  }
}
