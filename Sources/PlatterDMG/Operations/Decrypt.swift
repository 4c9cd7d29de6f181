import PlatterCore
import PlatterCrypto

extension DMG {
  static let passphraseNeeded = ImageError(
    .invalidArgument, "the image is encrypted and needs a passphrase: give it as a secret (key-secret)")

  /// Opens what lies inside an encrypted file: a disk image with a trailer of its own, or a raw disk.
  ///
  /// - Throws: `.invalidArgument` without a passphrase or with a wrong one.
  static func openEncrypted(_ store: any ByteStore, _ context: OpenContext) throws(ImageError) -> DMGImage {
    var passphrase: [UInt8]?
    if let ask = context.passphrase { passphrase = try ask() }
    guard let passphrase else {
      guard context.isForFactsOnly else { throw passphraseNeeded }
      return try locked(store)
    }
    var decryption = Decryption(passphrase: passphrase)
    let payload = try decryption.open(store)
    if let trailer = try readTrailer(payload) {
      return try openChunks([store, payload], payload, trailer, decryption, context)
    }
    return DMGImage(
      byteCount: try payload.byteCount(), stores: [store, payload], content: .raw, isEncrypted: true,
      encryption: try EncryptedDMG.facts(store))
  }

  /// Without the passphrase only the length of what lies inside is known, be it a disk or an image of one.
  private static func locked(_ store: any ByteStore) throws(ImageError) -> DMGImage {
    let header = try EncryptedDMGHeader(reading: store)
    return DMGImage(
      byteCount: header.dataByteCount, stores: [store], content: .locked, isEncrypted: true, encryption: header.facts)
  }
}

/// One passphrase for all files of an image: each segment is encrypted by itself, under keys of its own.
struct Decryption {
  private let passphrase: [UInt8]
  /// What the files that are open cost; bounded for all of them together.
  private var iterations: UInt64 = 0

  init(passphrase: [UInt8]) { self.passphrase = passphrase }

  /// The plain bytes of a file.
  mutating func open(_ store: any ByteStore) throws(ImageError) -> any ByteStore {
    try EncryptedDMG.open(store, passphrase: passphrase, iterations: &iterations)
  }
}
