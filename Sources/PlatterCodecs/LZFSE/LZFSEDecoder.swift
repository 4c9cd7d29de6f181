import PlatterCore

/// Decodes whole LZFSE streams whose input and output lie in memory. Belongs to one thread.
@safe final class LZFSEDecoder {
  private let block = LZFSEBlock()

  /// Decodes one stream up to its end mark; input after that is ignored.
  ///
  /// - Returns: bytes produced.
  /// - Throws: `.corrupt` for damage of any kind, and where the stream gives more than `output` holds.
  func decode(_ packed: RawSpan, into output: inout MutableRawSpan) throws(ImageError) -> Int {
    try unsafe packed.withUnsafeBytes { source throws(ImageError) in
      try unsafe output.withUnsafeMutableBytes { target throws(ImageError) in
        guard let base = target.baseAddress else { return 0 }
        return try unsafe run(source, OutputTarget(base: base, capacity: target.count, written: 0))
      }
    }
  }

  private func run(_ source: UnsafeRawBufferPointer, _ target: consuming OutputTarget) throws(ImageError) -> Int {
    var read = 0
    while true {
      let rest = unsafe UnsafeRawBufferPointer(rebasing: source[read...])
      let bytes = unsafe RawSpan(_unsafeBytes: rest)
      guard let magic = bytes.littleEndian(at: 0, as: UInt32.self) else { throw LZFSE.cutShort }
      switch magic {
      case LZFSE.endMagic: return target.written
      case LZFSE.storedMagic: read += try unsafe decodeStored(rest, &target)
      case LZFSE.lzvnMagic: read += try unsafe decodeLZVN(rest, &target)
      case LZFSE.plainMagic, LZFSE.packedMagic: read += try unsafe decodeBlock(rest, &target)
      default: throw LZFSE.damaged("unknown block type 0x\(String(magic, radix: 16))")
      }
    }
  }

  /// The field at byte 4 of every block: the bytes it gives, for which there must be room.
  private func rawByteCount(_ bytes: RawSpan, _ target: OutputTarget) throws(ImageError) -> Int {
    guard let count = bytes.littleEndian(at: 4, as: UInt32.self) else { throw LZFSE.cutShort }
    guard Int(count) <= target.capacity - target.written else { throw LZFSE.tooLong(target.capacity) }
    return Int(count)
  }

  private func decodeStored(_ source: UnsafeRawBufferPointer, _ target: inout OutputTarget) throws(ImageError) -> Int {
    let count = try unsafe rawByteCount(RawSpan(_unsafeBytes: source), target)
    guard count <= source.count - 8, let base = source.baseAddress else { throw LZFSE.cutShort }
    unsafe (target.base + target.written).copyMemory(from: base + 8, byteCount: count)
    target.written += count
    return 8 + count
  }

  private func decodeLZVN(_ source: UnsafeRawBufferPointer, _ target: inout OutputTarget) throws(ImageError) -> Int {
    let bytes = unsafe RawSpan(_unsafeBytes: source)
    let count = try rawByteCount(bytes, target)
    guard let payload = bytes.littleEndian(at: 8, as: UInt32.self), Int(payload) <= source.count - 12 else {
      throw LZFSE.cutShort
    }
    let end = 12 + Int(payload)
    var lzvn = LZVNBlock(rawByteCount: count, payloadByteCount: Int(payload))
    _ = try unsafe lzvn.run(UnsafeRawBufferPointer(rebasing: source[12..<end]), &target, isLast: true)
    return end
  }

  private func decodeBlock(_ source: UnsafeRawBufferPointer, _ target: inout OutputTarget) throws(ImageError) -> Int {
    let bytes = unsafe RawSpan(_unsafeBytes: source)
    _ = try rawByteCount(bytes, target)
    let header = try LZFSEHeader(parsing: bytes)
    let end = header.byteCount + header.literalPayloadByteCount + header.matchPayloadByteCount
    guard end <= source.count else { throw LZFSE.cutShort }
    try unsafe block.start(header, source)
    try unsafe block.run(header, source, &target)
    // The raw size was tested against the room, and each match against the raw size: nothing can be pending.
    guard block.isFinished else { throw LZFSE.tooLong(target.capacity) }
    return end
  }
}
