import PlatterCore
import PlatterCrypto
import Synchronization

/// An open LUKS volume: one run of encrypted data.
final class LUKSMap: ImageMap {
  let formatName = LUKS.name
  let stores: [any ByteStore]
  /// Empty where the image was opened for facts only.
  let ciphers: [any SectorCipher]
  let payloadOffset: UInt64
  /// As it was at opening; `volume` has the present one.
  private let openedHeader: LUKSHeader
  let volume: Mutex<LUKSVolume?>
  let size: Atomic<UInt64>

  init(_ store: any ByteStore, _ context: OpenContext) throws(ImageError) {
    let length = try store.byteCount()
    let header = try LUKS.readHeader(store, length: length)
    stores = [store]
    openedHeader = header
    payloadOffset = header.payloadOffset
    if !context.needsKey {
      ciphers = []
      volume = Mutex(nil)
    } else {
      let opened = try LUKS.unlock(header, store, context)
      ciphers = [try header.suite.makeCipher(key: opened.key, numbering: .host(base: header.payloadOffset))]
      volume = Mutex(opened)
    }
    // The header's check has put the payload inside the file.
    size = Atomic((length - header.payloadOffset).roundedDown(toMultipleOf: LUKSHeader.sectorByteCount))
  }

  var byteCount: UInt64 { size.load(ordering: .relaxed) }
  var isEncrypted: Bool { true }

  var facts: ImageFacts {
    var facts = ImageFacts()
    facts.specific = (volume.withLock { $0?.header } ?? openedHeader).facts()
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
        offset: payloadOffset + range.lowerBound, cipher: 1))
    return range.upperBound
  }
}
