import CZlib
import PlatterCore

/// zlib's inflate, for what libdeflate cannot do: stop in the middle of a stream, or take it in pieces.
@safe final class InflateStream: PieceDecoder {
  static var name: String { "deflate" }

  /// RFC 1950 around the stream, or RFC 1951 alone.
  let hasZlibHeader: Bool
  // On the heap, because zlib compares the structure's address from call to call.
  private let stream: UnsafeMutablePointer<z_stream>
  private var isOpen = false

  init(hasZlibHeader: Bool) {
    self.hasZlibHeader = hasZlibHeader
    unsafe stream = .allocate(capacity: 1)
    unsafe stream.initialize(to: z_stream())
  }

  deinit {
    if isOpen { unsafe inflateEnd(stream) }
    unsafe stream.deallocate()
  }

  func start() throws(ImageError) {
    if isOpen {
      unsafe inflateReset(stream)
      return
    }
    let windowBits: Int32 = hasZlibHeader ? 15 : -15
    let status = unsafe inflateInit2_(stream, windowBits, zlibVersion(), Int32(MemoryLayout<z_stream>.size))
    guard status == Z_OK else { throw ImageError(.io, "no memory for inflating") }
    isOpen = true
  }

  func startsStream(_ bytes: RawSpan) -> Bool { false }

  func decode(_ input: RawSpan, into output: inout MutableRawSpan) throws(ImageError) -> Piece {
    let stream = unsafe stream
    let (status, consumed, produced) = unsafe withAddresses(input, &output) {
      (input, inputCount, output, outputCount) -> (Int32, Int, Int) in
      let given = UInt32(clamping: inputCount)
      let room = UInt32(clamping: outputCount)
      unsafe stream.pointee.next_in = UnsafeMutablePointer(mutating: input.assumingMemoryBound(to: UInt8.self))
      unsafe stream.pointee.avail_in = given
      unsafe stream.pointee.next_out = output.assumingMemoryBound(to: UInt8.self)
      unsafe stream.pointee.avail_out = room
      let status = unsafe inflate(stream, Z_SYNC_FLUSH)
      return unsafe (status, Int(given - stream.pointee.avail_in), Int(room - stream.pointee.avail_out))
    }
    switch status {
    case Z_OK, Z_BUF_ERROR: return Piece(consumed: consumed, produced: produced, isFinished: false)
    case Z_STREAM_END: return Piece(consumed: consumed, produced: produced, isFinished: true)
    case Z_MEM_ERROR: throw ImageError(.io, "no memory for inflating")
    default: throw Self.damaged()
    }
  }
}
