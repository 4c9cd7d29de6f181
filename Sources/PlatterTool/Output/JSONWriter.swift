package import PlatterCore

/// JSON as QEMU's programs print it: four spaces a level, `"name": value`, everything beyond ASCII escaped.
package enum JSONWriter {
  /// The value over several lines, without a line end after it.
  package static func write(_ value: Property, to output: Output, level: Int = 0) {
    switch value {
    case .null: output.write("null" as StaticString)
    case .flag(let flag): output.write(flag ? "true" : "false" as StaticString)
    case .integer(let number): output.write(String(number))
    case .unsigned(let number): output.write(decimal: number)
    case .text(let text): write(quoted: text, to: output)
    case .list(let items):
      writeBlock(open: "[", close: "]", count: items.count, level: level, to: output) { index in
        write(items[index], to: output, level: level + 1)
      }
    case .object(let members):
      writeBlock(open: "{", close: "}", count: members.count, level: level, to: output) { index in
        write(quoted: members[index].name, to: output)
        output.write(": " as StaticString)
        write(members[index].value, to: output, level: level + 1)
      }
    }
  }

  private static func writeBlock(
    open: StaticString, close: StaticString, count: Int, level: Int, to output: Output, _ item: (Int) -> Void
  ) {
    output.write(open)
    for index in 0..<count {
      if index > 0 { output.write("," as StaticString) }
      startLine(level + 1, output)
      item(index)
    }
    startLine(level, output)
    output.write(close)
  }

  private static func startLine(_ level: Int, _ output: Output) {
    output.write("\n" as StaticString)
    for _ in 0..<level { output.write("    " as StaticString) }
  }

  /// A string in quotation marks.
  package static func write(quoted text: String, to output: Output) { output.write(quoted(text)) }

  package static func quoted(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": result += "\\\""
      case "\\": result += "\\\\"
      case "\u{8}": result += "\\b"
      case "\u{c}": result += "\\f"
      case "\n": result += "\\n"
      case "\r": result += "\\r"
      case "\t": result += "\\t"
      case " "..."~": result.unicodeScalars.append(scalar)
      default: for unit in UTF16.encode(scalar) ?? UTF16.encodedReplacementCharacter { result += escape(unit) }
      }
    }
    return result + "\""
  }

  private static func escape(_ unit: UInt16) -> String {
    let digits = String(unit, radix: 16, uppercase: true)
    return "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
  }
}
