#if LZMA
  import CLZMA
  import PlatterCore

  /// liblzma's decoder of .xz containers: for what `XZUnit` does not take, and for units in pieces.
  @safe final class XZStream: PieceDecoder {
    static var name: String { "xz" }

    /// Memory that a stream may ask for: the dictionary of liblzma's largest preset, 64 MiB, and the decoder's state.
    static let maximumMemoryByteCount: UInt64 = 66 << 20  // ours; the format allows 4 GiB

    private let stream: UnsafeMutablePointer<lzma_stream>

    init() {
      unsafe stream = .allocate(capacity: 1)
      unsafe stream.initialize(to: lzma_stream())
    }

    deinit {
      unsafe lzma_end(stream)
      unsafe stream.deallocate()
    }

    func start() throws(ImageError) {
      // A second call on the same structure keeps its memory.
      guard unsafe lzma_stream_decoder(stream, Self.maximumMemoryByteCount, 0) == LZMA_OK else {
        throw ImageError(.io, "no memory for xz")
      }
    }

    func startsStream(_ bytes: RawSpan) -> Bool {
      bytes.bigEndian(at: 0, as: UInt32.self) == 0xFD37_7A58 && bytes.bigEndian(at: 4, as: UInt16.self) == 0x5A00
    }

    func decode(_ input: RawSpan, into output: inout MutableRawSpan) throws(ImageError) -> Piece {
      let stream = unsafe stream
      let (status, consumed, produced) = unsafe withAddresses(input, &output) {
        (input, inputCount, output, outputCount) -> (lzma_ret, Int, Int) in
        unsafe stream.pointee.next_in = input.assumingMemoryBound(to: UInt8.self)
        unsafe stream.pointee.avail_in = inputCount
        unsafe stream.pointee.next_out = output.assumingMemoryBound(to: UInt8.self)
        unsafe stream.pointee.avail_out = outputCount
        let status = unsafe lzma_code(stream, LZMA_RUN)
        return unsafe (status, inputCount - stream.pointee.avail_in, outputCount - stream.pointee.avail_out)
      }
      switch status {
      case LZMA_OK, LZMA_BUF_ERROR: return Piece(consumed: consumed, produced: produced, isFinished: false)
      case LZMA_STREAM_END: return Piece(consumed: consumed, produced: produced, isFinished: true)
      case LZMA_MEM_ERROR: throw ImageError(.io, "no memory for xz")
      case LZMA_MEMLIMIT_ERROR:
        let wanted = unsafe lzma_memusage(stream)
        throw .unsupported("xz stream needs \(wanted) bytes of memory, more than \(Self.maximumMemoryByteCount)")
      case LZMA_OPTIONS_ERROR: throw .unsupported("xz stream has options that liblzma does not know")
      default: throw Self.damaged()
      }
    }
  }
#endif
