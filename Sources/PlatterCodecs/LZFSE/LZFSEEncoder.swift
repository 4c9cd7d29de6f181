/// Packs units as LZFSE streams: LZVN for small ones, LZFSE for others, stored where that is smaller. Belongs to one
/// thread; about 2 MB of memory.
@safe package final class LZFSEEncoder {
  /// Below, the tables of an LZFSE block do not pay.
  private static let minimumByteCount = 4096  // Apple's encoder
  private static let minimumLZVNByteCount = 8  // Apple's encoder
  private static let maximumDistance = 262_139
  private static let minimumMatchLength = 4
  /// Shorter matches wait for what the next byte offers.
  private static let eagerLength = 32

  private lazy var finder = MatchFinder(
    maximumDistance: LZFSEEncoder.maximumDistance, minimumLength: LZFSEEncoder.minimumMatchLength, depth: 8)
  private lazy var smallFinder = MatchFinder(
    maximumDistance: LZVNEncoder.maximumDistance, minimumLength: LZFSEEncoder.minimumMatchLength, depth: 8)
  private var block = LZFSEBlockEncoder()

  package init() {}

  /// Packs one unit.
  ///
  /// - Returns: bytes written, end mark included; nil where the stream does not fit into `output`, and so is not worth
  ///   it. At worst a unit of n bytes takes n + 12.
  package func encode(_ bytes: RawSpan, into output: inout MutableRawSpan) -> Int? {
    guard bytes.byteCount <= Int32.max else { return nil }
    return unsafe bytes.withUnsafeBytes { source in
      unsafe output.withUnsafeMutableBytes { target in
        let packed = unsafe encodePacked(source, target)
        let storedByteCount = source.count + 12
        if let packed, packed < storedByteCount { return packed }
        guard storedByteCount <= target.count else { return nil }
        var writer = unsafe ByteWriter(target)
        if source.count > 0 {
          writer.appendLittleEndian(LZFSE.storedMagic)
          writer.appendLittleEndian(UInt32(source.count))
          unsafe writer.append(source)
        }
        writer.appendLittleEndian(LZFSE.endMagic)
        return writer.hasOverflowed ? nil : writer.count
      }
    }
  }

  private func encodePacked(_ source: UnsafeRawBufferPointer, _ target: UnsafeMutableRawBufferPointer) -> Int? {
    guard source.count >= Self.minimumLZVNByteCount else { return nil }
    var writer = unsafe ByteWriter(target)
    if source.count < Self.minimumByteCount {
      unsafe encodeLZVN(source, target, &writer)
    } else {
      unsafe encodeBlocks(source, &writer)
    }
    writer.appendLittleEndian(LZFSE.endMagic)
    return writer.hasOverflowed ? nil : writer.count
  }

  private func encodeLZVN(
    _ source: UnsafeRawBufferPointer, _ target: UnsafeMutableRawBufferPointer, _ writer: inout ByteWriter
  ) {
    guard let base = source.baseAddress else { return }
    writer.appendLittleEndian(LZFSE.lzvnMagic)
    writer.appendLittleEndian(UInt32(source.count))
    writer.appendLittleEndian(UInt32(0))
    let start = writer.count
    var lzvn = LZVNEncoder()
    let rest = unsafe forEachMatch(source, smallFinder) { literals, length, distance in
      unsafe lzvn.append(
        literals: base + literals.lowerBound, literals.count, length: length, distance: distance, &writer)
      return !writer.hasOverflowed
    }
    unsafe lzvn.append(literals: base + rest.lowerBound, rest.count, &writer)
    for byte in LZVNEncoder.endOpcode { writer.append(byte) }
    guard !writer.hasOverflowed else { return }
    unsafe target.storeBytes(of: UInt32(writer.count - start).littleEndian, toByteOffset: 8, as: UInt32.self)
  }

  private func encodeBlocks(_ source: UnsafeRawBufferPointer, _ writer: inout ByteWriter) {
    let rest = unsafe forEachMatch(source, finder) { literals, length, distance in
      unsafe block.append(
        literals: UnsafeRawBufferPointer(rebasing: source[literals]), length: length, distance: distance, &writer)
      return !writer.hasOverflowed
    }
    if !rest.isEmpty {
      unsafe block.append(
        literals: UnsafeRawBufferPointer(rebasing: source[rest]), length: 0, distance: 1, &writer)
    }
    block.flush(&writer)
  }

  /// Finds matches in order, each with the literals before it, until `body` says stop.
  ///
  /// - Returns: the literals after the last match.
  private func forEachMatch(
    _ source: UnsafeRawBufferPointer, _ finder: MatchFinder,
    _ body: (_ literals: Range<Int>, _ length: Int, _ distance: Int) -> Bool
  ) -> Range<Int> {
    let end = source.count
    guard let bytes = source.baseAddress else { return 0..<0 }
    finder.reset()
    var literalStart = 0
    var position = 0
    while position < end {
      var match = unsafe finder.insert(position, bytes, end: end, limit: end)
      guard match.length >= Self.minimumMatchLength else {
        position &+= 1
        continue
      }
      // A longer match one byte on is worth a literal.
      while match.length < Self.eagerLength, position &+ 1 < end {
        let next = unsafe finder.insert(position &+ 1, bytes, end: end, limit: end)
        guard next.length > match.length else { break }
        match = next
        position &+= 1
      }
      let matchEnd = position &+ match.length
      guard body(literalStart..<position, match.length, match.distance) else { return literalStart..<literalStart }
      // The first two positions may be in already; a position must not be inserted twice.
      var skipped = position &+ (match.length < Self.eagerLength ? 2 : 1)
      while skipped < matchEnd {
        unsafe finder.insert(skipped, bytes, end: end)
        skipped &+= 1
      }
      position = matchEnd
      literalStart = matchEnd
    }
    return literalStart..<end
  }
}
