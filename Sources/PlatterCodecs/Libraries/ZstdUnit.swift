#if Zstd
  import CZstd
  import PlatterCore

  /// libzstd's decoder for whole units: one or more frames.
  @safe final class ZstdUnit: PieceDecoder {
    static var name: String { "zstd" }

    /// Window of a frame that must be decoded piecewise, as a power of two: 8 MiB.
    private static let maximumWindowBits: Int32 = 23  // RFC 8878: what every decoder should support

    private let context: OpaquePointer

    init() throws(ImageError) {
      guard let context = unsafe ZSTD_createDCtx() else { throw ImageError(.io, "no memory for zstd") }
      unsafe self.context = context
      unsafe ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, Self.maximumWindowBits)
    }

    deinit { unsafe ZSTD_freeDCtx(context) }

    /// Decodes frames until `output` is full or no frame follows. A frame that would give more is cut off there.
    func decode(_ packed: RawSpan, into output: inout MutableRawSpan) throws(ImageError) -> Int {
      var consumed = 0
      var produced = 0
      while produced < output.byteCount, consumed < packed.byteCount {
        let rest = packed.extracting(consumed..<packed.byteCount)
        guard Self.startsFrame(rest) || produced == 0 else { break }
        let (frame, given) = output.withPart(produced..<output.byteCount) { output in decodeFrame(rest, into: &output) }
        if let given {
          consumed += frame
          produced += given
          continue
        }
        // Cut off at either end, or damaged: the piecewise decoder tells these apart.
        let start = produced
        return try start
          + output.withPart(start..<output.byteCount) { output throws(ImageError) in
            try decodePiecewise(rest, into: &output)
          }
      }
      return produced
    }

    /// Zstd's magic number, or one of the sixteen of skippable frames.
    private static func startsFrame(_ bytes: RawSpan) -> Bool {
      guard let magic = bytes.littleEndian(at: 0, as: UInt32.self) else { return false }
      return magic == 0xFD2F_B528 || magic & 0xFFFF_FFF0 == 0x184D_2A50
    }

    /// A frame whose end is known, in one call; no window is needed, since the output serves as one.
    private func decodeFrame(_ packed: RawSpan, into output: inout MutableRawSpan) -> (consumed: Int, produced: Int?) {
      let context = unsafe context
      return unsafe withAddresses(packed, &output) { input, inputCount, output, outputCount in
        let frame = unsafe ZSTD_findFrameCompressedSize(input, inputCount)
        guard ZSTD_isError(frame) == 0 else { return (0, nil) }
        let produced = unsafe ZSTD_decompressDCtx(context, output, outputCount, input, frame)
        guard ZSTD_isError(produced) == 0 else { return (0, nil) }
        return (frame, produced)
      }
    }

    private func decodePiecewise(_ packed: RawSpan, into output: inout MutableRawSpan) throws(ImageError) -> Int {
      let context = unsafe context
      unsafe ZSTD_DCtx_reset(context, ZSTD_reset_session_only)
      let produced: Int? = unsafe withAddresses(packed, &output) { input, inputCount, output, outputCount in
        var source = unsafe ZSTD_inBuffer(src: input, size: inputCount, pos: 0)
        var target = unsafe ZSTD_outBuffer(dst: output, size: outputCount, pos: 0)
        while true {
          let (before, beforeTarget) = unsafe (source.pos, target.pos)
          let isFull = beforeTarget == outputCount
          let hint = unsafe ZSTD_decompressStream(context, &target, &source)
          guard ZSTD_isError(hint) == 0 else { return nil }
          // One call more when the output is full: it checks the frame's checksum where the frame ends here.
          if unsafe isFull || (target.pos == outputCount && hint == 0) { return unsafe target.pos }
          // Out of input in the middle of a frame.
          if unsafe source.pos == before && target.pos == beforeTarget { return nil }
        }
      }
      guard let produced else { throw Self.damaged() }
      return produced
    }

    // Frames one after another, in pieces, for streams.

    func start() throws(ImageError) { unsafe ZSTD_DCtx_reset(context, ZSTD_reset_session_only) }

    func startsStream(_ bytes: RawSpan) -> Bool { Self.startsFrame(bytes) }

    func decode(_ input: RawSpan, into output: inout MutableRawSpan) throws(ImageError) -> Piece {
      let context = unsafe context
      let piece: Piece? = unsafe withAddresses(input, &output) { input, inputCount, output, outputCount in
        var source = unsafe ZSTD_inBuffer(src: input, size: inputCount, pos: 0)
        var target = unsafe ZSTD_outBuffer(dst: output, size: outputCount, pos: 0)
        guard inputCount > 0 else { return Piece(consumed: 0, produced: 0, isFinished: false) }
        let hint = unsafe ZSTD_decompressStream(context, &target, &source)
        guard ZSTD_isError(hint) == 0 else { return nil }
        return unsafe Piece(consumed: source.pos, produced: target.pos, isFinished: hint == 0)
      }
      guard let piece else { throw Self.damaged() }
      return piece
    }
  }
#endif
