import PlatterCore

/// Decodes an LZFSE stream of any length in 4 MiB of memory: one block's packed bytes (at most 2 MiB and a header) and
/// a sliding window.
final class LZFSEStream {
  private static let roomByteCount = 1 << 20

  private let block = LZFSEBlock()
  private let input = InputBuffer(
    capacity: LZFSEHeader.plainByteCount + 2 * LZFSE.maximumPayloadByteCount)
  private let window = SlidingWindow(history: LZFSE.windowByteCount, room: roomByteCount)

  func decode(from source: InputBuffer.Source, to sink: SlidingWindow.Sink) throws(ImageError) {
    while true {
      let magic: UInt32 = try field(0, source)
      switch magic {
      case LZFSE.endMagic:
        try window.flush(to: sink)
        return
      case LZFSE.storedMagic: try decodeStored(source, sink)
      case LZFSE.lzvnMagic: try decodeLZVN(source, sink)
      case LZFSE.plainMagic, LZFSE.packedMagic: try decodeBlock(source, sink)
      default: throw LZFSE.damaged("unknown block type 0x\(String(magic, radix: 16))")
      }
    }
  }

  /// A 32-bit field of the block that comes next.
  private func field(_ offset: Int, _ source: InputBuffer.Source) throws(ImageError) -> UInt32 {
    guard try input.need(offset + 4, from: source),
      let value = input.withBytes({ $0.littleEndian(at: offset, as: UInt32.self) })
    else { throw LZFSE.cutShort }
    return value
  }

  private func decodeStored(_ source: InputBuffer.Source, _ sink: SlidingWindow.Sink) throws(ImageError) {
    var left = try Int(field(4, source))
    input.consume(8)
    while left > 0 {
      guard try input.need(1, from: source) else { throw LZFSE.cutShort }
      if window.target.written == window.target.capacity { try window.flush(to: sink) }
      let count = min(left, input.count, window.target.capacity - window.target.written)
      let destination = unsafe window.target.base + window.target.written
      input.withBytes { bytes in
        unsafe bytes.withUnsafeBytes { bytes in
          guard let base = bytes.baseAddress else { return }
          unsafe destination.copyMemory(from: base, byteCount: count)
        }
      }
      window.target.written += count
      input.consume(count)
      left -= count
    }
  }

  private func decodeLZVN(_ source: InputBuffer.Source, _ sink: SlidingWindow.Sink) throws(ImageError) {
    var lzvn = LZVNBlock(rawByteCount: Int(try field(4, source)), payloadByteCount: Int(try field(8, source)))
    input.consume(12)
    while !lzvn.isFinished {
      let wanted = min(lzvn.payloadLeft, LZVNBlock.maximumOpcodeByteCount)
      guard try input.need(wanted, from: source) else { throw LZFSE.cutShort }
      if window.target.capacity - window.target.written < LZVNBlock.maximumOutputByteCount {
        try window.flush(to: sink)
      }
      let used = try input.withBytes { bytes throws(ImageError) in
        try unsafe bytes.extracting(first: lzvn.payloadLeft).withUnsafeBytes { bytes throws(ImageError) in
          try unsafe lzvn.run(bytes, &window.target, isLast: false)
        }
      }
      input.consume(used)
    }
  }

  private func decodeBlock(_ source: InputBuffer.Source, _ sink: SlidingWindow.Sink) throws(ImageError) {
    guard try input.need(LZFSEHeader.packedFixedByteCount, from: source) else { throw LZFSE.cutShort }
    let headerByteCount = try input.withBytes { bytes throws(ImageError) in try LZFSEHeader.byteCount(of: bytes) }
    guard try input.need(headerByteCount, from: source) else { throw LZFSE.cutShort }
    let header = try input.withBytes { bytes throws(ImageError) in try LZFSEHeader(parsing: bytes) }
    let end = header.byteCount + header.literalPayloadByteCount + header.matchPayloadByteCount
    guard try input.need(end, from: source) else { throw LZFSE.cutShort }
    try input.withBytes { bytes throws(ImageError) in
      try unsafe bytes.withUnsafeBytes { bytes throws(ImageError) in
        try unsafe block.start(header, bytes)
        while true {
          try unsafe block.run(header, bytes, &window.target)
          if block.isFinished { break }
          try window.flush(to: sink)
        }
      }
    }
    input.consume(end)
  }
}
