package import PlatterCore

/// The encryption of old qcow2 images (method 1): AES-128 in CBC mode under the passphrase itself, vectors from guest
/// sector numbers, which anyone can guess. For reading what exists.
package enum LegacyQCOWCipher {
  /// Bytes of the passphrase that count; the rest is ignored.
  package static let keyByteCount = 16

  /// Any passphrase gives a cipher: nothing in the image tells a wrong one.
  package static func make(passphrase: [UInt8]) throws(ImageError) -> KeyedSectorCipher {
    let key = try SecretBytes(count: keyByteCount) { key in
      let used = passphrase.rawBytes.extracting(0..<min(passphrase.count, keyByteCount))
      key.copy(used)
    }
    guard let cipher = BlockCipher(.aes, keyBits: keyByteCount * 8) else { throw LibCrypto.failure("AES-128") }
    return try SectorCipherSuite(cipher, .cbc, .plain64).makeCipher(key: key, numbering: .guest)
  }

  /// What `info` shows under "encrypt".
  package static var facts: Property { ["format": .text("aes")] }
}
