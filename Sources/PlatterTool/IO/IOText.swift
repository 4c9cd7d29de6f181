import PlatterCore

/// Numbers as the disk exerciser prints them.
package enum IOText {
  private static let units: [(bytes: Double, name: String)] = [
    (0x1p60, "EiB"), (0x1p50, "PiB"), (0x1p40, "TiB"), (0x1p30, "GiB"), (0x1p20, "MiB"), (0x1p10, "KiB"),
  ]

  /// "64 KiB", "1.500 MiB", "512 bytes", "13.361528 bytes": no decimals where they would be zeros.
  package static func size(_ value: Double) -> String {
    for unit in units where value >= unit.bytes { return trimmed(value / unit.bytes, 3) + " " + unit.name }
    return trimmed(value, 6) + " bytes"
  }

  package static func size(_ value: UInt64) -> String { size(Double(value)) }

  private static func trimmed(_ value: Double, _ count: Int) -> String {
    let text = decimals(value, count)
    let zeros = "." + String(repeating: "0", count: count)
    return text.hasSuffix(zeros) ? String(text.dropLast(count + 1)) : text
  }

  /// A value that is not negative with `count` decimals.
  package static func decimals(_ value: Double, _ count: Int) -> String {
    var scale: UInt64 = 1
    for _ in 0..<count { scale *= 10 }
    let scaled = (value * Double(scale)).rounded(.toNearestOrEven)
    guard scaled.isFinite, scaled < 0x1p63 else { return "inf" }
    let digits = UInt64(scaled)
    let fraction = String(digits % scale)
    return "\(digits / scale)." + String(repeating: "0", count: count - fraction.utf8.count) + fraction
  }

  /// "00.18 sec", "01:02.03", "1:21:44.83".
  package static func time(_ seconds: Double, isFull: Bool = false) -> String {
    let hundredths = UInt64(max(0, min(seconds, 1e12)) * 100)
    let tail = two(hundredths / 100 % 60) + "." + two(hundredths % 100)
    let minutes = hundredths / 6000
    if isFull || minutes >= 60 { return "\(minutes / 60):\(two(minutes % 60)):\(tail)" }
    return minutes > 0 ? "\(two(minutes)):\(tail)" : tail + " sec"
  }

  private static func two(_ value: UInt64) -> String { (value < 10 ? "0" : "") + String(value) }

  /// The lines that tell of a request that has ended.
  package static func report(
    _ what: String, done: UInt64, of total: UInt64, at offset: UInt64, seconds: Double, isTerse: Bool
  ) -> String {
    let time = max(seconds, 1e-9)
    let bytesPerSecond = Double(done) / time
    let requestsPerSecond = 1 / time
    if isTerse {
      return "\(done),1,\(Self.time(seconds, isFull: true)),\(decimals(bytesPerSecond, 3)),"
        + decimals(requestsPerSecond, 3)
    }
    return "\(what) \(done)/\(total) bytes at offset \(offset)\n"
      + "\(size(done)), 1 ops; \(Self.time(seconds)) (\(size(bytesPerSecond))/sec and "
      + "\(decimals(requestsPerSecond, 4)) ops/sec)"
  }

  /// Sixteen bytes a line, in hexadecimal and as text.
  package static func dump(_ bytes: RawSpan, at offset: UInt64, to output: Output) {
    var position = 0
    while position < bytes.byteCount {
      let end = min(position + 16, bytes.byteCount)
      let digits = String(offset + UInt64(position), radix: 16)
      var line = String(repeating: "0", count: max(0, 8 - digits.utf8.count)) + digits + ":  "
      var text = ""
      for index in position..<end {
        let byte = bytes[index]
        line += (byte < 16 ? "0" : "") + String(byte, radix: 16) + " "
        text.unicodeScalars.append((0x20...0x7e).contains(byte) ? UnicodeScalar(byte) : ".")
      }
      output.write(line: line + " " + text)
      position = end
    }
  }
}
