import PlatterCore

/// Triple DES in CBC mode: how disk images of Apple wrap their keys. Only for reading them.
enum TripleDES {
  static let keyByteCount = 24
  static let blockByteCount = 8

  /// Decrypts whole blocks.
  ///
  /// - Throws: `.unsupported` where libcrypto does not offer the cipher.
  static func decrypt(_ bytes: RawSpan, key: SecretBytes, iv: [UInt8]) throws(ImageError) -> SecretBytes {
    precondition(bytes.byteCount % blockByteCount == 0 && iv.count == blockByteCount)
    let cipher = try LibCrypto.cipher("DES-EDE3-CBC", called: "3des")
    let pool = try CipherContextPool(cipher, name: "3des", key: key.bytes, isEncrypting: false)
    return try SecretBytes(count: bytes.byteCount) { plain throws(ImageError) in
      plain.copy(bytes)
      try pool.run(&plain, vectors: iv, unitByteCount: bytes.byteCount)
    }
  }

  /// How many bytes are left without the padding [PKCS #7], or nil where there is none.
  static func unpaddedByteCount(_ bytes: RawSpan) -> Int? {
    guard bytes.byteCount > 0 else { return nil }
    let padding = Int(bytes[bytes.byteCount - 1])
    guard (1...blockByteCount).contains(padding), padding <= bytes.byteCount else { return nil }
    for index in bytes.byteCount - padding..<bytes.byteCount where Int(bytes[index]) != padding { return nil }
    return bytes.byteCount - padding
  }
}
