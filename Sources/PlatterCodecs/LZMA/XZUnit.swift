#if LZMA
  import CLZMA
  import PlatterCore

  /// Decodes .xz units as writers of DMG make them: one stream, one block, LZMA2 alone, checked by CRC-64, CRC-32 or not.
  ///
  /// Anything else, damage included, is left to liblzma.
  @safe package final class XZUnit {
    private static let headerByteCount = 12
    private static let magic: [UInt8] = [0xFD, 0x37, 0x7A, 0x58, 0x5A, 0]
    private let lzma = LZMADecoder()

    package init() {}

    /// Decodes one unit into a buffer of exactly the unit's size; input after the stream is ignored.
    ///
    /// - Returns: bytes produced; nil where liblzma must decide, and the output is undefined.
    package func decode(_ packed: RawSpan, into output: inout MutableRawSpan) -> Int? {
      unsafe packed.withUnsafeBytes { source in
        unsafe output.withUnsafeMutableBytes { target in
          guard let base = target.baseAddress else { return nil }
          var target = unsafe OutputTarget(base: base, capacity: target.count, written: 0)
          return unsafe decode(source.bindMemory(to: UInt8.self), &target) ? target.written : nil
        }
      }
    }

    private func decode(_ source: UnsafeBufferPointer<UInt8>, _ target: inout OutputTarget) -> Bool {
      let bytes = unsafe RawSpan(_unsafeElements: source)
      guard let flags = Self.streamFlags(bytes), let block = Self.blockHeader(bytes),
        let packedEnd = unsafe decodeChunks(source, block, &target),
        block.packedByteCount ?? (packedEnd - block.end) == packedEnd - block.end,
        block.byteCount ?? target.written == target.written
      else { return false }
      let paddedEnd = (packedEnd + 3) & ~3
      for index in packedEnd..<paddedEnd where index >= bytes.byteCount || bytes[index] != 0 { return false }
      let check = unsafe Self.check(flags, UnsafeRawBufferPointer(start: target.base, count: target.written))
      let unpadded = packedEnd - Self.headerByteCount + check.count
      let tail = check + Self.ending(flags, unpadded, target.written)
      guard Self.holds(bytes, tail, at: paddedEnd) else { return false }
      // Where there is room, another stream may follow.
      return target.written == target.capacity || !Self.holds(bytes, Self.magic, at: paddedEnd + tail.count)
    }

    private static func holds(_ bytes: RawSpan, _ expected: [UInt8], at offset: Int) -> Bool {
      guard expected.count <= bytes.byteCount - offset else { return false }
      for index in expected.indices where bytes[offset + index] != expected[index] { return false }
      return true
    }

    /// The kind of check, from the header of the stream.
    private static func streamFlags(_ bytes: RawSpan) -> UInt8? {
      guard holds(bytes, magic + [0], at: 0), let flags = bytes.bigEndian(at: 7, as: UInt8.self),
        bytes.littleEndian(at: 8) == checksum(bytes, 6..<8)
      else { return nil }
      // None, CRC-32, CRC-64.
      return [0, 1, 4].contains(flags) ? flags : nil
    }

    private struct BlockHeader {
      /// Where the chunks start.
      var end: Int
      var packedByteCount: Int?
      var byteCount: Int?
      var dictionaryByteCount: Int
    }

    /// The block's header, if LZMA2 is its only filter.
    private static func blockHeader(_ bytes: RawSpan) -> BlockHeader? {
      guard let size = bytes.bigEndian(at: headerByteCount, as: UInt8.self), size > 0 else { return nil }
      let end = headerByteCount + (Int(size) + 1) * 4
      guard end <= bytes.byteCount, bytes.littleEndian(at: end - 4) == checksum(bytes, headerByteCount..<end - 4) else {
        return nil
      }
      let flags = bytes[headerByteCount + 1]
      guard flags & 0x3F == 0 else { return nil }
      var place = headerByteCount + 2
      var header = BlockHeader(end: end, dictionaryByteCount: 0)
      if flags & 0x40 != 0 {
        guard let count = number(bytes, &place) else { return nil }
        header.packedByteCount = count
      }
      if flags & 0x80 != 0 {
        guard let count = number(bytes, &place) else { return nil }
        header.byteCount = count
      }
      // The filter's number, a byte of properties, and a dictionary of liblzma's presets at most.
      guard place + 3 <= end - 4, bytes[place] == 0x21, bytes[place + 1] == 1, bytes[place + 2] <= 28 else {
        return nil
      }
      let bits = Int(bytes[place + 2])
      header.dictionaryByteCount = (2 | bits & 1) << (bits / 2 + 11)
      for index in place + 3..<end - 4 where bytes[index] != 0 { return nil }
      return header
    }

    /// A number of seven bits a byte, lowest first; nil for more than 28 bits, which no unit has.
    private static func number(_ bytes: RawSpan, _ place: inout Int) -> Int? {
      var value = 0
      for shift in stride(from: 0, to: 28, by: 7) {
        guard place < bytes.byteCount else { return nil }
        let byte = bytes[place]
        place += 1
        value |= Int(byte & 0x7F) << shift
        if byte < 0x80 { return byte == 0 && shift > 0 ? nil : value }
      }
      return nil
    }

    /// - Returns: the place behind the end of the last chunk.
    private func decodeChunks(
      _ source: UnsafeBufferPointer<UInt8>, _ block: BlockHeader, _ target: inout OutputTarget
    ) -> Int? {
      var place = block.end
      var historyStart = 0
      var needsReset = true
      var needsProperties = true
      var isFirst = true
      while true {
        // The header of a chunk, and the end.
        guard place < source.count else { return nil }
        let control = unsafe source[place]
        if control == 0 { return place + 1 }
        guard source.count - place >= 6 else { return nil }
        let isPacked = control >= 0x80
        guard isPacked || control <= 2 else { return nil }
        if control == 1 || control >= 0xE0 {
          historyStart = target.written
          if control == 1 { needsReset = true }
        } else if isFirst {
          return nil
        }
        isFirst = false
        var byteCount = unsafe Int(source[place + 1]) << 8 + Int(source[place + 2]) + 1
        if isPacked { byteCount += Int(control & 0x1F) << 16 }
        guard byteCount <= target.capacity - target.written,
          // Copies cannot then reach past what the dictionary holds.
          target.written + byteCount - historyStart <= block.dictionaryByteCount
        else { return nil }
        place += 3
        guard isPacked else {
          guard byteCount <= source.count - place, let base = source.baseAddress else { return nil }
          unsafe (target.base + target.written).copyMemory(from: base + place, byteCount: byteCount)
          target.written += byteCount
          place += byteCount
          continue
        }
        let packedByteCount = unsafe Int(source[place]) << 8 + Int(source[place + 1]) + 1
        place += 2
        if control >= 0xC0 {
          guard unsafe lzma.setProperties(source[place]) else { return nil }
          place += 1
          needsProperties = false
        }
        if control >= 0xA0 {
          guard !needsProperties else { return nil }
          lzma.reset()
          needsReset = false
        }
        guard !needsReset, packedByteCount <= source.count - place - LZMARangeDecoder.maximumSymbolByteCount else {
          return nil
        }
        let chunk = unsafe UnsafeBufferPointer(rebasing: source[place..<place + packedByteCount])
        guard unsafe lzma.decode(chunk, byteCount, into: &target, historyStart: historyStart) else { return nil }
        place += packedByteCount
      }
    }

    private static func checksum(_ bytes: RawSpan, _ range: Range<Int>) -> UInt32 {
      CRC32.checksum(of: bytes.extracting(range))
    }

    private static func check(_ flags: UInt8, _ content: UnsafeRawBufferPointer) -> [UInt8] {
      switch flags {
      case 1: littleEndian(unsafe CRC32.checksum(of: RawSpan(_unsafeBytes: content)))
      case 4:
        littleEndian(unsafe lzma_crc64(content.baseAddress?.assumingMemoryBound(to: UInt8.self), content.count, 0))
      default: []
      }
    }

    /// The index of one block and the footer, as they must be.
    private static func ending(_ flags: UInt8, _ unpadded: Int, _ byteCount: Int) -> [UInt8] {
      var index: [UInt8] = [0, 1] + number(unpadded) + number(byteCount)
      while index.count % 4 != 0 { index.append(0) }
      index += littleEndian(CRC32.checksum(of: index.rawBytes))
      let footer = littleEndian(UInt32(index.count / 4 - 1)) + [0, flags]
      return index + littleEndian(CRC32.checksum(of: footer.rawBytes)) + footer + Array("YZ".utf8)
    }

    /// Seven bits a byte, lowest first.
    private static func number(_ value: Int) -> [UInt8] {
      var bytes: [UInt8] = []
      var left = value
      while left >= 0x80 {
        bytes.append(UInt8(left & 0x7F | 0x80))
        left >>= 7
      }
      return bytes + [UInt8(left)]
    }

    private static func littleEndian<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
      (0..<T.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
    }
  }
#endif
