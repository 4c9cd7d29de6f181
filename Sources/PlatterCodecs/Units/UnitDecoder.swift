import CDeflate
package import PlatterCore

/// Decodes packed units, one after another. Belongs to one thread: the libraries' contexts are kept between units, which
/// saves more than half of the time for small ones.
///
/// Never writes outside of the output, never reads outside of the input, and asks for a bounded amount of memory whatever
/// the bytes: 66 MiB for xz, 8 MiB for zstd, 6 MB for bzip2, next to nothing for the others.
@safe package final class UnitDecoder {
  private let deflate: OpaquePointer?
  private var inflate: InflateStream?
  private var zlib: InflateStream?
  private var zstd: ZstdUnit?
  private var bzip2: BZip2Decoder?
  private var xz: XZUnit?
  private var xzStream: XZStream?
  private var lzfse: LZFSEDecoder?

  package init() {
    unsafe deflate = libdeflate_alloc_decompressor()
  }

  deinit { unsafe libdeflate_free_decompressor(deflate) }

  /// Decodes one unit into a buffer of exactly the unit's size.
  ///
  /// Input after the end of the stream is ignored: formats that store no exact length give an upper bound. A deflate,
  /// zlib or zstd stream that would give more than `output` holds stops there ("qcow2 specification, Compressed
  /// Clusters": a unit has the cluster's size); with any other codec that is an error.
  ///
  /// - Returns: bytes produced, at most `output.byteCount`. Fewer means a stream that ended early, and the caller must
  ///   compare: the rest of `output` is undefined.
  /// - Throws: `.corrupt` for damaged data, `.unsupported` for a stream that needs too much memory.
  package func decode(_ codec: PackedCodec, _ packed: RawSpan, into output: inout MutableRawSpan) throws(ImageError)
    -> Int
  {
    guard output.byteCount > 0 else { return 0 }
    try codec.requireSupport()
    switch codec {
    case .deflate: return try decodeDeflate(packed, into: &output, hasZlibHeader: false)
    case .zlib: return try decodeDeflate(packed, into: &output, hasZlibHeader: true)
    case .zstd: return try decodeZstd(packed, into: &output)
    case .bzip2: return try decodeBZip2(packed, into: &output)
    case .xz: return try decodeXZ(packed, into: &output)
    case .lzfse: return try decodeLZFSE(packed, into: &output)
    case .adc: return try ADCDecoder.decode(packed, into: &output)
    }
  }

  private func decodeDeflate(_ packed: RawSpan, into output: inout MutableRawSpan, hasZlibHeader: Bool)
    throws(ImageError) -> Int
  {
    if let produced = decodeAtOnce(packed, into: &output, hasZlibHeader: hasZlibHeader) { return produced }
    // libdeflate wants whole streams. One that is cut at the output's end, or after the last byte that is needed, is
    // decoded again by zlib; so is a damaged one, and zlib says so.
    let stream = (hasZlibHeader ? zlib : inflate) ?? InflateStream(hasZlibHeader: hasZlibHeader)
    if hasZlibHeader { zlib = stream } else { inflate = stream }
    return try stream.decodeUnit(packed, into: &output, mayOverrun: true)
  }

  private func decodeAtOnce(_ packed: RawSpan, into output: inout MutableRawSpan, hasZlibHeader: Bool) -> Int? {
    guard let deflate = unsafe deflate else { return nil }
    return unsafe withAddresses(packed, &output) { input, inputCount, output, outputCount in
      var produced = 0
      let status =
        hasZlibHeader
        ? unsafe libdeflate_zlib_decompress(deflate, input, inputCount, output, outputCount, &produced)
        : unsafe libdeflate_deflate_decompress(deflate, input, inputCount, output, outputCount, &produced)
      return status == LIBDEFLATE_SUCCESS ? produced : nil
    }
  }

  private func decodeZstd(_ packed: RawSpan, into output: inout MutableRawSpan) throws(ImageError) -> Int {
    let unit: ZstdUnit
    if let zstd { unit = zstd } else { unit = try ZstdUnit() }
    zstd = unit
    return try unit.decode(packed, into: &output)
  }

  private func decodeBZip2(_ packed: RawSpan, into output: inout MutableRawSpan) throws(ImageError) -> Int {
    let decoder = bzip2 ?? BZip2Decoder()
    bzip2 = decoder
    return try decoder.decode(packed, into: &output)
  }

  private func decodeXZ(_ packed: RawSpan, into output: inout MutableRawSpan) throws(ImageError) -> Int {
    let unit = xz ?? XZUnit()
    xz = unit
    if let produced = unit.decode(packed, into: &output) { return produced }
    // What is damaged, or more than a writer of DMG needs, is liblzma's to judge.
    let stream = xzStream ?? XZStream()
    xzStream = stream
    return try stream.decodeUnit(packed, into: &output, mayOverrun: false)
  }

  private func decodeLZFSE(_ packed: RawSpan, into output: inout MutableRawSpan) throws(ImageError) -> Int {
    let decoder = lzfse ?? LZFSEDecoder()
    lzfse = decoder
    return try decoder.decode(packed, into: &output)
  }
}
