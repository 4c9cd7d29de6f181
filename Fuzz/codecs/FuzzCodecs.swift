import PlatterCodecs
import PlatterCore

/// The first byte picks the codec, the second the size of the unit; the rest is packed data.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzCodecs(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  guard bytes.count >= 2, let codec = PackedCodec(rawValue: bytes[0] % UInt8(PackedCodec.allCases.count)) else {
    return 0
  }
  let packed = Array(bytes.dropFirst(2))
  var unit = [UInt8](repeating: 0, count: Int(bytes[1]) << 6)
  do throws(ImageError) {
    let count = try unit.withMutableRawBytes { output throws(ImageError) in
      try UnitDecoder().decode(codec, packed.rawBytes, into: &output)
    }
    precondition(count >= 0 && count <= unit.count)
  } catch {}
  return 0
}
