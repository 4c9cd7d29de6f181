/// Numbers that commands of the disk exerciser take.
package enum IONumber {
  /// Most bytes of one request.
  package static let maximumRequestByteCount: UInt64 = 0x7fff_fe00  // QEMU: 2^31 less a sector

  package static func size(_ text: String) throws(IOFailure) -> UInt64 {
    do throws(SizeText.Problem) {
      return try SizeText.parse(text)
    } catch {
      throw .line(
        error == .tooLarge
          ? "Parsing error: argument too large -- \(text)"
          : "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- \(text)")
    }
  }

  /// The length of a request.
  package static func length(_ text: String) throws(IOFailure) -> UInt64 {
    let length = try size(text)
    guard length <= maximumRequestByteCount else {
      throw .line("length cannot exceed \(maximumRequestByteCount), given \(text)")
    }
    return length
  }

  /// The sum of the lengths of several buffers.
  package static func lengths(_ texts: ArraySlice<String>) throws(IOFailure) -> UInt64 {
    var sum: UInt64 = 0
    for text in texts {
      sum += try size(text)
      guard sum <= maximumRequestByteCount else {
        throw .line("The total number of bytes exceed the maximum size \(maximumRequestByteCount)")
      }
    }
    return sum
  }

  /// A whole number in C's notation: 10, 0x10, 010.
  package static func whole(_ text: String) -> Int? {
    var rest = Substring(text)
    let isNegative = rest.hasPrefix("-")
    if isNegative { rest.removeFirst() }
    let radix: Int
    if rest.hasPrefix("0x") || rest.hasPrefix("0X") {
      radix = 16
      rest.removeFirst(2)
    } else {
      radix = rest.hasPrefix("0") && rest.count > 1 ? 8 : 10
    }
    guard let first = rest.first, first.isHexDigit, let value = Int(rest, radix: radix) else { return nil }
    return isNegative ? -value : value
  }

  package static func pattern(_ text: String) throws(IOFailure) -> UInt8 {
    guard let value = whole(text), let byte = UInt8(exactly: value) else {
      throw .line("\(text) is not a valid pattern byte")
    }
    return byte
  }

  package static func sectorAligned(_ value: UInt64, _ what: String) throws(IOFailure) {
    guard value % 512 == 0 else { throw .line("\(value) is not a sector-aligned value for '\(what)'") }
  }
}
