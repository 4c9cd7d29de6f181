import PlatterCore

/// Output of an LZ77 decoder that hands out what is done and keeps what copies may still reach.
@safe final class SlidingWindow {
  typealias Sink = (RawSpan) throws(ImageError) -> Void

  private let base: UnsafeMutableRawPointer
  private let byteCount: Int
  private let historyByteCount: Int
  private var flushed = 0
  /// Where decoders write.
  var target: OutputTarget

  /// - Parameters:
  ///   - history: farthest that a copy reaches back.
  ///   - room: bytes that are gathered before they are handed out.
  init(history: Int, room: Int) {
    historyByteCount = history
    byteCount = history + room
    unsafe base = .allocate(byteCount: byteCount, alignment: 64)
    unsafe target = OutputTarget(base: base, capacity: byteCount, written: 0)
  }

  deinit { unsafe base.deallocate() }

  /// Hands out what was written since the last time, then slides so that only the history stays.
  func flush(to sink: Sink) throws(ImageError) {
    if target.written > flushed {
      let bytes = unsafe RawSpan(_unsafeStart: base + flushed, byteCount: target.written - flushed)
      try sink(bytes)
    }
    let kept = min(target.written, historyByteCount)
    // Source and target lie inside of the buffer and may overlap.
    unsafe base.copyMemory(from: base + (target.written - kept), byteCount: kept)
    target.written = kept
    flushed = kept
  }
}
