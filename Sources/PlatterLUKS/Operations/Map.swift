import PlatterCore
import PlatterCrypto

/// An open LUKS volume: one run of encrypted data.
final class LUKSMap: ImageMap {
  let formatName = LUKS.name
  let byteCount: UInt64
  let stores: [any ByteStore]
  /// Empty where the image was opened for facts only.
  let ciphers: [any SectorCipher]
  let header: LUKSHeader

  init(_ store: any ByteStore, _ context: OpenContext) throws(ImageError) {
    let length = try store.byteCount()
    header = try LUKS.readHeader(store, length: length)
    stores = [store]
    ciphers = context.isForFactsOnly ? [] : [try LUKS.makeCipher(header, store, context)]
    // The header's check has put the payload inside the file.
    byteCount = (length - header.payloadOffset).roundedDown(toMultipleOf: LUKSHeader.sectorByteCount)
  }

  var isEncrypted: Bool { true }

  var facts: ImageFacts {
    var facts = ImageFacts()
    facts.specific = header.facts()
    facts.hasDirtyFlag = true
    return facts
  }

  func map(_ range: Range<UInt64>, limit: Int, into extents: inout [Extent]) throws(ImageError) -> UInt64 {
    guard !ciphers.isEmpty else {
      throw ImageError(.unsupported, "the image was opened for its facts, without its key", file: stores[0].name)
    }
    extents.appendJoining(
      .data(
        start: range.lowerBound, byteCount: range.upperBound - range.lowerBound, store: 0,
        offset: header.payloadOffset + range.lowerBound, cipher: 1))
    return range.upperBound
  }
}
