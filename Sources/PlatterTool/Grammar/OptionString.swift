/// Lists of `key=value` joined by commas; a doubled comma is one comma of the value.
package enum OptionString {
  package struct Pair: Sendable, Equatable {
    package var key: String
    /// Nil where there was no "=".
    package var value: String?

    package init(_ key: String, _ value: String?) {
      self.key = key
      self.value = value
    }
  }

  /// The pairs in order. An empty text has none.
  package static func parse(_ text: String) -> [Pair] {
    var pairs: [Pair] = []
    var key = ""
    var value: String?
    var rest = text.unicodeScalars[...]
    guard !rest.isEmpty else { return [] }
    while let scalar = rest.popFirst() {
      if scalar == ",", value != nil, rest.first == "," {
        rest.removeFirst()
        value?.unicodeScalars.append(",")
      } else if scalar == "," {
        pairs.append(Pair(key, value))
        key = ""
        value = nil
      } else if scalar == "=", value == nil {
        value = ""
      } else if value != nil {
        value?.unicodeScalars.append(scalar)
      } else {
        key.unicodeScalars.append(scalar)
      }
    }
    if !key.isEmpty || value != nil { pairs.append(Pair(key, value)) }
    return pairs
  }

  /// As a dictionary; a key without a value is "on", or "off" for "noKEY", as QEMU has it; the last of equal keys wins.
  package static func dictionary(_ text: String) -> [String: String] {
    var result: [String: String] = [:]
    for pair in parse(text) { result[pair.key] = pair.value ?? "on" }
    return result
  }
}
