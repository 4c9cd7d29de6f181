import CPlatter
package import PlatterCore

/// Numbers and tables for people, in the layout of qemu-img 7.2: scripts read it.
package enum HumanText {
  /// "196 KiB", "1.34 MiB": three digits, the next unit from 1000 on.
  package static func size(_ byteCount: UInt64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    var value = Double(byteCount)
    var unit = 0
    while value >= 1000, unit < units.count - 1 {
      value /= 1024
      unit += 1
    }
    return threeDigits(value) + " " + units[unit]
  }

  private static func threeDigits(_ value: Double) -> String {
    var text = [CChar](repeating: 0, count: 64)
    let count = unsafe platter_format_three_digits(value, &text, text.count)
    return string(text, count)
  }

  package static func twoDecimals(_ value: Double) -> String {
    var text = [CChar](repeating: 0, count: 64)
    let count = unsafe platter_format_two_decimals(value, &text, text.count)
    return string(text, count)
  }

  private static func string(_ text: [CChar], _ count: Int32) -> String {
    String(decoding: text.prefix(max(0, min(Int(count), text.count - 1))).map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  /// At least `width` characters, the text to the left.
  package static func left(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.utf8.count))
  }

  /// At least `width` characters, the text to the right.
  package static func right(_ text: String, _ width: Int) -> String {
    String(repeating: " ", count: max(0, width - text.utf8.count)) + text
  }

  /// Printf's `%#-16x`: hexadecimal with "0x", but a bare 0.
  package static func hexadecimal(_ value: UInt64, _ width: Int) -> String {
    left(value == 0 ? "0" : value.hex, width)
  }

  /// "2026-11-21 08:18:14" in the zone of the machine.
  package static func localTime(_ seconds: Int64) -> String {
    var text = [CChar](repeating: 0, count: 64)
    let count = unsafe platter_format_local_time(seconds, &text, text.count)
    return count > 0 ? string(text, count) : "?"
  }

  /// A guest's clock: "00:12:31.004".
  package static func clock(nanoseconds: UInt64) -> String {
    let seconds = nanoseconds / 1_000_000_000
    let parts = [seconds / 3600, seconds / 60 % 60, seconds % 60]
    return parts.map { padded(Int($0), 2) }.joined(separator: ":") + "."
      + padded(Int(nanoseconds / 1_000_000 % 1000), 3)
  }

  private static func padded(_ value: Int, _ width: Int) -> String {
    let digits = String(value)
    return String(repeating: "0", count: max(0, width - digits.utf8.count)) + digits
  }

  /// A value as indented lines; "-" in names becomes a space.
  package static func write(_ value: Property, level: Int, to output: Output) {
    switch value {
    case .object(let members):
      for member in members {
        let name = String(member.name.map { $0 == "-" ? " " : $0 })
        write(name: name, member.value, level: level, to: output)
      }
    case .list(let items):
      for (index, item) in items.enumerated() { write(name: "[\(index)]", item, level: level, to: output) }
    default:
      output.write(line: plain(value))
    }
  }

  private static func write(name: String, _ value: Property, level: Int, to output: Output) {
    output.write(String(repeating: "    ", count: level) + name + ":")
    switch value {
    case .object, .list:
      output.write("\n" as StaticString)
      write(value, level: level + 1, to: output)
    default:
      output.write(" " as StaticString)
      write(value, level: level + 1, to: output)
    }
  }

  private static func plain(_ value: Property) -> String {
    switch value {
    case .text(let text): return printable(text)
    case .integer(let number): return String(number)
    case .unsigned(let number): return String(number)
    case .flag(let flag): return flag ? "true" : "false"
    default: return ""
    }
  }

  /// A text from an image with its control characters escaped, so that it cannot drive a terminal.
  package static func printable(_ text: String, keepingLineEnds: Bool = false) -> String {
    func isEscaped(_ scalar: Unicode.Scalar) -> Bool { isControl(scalar) && !(keepingLineEnds && scalar == "\n") }
    guard text.unicodeScalars.contains(where: isEscaped) else { return text }
    var result = ""
    for scalar in text.unicodeScalars {
      if isEscaped(scalar) {
        result += "\\x" + (scalar.value < 16 ? "0" : "") + String(scalar.value, radix: 16)
      } else {
        result.unicodeScalars.append(scalar)
      }
    }
    return result
  }

  private static func isControl(_ scalar: Unicode.Scalar) -> Bool {
    scalar.value < 0x20 || (0x7f...0x9f).contains(scalar.value)
  }
}
