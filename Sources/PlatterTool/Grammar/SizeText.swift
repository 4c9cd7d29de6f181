/// Sizes as people write them: a number, decimal or 0x…, with at most one letter for a power of 1024.
package enum SizeText {
  package enum Problem: Error, Sendable, Equatable {
    case malformed
    /// Not below 2^63: no file is longer.
    case tooLarge
  }

  /// Bytes. `1.5G`, `64k`, `0x200`, `512b`.
  package static func parse(_ text: String, defaultUnit: UInt64 = 1) throws(Problem) -> UInt64 {
    var rest = Substring(text)
    while rest.first == " " { rest.removeFirst() }
    if rest.first == "+" { rest.removeFirst() }
    if rest.hasPrefix("0x") || rest.hasPrefix("0X") { return try parseHexadecimal(rest.dropFirst(2)) }

    let digits = rest.prefix(while: isDigit)
    rest = rest.dropFirst(digits.count)
    var fraction: Substring = ""
    if rest.first == "." {
      rest.removeFirst()
      fraction = rest.prefix(while: isDigit)
      rest = rest.dropFirst(fraction.count)
    }
    guard !digits.isEmpty || !fraction.isEmpty, rest.count <= 1 else { throw .malformed }
    let unit = try rest.first.map { letter throws(Problem) in try unitOf(letter) } ?? defaultUnit
    guard fraction.allSatisfy({ $0 == "0" }) || unit > 1 else { throw .malformed }
    return try combine(digits, fraction, unit)
  }

  private static func combine(_ digits: Substring, _ fraction: Substring, _ unit: UInt64) throws(Problem) -> UInt64 {
    guard let whole = digits.isEmpty ? 0 : UInt64(digits) else { throw .tooLarge }
    let (product, overflow) = whole.multipliedReportingOverflow(by: unit)
    let part = (Double("0." + (fraction.isEmpty ? "0" : fraction)) ?? 0) * Double(unit)
    guard !overflow, let sum = Optional(product.addingReportingOverflow(UInt64(part))), !sum.overflow,
      sum.partialValue <= UInt64(Int64.max)
    else { throw .tooLarge }
    return sum.partialValue
  }

  private static func parseHexadecimal(_ text: Substring) throws(Problem) -> UInt64 {
    guard !text.isEmpty, text.allSatisfy({ $0.isASCII && $0.isHexDigit }) else { throw .malformed }
    guard let value = UInt64(text, radix: 16), value <= UInt64(Int64.max) else { throw .tooLarge }
    return value
  }

  private static func isDigit(_ character: Character) -> Bool { ("0"..."9").contains(character) }

  private static func unitOf(_ letter: Character) throws(Problem) -> UInt64 {
    switch letter {
    case "b", "B": return 1
    case "k", "K": return 1 << 10
    case "m", "M": return 1 << 20
    case "g", "G": return 1 << 30
    case "t", "T": return 1 << 40
    case "p", "P": return 1 << 50
    case "e", "E": return 1 << 60
    default: throw .malformed
    }
  }

  /// The value of an option, or the two lines that QEMU's programs print.
  package static func option(_ text: String, named name: String) throws(Failure) -> UInt64 {
    do {
      return try parse(text)
    } catch .tooLarge {
      throw Failure("Invalid \(name) specified. Must be between 0 and 9223372036854775807.")
    } catch {
      var failure = Failure("Invalid \(name) specified. You may use k, M, G, T, P or E suffixes for")
      failure.sentences.append("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.")
      throw failure
    }
  }
}
