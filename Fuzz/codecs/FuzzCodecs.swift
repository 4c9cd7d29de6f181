import PlatterCodecs
import PlatterCore

/// The first byte picks the codec, the second the size of the unit; the rest is packed data.
///
/// Promises: no trap, no access outside of the buffers, and both decoders give the same bytes.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzCodecs(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  guard bytes.count >= 2, let codec = PackedCodec(rawValue: bytes[0] % UInt8(PackedCodec.allCases.count)) else {
    return 0
  }
  let packed = Array(bytes.dropFirst(2))
  let unitByteCount = Int(bytes[1]) << 6
  let whole = decodeWhole(codec, packed, unitByteCount)
  let pieces = decodeInPieces(codec, packed, unitByteCount)
  if let pieces { precondition(whole == pieces, "the whole and the pieces differ") }
  let mayStopEarly = [.deflate, .zlib, .zstd].contains(codec)
  if whole != nil && !mayStopEarly { precondition(pieces != nil, "only the whole can be decoded") }
  expectRoundTrip(codec, packed)
  return 0
}

/// The same bytes as content: what our own encoders write, the decoders read.
private func expectRoundTrip(_ codec: PackedCodec, _ bytes: [UInt8]) {
  guard !bytes.isEmpty, codec == .lzfse || codec == .adc else { return }
  // Repeated past the smallest size that LZFSE proper is used for.
  let content = codec == .lzfse && bytes[0] & 1 == 0 ? Array(repeatElement(bytes, count: 20).joined()) : bytes
  var room = [UInt8](repeating: 0, count: content.count + content.count / 100 + 100)
  let count = room.withMutableRawBytes { room in
    codec == .lzfse
      ? LZFSEEncoder().encode(content.rawBytes, into: &room) : ADCEncoder().encode(content.rawBytes, into: &room)
  }
  guard let count else { preconditionFailure("the worst case needs more room") }
  precondition(decodeWhole(codec, Array(room.prefix(count)), content.count) == content, "not what was packed")
}

/// The unit, or nil where it is damaged or short.
private func decodeWhole(_ codec: PackedCodec, _ packed: [UInt8], _ byteCount: Int) -> [UInt8]? {
  var unit = [UInt8](repeating: 0, count: byteCount)
  do throws(ImageError) {
    let count = try unit.withMutableRawBytes { output throws(ImageError) in
      try UnitDecoder().decode(codec, packed.rawBytes, into: &output)
    }
    precondition(count >= 0 && count <= unit.count)
    return count == byteCount && byteCount > 0 ? unit : nil
  } catch {
    return nil
  }
}

private func decodeInPieces(_ codec: PackedCodec, _ packed: [UInt8], _ byteCount: Int) -> [UInt8]? {
  guard byteCount > 0 else { return nil }
  var unit: [UInt8] = []
  var position = 0
  do throws(ImageError) {
    try StreamDecoder(codec: codec, byteCount: UInt64(byteCount)).decode(
      input: { buffer throws(ImageError) in
        // Seven at a time: every boundary falls somewhere inside of a structure.
        let count = min(7, packed.count - position, buffer.byteCount)
        buffer.copy(packed.rawBytes.extracting(position..<position + count))
        position += count
        return count
      },
      output: { piece throws(ImageError) in unit += piece.array() })
    precondition(unit.count == byteCount)
    return unit
  } catch {
    return nil
  }
}
