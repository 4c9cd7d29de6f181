import PlatterCore
import PlatterCrypto

/// How an image's guest bytes are encrypted. Tables never are.
struct Encryption: Sendable {
  /// One cipher, or none where the image is plain or was opened for its facts only.
  var ciphers: [any SectorCipher] = []
  /// What `info` shows under "encrypt"; nil for a plain image.
  var facts: Property?
  /// The header in the image and its key, where it is LUKS and was opened.
  var luks: LUKSVolume?
  /// Where the LUKS header lies.
  var place: CryptoExtension?
  /// Bytes of it that the LUKS header takes by its own word; no more than it has.
  var ownByteCount: UInt64 = 0

  /// Bytes of the file that hold the LUKS header and its key slots.
  var ownRange: Range<UInt64> {
    guard let place else { return 0..<0 }
    return place.offset..<place.offset + ownByteCount
  }
}

extension Opening {
  /// Checks what the image says of its encryption and, where it is going to be read, asks for the passphrase.
  ///
  /// - Throws: `.invalidArgument` where there is no passphrase or it is wrong (only LUKS can tell).
  func encryption(_ context: OpenContext) throws(ImageError) -> Encryption {
    let crypto = extensions.bytes(of: HeaderExtensions.Kind.crypto)
    guard (crypto != nil) == (header.encryption == .luks) else {
      throw .corrupt(
        crypto == nil
          ? "the image is encrypted with LUKS, but has no crypto header extension"
          : "the image has a crypto header extension, but is not encrypted with LUKS")
    }
    guard header.encryption != .none else { return Encryption() }
    guard let crypto else {
      let facts = LegacyQCOWCipher.facts
      guard context.needsKey else { return Encryption(facts: facts) }
      return Encryption(ciphers: [try LegacyQCOWCipher.make(passphrase: try passphrase(context))], facts: facts)
    }
    let place = try CryptoExtension(parsing: crypto, header, fileByteCount: fileByteCount)
    let head = try store.readPrefix(
      at: place.offset, count: Int(min(place.byteCount, UInt64(LUKSHeader.byteCount))))
    let luks = try LUKSHeader(parsing: head.rawBytes, areaByteCount: place.byteCount, hasPayload: false)
    var encryption = Encryption(facts: luks.facts(isInsideImage: true), place: place)
    encryption.ownByteCount = min(place.byteCount, luks.areaByteCount)
    guard context.needsKey else { return encryption }
    let volume = try LUKSVolume(unlocking: luks, in: store, at: place.offset, passphrase: try passphrase(context))
    // Sectors are numbered by their place in the file that holds them.
    encryption.ciphers = [try luks.suite.makeCipher(key: volume.key, numbering: .host(base: 0))]
    encryption.luks = volume
    return encryption
  }

  private func passphrase(_ context: OpenContext) throws(ImageError) -> [UInt8] {
    guard let passphrase = try context.passphrase?() else {
      throw .invalidArgument("the image is encrypted; a secret is needed: encrypt.key-secret")
    }
    return passphrase
  }
}
