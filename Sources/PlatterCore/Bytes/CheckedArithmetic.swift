// Arithmetic on numbers that came from a file. Plain operators trap on overflow; these return nil, so that the caller
// must say what is wrong with the image.

extension FixedWidthInteger {
  /// The sum, or nil where it overflows.
  @inlinable package func adding(_ other: Self) -> Self? {
    let (value, overflow) = addingReportingOverflow(other)
    return overflow ? nil : value
  }

  /// The difference, or nil where it overflows.
  @inlinable package func subtracting(_ other: Self) -> Self? {
    let (value, overflow) = subtractingReportingOverflow(other)
    return overflow ? nil : value
  }

  /// The product, or nil where it overflows.
  @inlinable package func multiplied(by other: Self) -> Self? {
    let (value, overflow) = multipliedReportingOverflow(by: other)
    return overflow ? nil : value
  }
}

extension UInt64 {
  /// The quotient rounded up; never overflows. Traps for a divisor of 0.
  @inlinable package func dividedRoundingUp(by divisor: UInt64) -> UInt64 {
    let (quotient, remainder) = quotientAndRemainder(dividingBy: divisor)
    return remainder == 0 ? quotient : quotient &+ 1
  }

  /// The next multiple of `unit` at or above, or nil where it overflows.
  @inlinable package func roundedUp(toMultipleOf unit: UInt64) -> UInt64? {
    dividedRoundingUp(by: unit).multiplied(by: unit)
  }

  /// The next multiple of `unit` at or below.
  @inlinable package func roundedDown(toMultipleOf unit: UInt64) -> UInt64 { self - self % unit }

  /// `0x` and the number in lower-case hexadecimal digits, as error sentences show offsets.
  package var hex: String { "0x" + String(self, radix: 16) }
}
