import CBzip2
import PlatterCore

/// libbz2's decoder. Takes at most 3.7 MB, whatever the stream says.
@safe final class BZip2Stream: PieceDecoder {
  static var name: String { "bzip2" }

  // On the heap, because libbz2 compares the structure's address from call to call.
  private let stream: UnsafeMutablePointer<bz_stream>
  private var isOpen = false

  init() {
    unsafe stream = .allocate(capacity: 1)
    unsafe stream.initialize(to: bz_stream())
  }

  deinit {
    if isOpen { unsafe BZ2_bzDecompressEnd(stream) }
    unsafe stream.deallocate()
  }

  func start() throws(ImageError) {
    if isOpen { unsafe BZ2_bzDecompressEnd(stream) }
    isOpen = false
    unsafe stream.pointee = bz_stream()
    guard unsafe BZ2_bzDecompressInit(stream, 0, 0) == BZ_OK else { throw ImageError(.io, "no memory for bzip2") }
    isOpen = true
  }

  func startsStream(_ bytes: RawSpan) -> Bool {
    bytes.bigEndian(at: 0, as: UInt16.self) == 0x425A && bytes.byteCount > 2 && bytes[2] == 0x68
  }

  func decode(_ input: RawSpan, into output: inout MutableRawSpan) throws(ImageError) -> Piece {
    let stream = unsafe stream
    let (status, consumed, produced) = unsafe withAddresses(input, &output) {
      (input, inputCount, output, outputCount) -> (Int32, Int, Int) in
      let given = UInt32(clamping: inputCount)
      let room = UInt32(clamping: outputCount)
      unsafe stream.pointee.next_in = UnsafeMutablePointer(mutating: input.assumingMemoryBound(to: CChar.self))
      unsafe stream.pointee.avail_in = given
      unsafe stream.pointee.next_out = output.assumingMemoryBound(to: CChar.self)
      unsafe stream.pointee.avail_out = room
      let status = unsafe BZ2_bzDecompress(stream)
      return unsafe (status, Int(given - stream.pointee.avail_in), Int(room - stream.pointee.avail_out))
    }
    switch status {
    case BZ_OK: return Piece(consumed: consumed, produced: produced, isFinished: false)
    case BZ_STREAM_END: return Piece(consumed: consumed, produced: produced, isFinished: true)
    case BZ_MEM_ERROR: throw ImageError(.io, "no memory for bzip2")
    default: throw Self.damaged()
    }
  }
}
