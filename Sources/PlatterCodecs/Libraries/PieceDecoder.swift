import PlatterCore

/// What one call of a piecewise decoder did.
struct Piece {
  var consumed: Int
  var produced: Int
  /// The stream's end was reached and its checks hold.
  var isFinished: Bool
}

/// A decoder that can be fed and emptied in pieces of any size, for one stream at a time.
protocol PieceDecoder: AnyObject {
  /// How the codec is called in an error.
  static var name: String { get }

  /// Makes ready for the first byte of a stream. Must come before the first `decode`.
  func start() throws(ImageError)

  /// Whether these bytes begin another stream: several may stand back to back in one unit.
  func startsStream(_ bytes: RawSpan) -> Bool

  /// Decodes as much as input and output allow. No progress in both means: more of either is needed.
  ///
  /// - Throws: `.corrupt` for damaged data, `.unsupported` past a memory limit.
  func decode(_ input: RawSpan, into output: inout MutableRawSpan) throws(ImageError) -> Piece
}

extension PieceDecoder {
  static func damaged() -> ImageError { .corrupt("\(name) stream is damaged") }
  static func cutShort() -> ImageError { .corrupt("\(name) stream is cut short") }
  static func tooLong(_ byteCount: Int) -> ImageError {
    .corrupt("\(name) stream gives more than the \(byteCount) bytes of its unit")
  }

  /// Decodes one unit whole.
  ///
  /// - Parameter mayOverrun: a stream that would give more than `output` holds is no error; decoding stops there.
  /// - Returns: bytes produced.
  func decodeUnit(_ packed: RawSpan, into output: inout MutableRawSpan, mayOverrun: Bool) throws(ImageError) -> Int {
    try start()
    var consumed = 0
    var produced = 0
    while true {
      let piece = try output.withPart(produced..<output.byteCount) { rest throws(ImageError) in
        try decode(packed.extracting(consumed..<packed.byteCount), into: &rest)
      }
      consumed += piece.consumed
      produced += piece.produced
      let rest = packed.extracting(consumed..<packed.byteCount)
      if piece.isFinished {
        guard produced < output.byteCount, startsStream(rest) else { return produced }
        try start()
      } else if piece.consumed == 0, piece.produced == 0 {
        if mayOverrun, produced == output.byteCount { return produced }
        guard produced == output.byteCount else { throw Self.cutShort() }
        try expectEnd(rest, unitByteCount: produced)
        return produced
      }
    }
  }

  /// Whether the stream ends here: some decoders notice only when they are asked for one more byte.
  private func expectEnd(_ rest: RawSpan, unitByteCount: Int) throws(ImageError) {
    var consumed = 0
    while true {
      var spare: [UInt8] = [0]
      let piece = try spare.withMutableRawBytes { spare throws(ImageError) in
        try decode(rest.extracting(consumed..<rest.byteCount), into: &spare)
      }
      consumed += piece.consumed
      if piece.produced > 0 { throw Self.tooLong(unitByteCount) }
      if piece.isFinished { return }
      if piece.consumed == 0 { throw Self.cutShort() }
    }
  }
}

/// Lends the addresses of an input and an output to a C call. An empty span has a valid address too, which some
/// libraries insist on.
@inline(always)
func withAddresses<R>(
  _ input: RawSpan, _ output: inout MutableRawSpan,
  _ body: (_ input: UnsafeRawPointer, _ inputCount: Int, _ output: UnsafeMutableRawPointer, _ outputCount: Int) -> R
) -> R {
  var spare: UInt64 = 0
  // The addresses are valid for the call only, and no C function here keeps one beyond it.
  return unsafe withUnsafeMutableBytes(of: &spare) { spare in
    unsafe input.withUnsafeBytes { input in
      unsafe output.withUnsafeMutableBytes { output in
        guard let nowhere = spare.baseAddress else { preconditionFailure("a variable without an address") }
        return unsafe body(
          input.baseAddress ?? UnsafeRawPointer(nowhere), input.count, output.baseAddress ?? nowhere, output.count)
      }
    }
  }
}
