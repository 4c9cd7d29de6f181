import PlatterCore

/// Decodes a bzip2 stream of any length in 10 MB of memory: one block, its packed bytes, and 1 MiB of output.
final class BZip2Stream {
  private static let roomByteCount = 1 << 20

  private let block = BZip2Block()
  private let input = InputBuffer(capacity: BZip2.maximumPackedBlockByteCount + 1)
  private let window = SlidingWindow(history: 0, room: roomByteCount)

  /// Decodes one stream, and those that follow it back to back.
  ///
  /// - Parameter mayFollow: whether another stream is wanted.
  func decode(
    from source: InputBuffer.Source, to sink: SlidingWindow.Sink, while mayFollow: () -> Bool
  ) throws(ImageError) {
    repeat {
      try decodeStream(from: source, to: sink)
      try window.flush(to: sink)
      _ = try input.need(BZip2.headerByteCount, from: source)
    } while mayFollow() && input.withBytes({ BZip2.startsStream($0) })
  }

  private func decodeStream(from source: InputBuffer.Source, to sink: SlidingWindow.Sink) throws(ImageError) {
    _ = try input.need(BZip2.headerByteCount, from: source)
    var progress = try input.withBytes { bytes throws(ImageError) in try BZip2Progress(bytes) }
    while true {
      // A block that ends inside a byte shares it with the next.
      input.consume(progress.bitPosition >> 3)
      progress.bitPosition &= 7
      _ = try input.need(BZip2.maximumPackedBlockByteCount, from: source)
      let hasBlock = try input.withBytes { bytes throws(ImageError) in
        try unsafe bytes.withUnsafeBytes { bytes throws(ImageError) in try unsafe progress.next(block, bytes) }
      }
      guard hasBlock else { return input.consume(progress.bitPosition >> 3) }
      while true {
        if let checksum = try block.write(to: &window.target) {
          progress.add(checksum)
          break
        }
        try window.flush(to: sink)
      }
    }
  }
}
