import CDeflate
import CZlib

/// Packs units by deflate (RFC 1951) or zlib (RFC 1950). Belongs to one thread; keeps its context between units.
@safe package final class DeflateEncoder {
  /// How far back the stream's copies reach.
  package enum Window: Sendable {
    /// 32 KiB: what the format has. libdeflate writes it, four times as fast as zlib.
    case full
    /// 4 KiB, raw deflate only: what QEMU writes into qcow2, for readers that inflate piecewise with a window of that size.
    case fourKiB
  }

  private let fast: OpaquePointer?
  // On the heap, because zlib compares the structure's address from call to call. Nil for the full window.
  private let narrow: UnsafeMutablePointer<z_stream>?
  private let hasZlibHeader: Bool
  /// Whoever asks for more than the usual effort gets all of it, also where it is likely in vain.
  private let noise: NoiseDetector?

  /// - Parameters:
  ///   - level: 1 to 12, fastest to smallest; zlib's end at 9. Values outside are brought inside.
  ///   - hasZlibHeader: RFC 1950 around the stream; only with the full window.
  package init(level: Int = 1, hasZlibHeader: Bool = false, window: Window = .full) {
    precondition(!hasZlibHeader || window == .full)
    self.hasZlibHeader = hasZlibHeader
    noise = level <= 1 ? NoiseDetector() : nil
    switch window {
    case .full:
      unsafe narrow = nil
      unsafe fast = libdeflate_alloc_compressor(Int32(max(1, min(level, 12))))
    case .fourKiB:
      unsafe fast = nil
      let stream = UnsafeMutablePointer<z_stream>.allocate(capacity: 1)
      unsafe stream.initialize(to: z_stream())
      let status = unsafe deflateInit2_(
        stream, Int32(max(1, min(level, 9))), Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY, zlibVersion(),
        Int32(MemoryLayout<z_stream>.size))
      if status == Z_OK {
        unsafe narrow = stream
      } else {
        unsafe stream.deallocate()
        unsafe narrow = nil
      }
    }
  }

  deinit {
    unsafe libdeflate_free_compressor(fast)
    if let narrow = unsafe narrow {
      unsafe deflateEnd(narrow)
      unsafe narrow.deallocate()
    }
  }

  /// Packs one unit.
  ///
  /// - Returns: bytes written; nil where the stream does not fit into `output`, and so is not worth it.
  package func encode(_ bytes: RawSpan, into output: inout MutableRawSpan) -> Int? {
    if let noise, output.byteCount < bytes.byteCount, noise.isNoise(bytes) { return nil }
    if let fast = unsafe fast {
      let written = unsafe withAddresses(bytes, &output) { input, inputCount, output, outputCount in
        hasZlibHeader
          ? unsafe libdeflate_zlib_compress(fast, input, inputCount, output, outputCount)
          : unsafe libdeflate_deflate_compress(fast, input, inputCount, output, outputCount)
      }
      return written > 0 ? written : nil
    }
    guard let narrow = unsafe narrow, bytes.byteCount <= UInt32.max else { return nil }
    return unsafe withAddresses(bytes, &output) { input, inputCount, output, outputCount in
      let room = UInt32(clamping: outputCount)
      unsafe deflateReset(narrow)
      unsafe narrow.pointee.next_in = UnsafeMutablePointer(mutating: input.assumingMemoryBound(to: UInt8.self))
      unsafe narrow.pointee.avail_in = UInt32(inputCount)
      unsafe narrow.pointee.next_out = output.assumingMemoryBound(to: UInt8.self)
      unsafe narrow.pointee.avail_out = room
      guard unsafe deflate(narrow, Z_FINISH) == Z_STREAM_END else { return nil }
      return unsafe Int(room - narrow.pointee.avail_out)
    }
  }
}
