import PlatterCore
import PlatterCrypto
import PlatterLUKS

/// The bytes are a whole file: a LUKS volume, or an encrypted disk image of Apple. A LUKS signature is put over the first
/// bytes of what has none, so that its fields are reached.
///
/// Promises: no trap; a header that parses says the same when it is written and parsed again, and so does one whose key
/// slots were erased. Keys are not tried: an image may ask for minutes of that.
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
  fuzzSlots(header)
  fuzzOptions(bytes)
}

/// Every slot by itself and all together: what is written lies behind the header and before the payload.
private func fuzzSlots(_ header: LUKSHeader) {
  for slots in header.slots.indices.map({ [$0] }) + [Array(header.slots.indices)] {
    guard let erased = try? header.erasingSlots(slots, isForced: true) else {
      preconditionFailure("slots \(slots) cannot be erased by force")
    }
    precondition(slots.allSatisfy { !erased.header.slots[$0].isActive })
    for case .write(let offset, let bytes) in erased.steps where offset != 0 {
      precondition(offset >= 592 && offset + UInt64(bytes.count) <= header.payloadOffset)
    }
    let written = erased.header.serialised()
    let again = try? LUKSHeader(parsing: written.rawBytes, areaByteCount: 1 << 50, hasPayload: true)
    precondition(again == erased.header, "erased, written and parsed again, the header differs")
  }
}

/// The bytes as values of the options of `create` and `amend`.
private func fuzzOptions(_ bytes: [UInt8]) {
  let values = bytes.prefix(256).split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
  guard let first = values.first else { return }
  var options: [String: String] = [:]
  for (index, option) in (LUKSSettings.options() + KeySlotChange.options()).enumerated() {
    options[option.name] = values[index % values.count]
  }
  _ = try? LUKSSettings(CreationRequest(byteCount: 1 << 20, options: options))
  _ = try? KeySlotChange(AmendRequest(options) { _ in Array(first.utf8) })
  options["state"] = bytes.count % 2 == 0 ? "active" : "inactive"
  _ = try? KeySlotChange(AmendRequest(options) { _ in Array(first.utf8) })
}
