import PlatterCore
import PlatterCrypto
import PlatterLUKS

/// The bytes are a whole file: a LUKS volume, or an encrypted disk image of Apple. A LUKS signature is put over the first
/// bytes of what has none, so that its fields are reached.
///
/// Promises: no trap; a header that parses says the same when it is written and parsed again. Keys are not tried: an
/// image may ask for minutes of that.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzLUKS(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  let store = MemoryStore(bytes, isWritable: false)
  _ = try? EncryptedDMG.facts(store)
  let signature: [UInt8] = [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe, 0, 1]
  let volume = bytes.starts(with: signature) ? bytes : signature + bytes.dropFirst(signature.count)
  fuzzVolume(volume)
  return 0
}

private func fuzzVolume(_ bytes: [UInt8]) {
  let map = try? LUKS.open(MemoryStore(bytes, isWritable: false), OpenContext(isForFactsOnly: true))
  precondition(map.map { $0.byteCount % 512 == 0 && $0.byteCount <= UInt64(bytes.count) } ?? true)
  // The area is given large, so that headers are not all refused for their places.
  guard let header = try? LUKSHeader(parsing: bytes.rawBytes, areaByteCount: 1 << 50, hasPayload: true) else { return }
  let written = header.serialised()
  let again = try? LUKSHeader(parsing: written.rawBytes, areaByteCount: 1 << 50, hasPayload: true)
  precondition(again == header, "written and parsed again, the header differs")
}
