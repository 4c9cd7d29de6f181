package import PlatterCore

/// Decodes a unit of any length in pieces, in bounded memory: 4 MiB, 10 MB for bzip2, and 66 MiB for xz with the
/// largest dictionary.
///
/// For DMG chunks that decode to hundreds of megabytes; `UnitDecoder` is the faster way for the rest.
package final class StreamDecoder {
  private static let pieceByteCount = 1 << 18

  private let codec: PackedCodec
  private let byteCount: UInt64?

  /// - Parameter byteCount: what the unit must give; nil takes whatever comes. ADC has no end mark: with nil it takes
  ///   all input.
  package init(codec: PackedCodec, byteCount: UInt64? = nil) {
    self.codec = codec
    self.byteCount = byteCount
  }

  /// Decodes one unit.
  ///
  /// - Parameters:
  ///   - input: fills a buffer from its start and returns the count; 0 at the end. May be asked for bytes past the
  ///     stream's end, which are ignored.
  ///   - output: takes the next bytes, at most 2 MiB at a time.
  /// - Throws: `.corrupt` for damaged data and for more or fewer bytes than `byteCount`; `.unsupported` for a stream
  ///   that needs too much memory; what `input` and `output` throw.
  package func decode(
    input: (inout MutableRawSpan) throws(ImageError) -> Int, output: (RawSpan) throws(ImageError) -> Void
  ) throws(ImageError) {
    try codec.requireSupport()
    var given: UInt64 = 0
    func give(_ bytes: RawSpan) throws(ImageError) {
      given += UInt64(bytes.byteCount)
      if let byteCount, given > byteCount {
        throw .corrupt("\(name) stream gives more than the \(byteCount) bytes of its unit")
      }
      try output(bytes)
    }
    switch codec {
    case .deflate: try run(InflateStream(hasZlibHeader: false), input, give)
    case .zlib: try run(InflateStream(hasZlibHeader: true), input, give)
    case .zstd: try run(ZstdUnit(), input, give)
    case .bzip2:
      try BZip2Stream().decode(from: input, to: give, while: { given < byteCount ?? .max })
    case .xz: try run(XZStream(), input, give)
    case .lzfse: try LZFSEStream().decode(from: input, to: give)
    case .adc: try decodeADC(input, give)
    }
    if let byteCount, given < byteCount {
      throw .corrupt("\(name) stream gives \(given) of the \(byteCount) bytes of its unit")
    }
  }

  private var name: String {
    switch codec {
    case .deflate, .zlib: InflateStream.name
    case .zstd: ZstdUnit.name
    case .bzip2: BZip2.name
    case .xz: XZStream.name
    case .lzfse: "LZFSE"
    case .adc: "ADC"
    }
  }

  /// One stream, and those that follow it back to back.
  private func run<Decoder: PieceDecoder>(
    _ decoder: Decoder, _ source: InputBuffer.Source, _ sink: SlidingWindow.Sink
  ) throws(ImageError) {
    let input = InputBuffer(capacity: Self.pieceByteCount)
    var output = AlignedBuffer(byteCount: Self.pieceByteCount)
    try decoder.start()
    while true {
      let piece = try output.withMutableBytes { output throws(ImageError) in
        try input.withBytes { bytes throws(ImageError) in try decoder.decode(bytes, into: &output) }
      }
      input.consume(piece.consumed)
      if piece.produced > 0 { try sink(output.bytes.extracting(0..<piece.produced)) }
      if piece.isFinished {
        _ = try input.need(8, from: source)
        guard input.withBytes({ decoder.startsStream($0) }) else { return }
        try decoder.start()
      } else if piece.consumed == 0, piece.produced == 0 {
        guard try input.refill(from: source) else { throw Decoder.cutShort() }
      }
    }
  }

  /// More than the last actions, 128 bytes at most, can give: 67 from every three bytes.
  private static let lastADCByteCount = 4096
  /// Packed bytes that the last actions of a unit can take: at worst every byte is a literal of its own.
  private static let lastADCInputByteCount = 2 * ADCDecoder.maximumOutputByteCount

  private func decodeADC(_ source: InputBuffer.Source, _ sink: SlidingWindow.Sink) throws(ImageError) {
    let input = InputBuffer(capacity: Self.pieceByteCount)
    let window = SlidingWindow(history: ADCDecoder.windowByteCount, room: Self.pieceByteCount)
    let wholeCapacity = window.target.capacity
    var left = byteCount ?? .max
    while left > 0 {
      _ = try input.need(Self.lastADCInputByteCount, from: source)
      guard input.count > 0 else { break }
      if wholeCapacity - window.target.written < Self.lastADCByteCount { try window.flush(to: sink) }
      let before = window.target.written
      window.target.capacity = before + Int(min(left, UInt64(wholeCapacity - before)))
      // Where input or unit are about to end, what does not fit is an error; elsewhere more will come.
      let isLast =
        input.count < Self.lastADCInputByteCount || left < UInt64(ADCDecoder.maximumOutputByteCount)
      let used = try input.withBytes { bytes throws(ImageError) in
        try unsafe bytes.withUnsafeBytes { bytes throws(ImageError) in
          try unsafe ADCDecoder.run(bytes, &window.target, isLast: isLast)
        }
      }
      input.consume(used)
      left -= UInt64(window.target.written - before)
    }
    try window.flush(to: sink)
  }
}
