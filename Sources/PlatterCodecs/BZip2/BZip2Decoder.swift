import PlatterCore

/// Where the decoder of a stream stands between two blocks.
struct BZip2Progress {
  let blockByteCount: Int
  /// Bits of the stream that are used up.
  var bitPosition: Int
  private var checksum: UInt32 = 0

  /// - Parameter header: the start of a stream; more may follow.
  init(_ header: RawSpan) throws(ImageError) {
    guard header.byteCount >= BZip2.headerByteCount else { throw BZip2.cutShort }
    guard BZip2.startsStream(header), let count = BZip2.blockByteCount(header) else {
      throw BZip2.damaged("it does not begin as one")
    }
    blockByteCount = count
    bitPosition = BZip2.headerByteCount * 8
  }

  /// Decodes the next block up to its text.
  ///
  /// - Parameter bytes: the stream from a whole byte on, at most `maximumPackedBlockByteCount` of which are looked at;
  ///   `bitPosition` counts from there.
  /// - Returns: false at the end of the stream; `bitPosition` is then that of its last byte's end.
  mutating func next(_ block: BZip2Block, _ bytes: UnsafeRawBufferPointer) throws(ImageError) -> Bool {
    let end = min(bytes.count, bitPosition >> 3 + BZip2.maximumPackedBlockByteCount)
    var bits = unsafe BZip2Bits(UnsafeRawBufferPointer(rebasing: bytes[..<end]), bitPosition: bitPosition)
    let magic = UInt64(bits.take(24)) << 24 | UInt64(bits.take(24))
    if magic == BZip2.blockMagic {
      try block.start(&bits, limit: blockByteCount)
      bitPosition = bits.position
      return true
    }
    let expected = UInt32(bits.take(32))
    guard !bits.isOverrun else { throw BZip2.cutShort }
    guard magic == BZip2.endMagic else { throw BZip2.damaged("neither a block nor the end") }
    guard expected == checksum else { throw BZip2.damaged("the wrong checksum over its blocks") }
    bitPosition = (bits.position + 7) & ~7
    return false
  }

  /// Takes in the checksum of a block that was written.
  mutating func add(_ block: UInt32) { checksum = (checksum << 1 | checksum >> 31) ^ block }
}

/// Decodes whole bzip2 streams whose input and output lie in memory. Belongs to one thread.
@safe final class BZip2Decoder {
  private let block = BZip2Block()

  /// Decodes one stream, and those that follow it back to back while there is room; input after that is ignored.
  ///
  /// - Returns: bytes produced.
  /// - Throws: `.corrupt` for damage of any kind, and where a stream gives more than `output` holds; `.unsupported` for
  ///   randomised blocks.
  func decode(_ packed: RawSpan, into output: inout MutableRawSpan) throws(ImageError) -> Int {
    try unsafe packed.withUnsafeBytes { source throws(ImageError) in
      try unsafe output.withUnsafeMutableBytes { target throws(ImageError) in
        guard let base = target.baseAddress else { return 0 }
        var target = unsafe OutputTarget(base: base, capacity: target.count, written: 0)
        var read = 0
        repeat {
          read += try unsafe decodeStream(UnsafeRawBufferPointer(rebasing: source[read...]), &target)
        } while unsafe target.written < target.capacity
          && BZip2.startsStream(RawSpan(_unsafeBytes: source).extracting(read..<source.count))
        return target.written
      }
    }
  }

  /// - Returns: bytes of the stream.
  private func decodeStream(_ source: UnsafeRawBufferPointer, _ target: inout OutputTarget) throws(ImageError) -> Int {
    var progress = try unsafe BZip2Progress(RawSpan(_unsafeBytes: source))
    while try unsafe progress.next(block, source) {
      guard let checksum = try block.write(to: &target) else { throw BZip2.tooLong(target.capacity) }
      progress.add(checksum)
    }
    return progress.bitPosition >> 3
  }
}
