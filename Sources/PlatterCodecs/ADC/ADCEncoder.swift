/// Packs units by Apple Data Compression. Belongs to one thread; 640 KB of memory.
@safe package final class ADCEncoder {
  private static let maximumLength = 67
  private static let maximumShortLength = 18
  private static let maximumShortDistance = 1024
  private static let maximumLiteralCount = 128

  private let finder = MatchFinder(maximumDistance: ADCDecoder.windowByteCount, minimumLength: 3, depth: 16)

  package init() {}

  /// Packs one unit.
  ///
  /// - Returns: bytes written; nil where the actions do not fit into `output`, and so are not worth it. At worst a unit
  ///   of n bytes takes n + n / 128, rounded up.
  package func encode(_ bytes: RawSpan, into output: inout MutableRawSpan) -> Int? {
    guard bytes.byteCount <= Int32.max else { return nil }
    return unsafe bytes.withUnsafeBytes { source in
      unsafe output.withUnsafeMutableBytes { target in
        guard let base = source.baseAddress else { return 0 }
        var writer = unsafe ByteWriter(target)
        unsafe run(base, source.count, &writer)
        return writer.hasOverflowed ? nil : writer.count
      }
    }
  }

  private func run(_ bytes: UnsafeRawPointer, _ count: Int, _ writer: inout ByteWriter) {
    finder.reset()
    var position = 0
    var literalStart = 0
    while position < count, !writer.hasOverflowed {
      let match = unsafe finder.insert(position, bytes, end: count, limit: Self.maximumLength)
      // Three bytes pay only where two say it.
      guard match.length > 3 || (match.length == 3 && match.distance <= Self.maximumShortDistance) else {
        position += 1
        continue
      }
      unsafe appendLiterals(bytes + literalStart, position - literalStart, &writer)
      append(match, &writer)
      for skipped in position + 1..<position + match.length { unsafe finder.insert(skipped, bytes, end: count) }
      position += match.length
      literalStart = position
    }
    unsafe appendLiterals(bytes + literalStart, count - literalStart, &writer)
  }

  private func append(_ match: (length: Int, distance: Int), _ writer: inout ByteWriter) {
    let offset = match.distance - 1
    if match.length <= Self.maximumShortLength, match.distance <= Self.maximumShortDistance {
      writer.append(UInt8(match.length - 3) << 2 | UInt8(offset >> 8))
    } else {
      writer.append(0x40 | UInt8(match.length - 4))
      writer.append(UInt8(offset >> 8))
    }
    writer.append(UInt8(offset & 0xFF))
  }

  private func appendLiterals(_ bytes: UnsafeRawPointer, _ count: Int, _ writer: inout ByteWriter) {
    var start = 0
    while start < count {
      let part = min(count - start, Self.maximumLiteralCount)
      writer.append(0x80 | UInt8(part - 1))
      unsafe writer.append(bytes + start, part)
      start += part
    }
  }
}
