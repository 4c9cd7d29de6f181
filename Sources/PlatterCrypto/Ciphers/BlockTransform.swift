import PlatterCore

/// A block cipher under a key, in one direction: blocks in, blocks out, each for itself. What the modes are made of where
/// libcrypto lacks them. Every thread may use it at once.
protocol BlockTransform: Sendable {
  /// Transforms whole blocks in place.
  func run(_ blocks: inout MutableRawSpan) throws(ImageError)
}

extension CipherContextPool: BlockTransform {
  func run(_ blocks: inout MutableRawSpan) throws(ImageError) {
    try run(&blocks, vectors: [], unitByteCount: blocks.byteCount)
  }
}

extension BlockCipher {
  /// The cipher alone, without a mode.
  ///
  /// - Parameter key: `keyBits / 8` bytes.
  /// - Throws: `.unsupported` where libcrypto refuses.
  func makeTransform(key: RawSpan, isEncrypting: Bool) throws(ImageError) -> any BlockTransform {
    precondition(key.byteCount * 8 == keyBits)
    switch family {
    case .aes:
      let cipher = try LibCrypto.cipher("AES-\(keyBits)-ECB", called: name)
      return try CipherContextPool(cipher, name: name, key: key, isEncrypting: isEncrypting)
    case .serpent: return try Serpent(key: key, isEncrypting: isEncrypting)
    case .twofish: return try Twofish(key: key, isEncrypting: isEncrypting)
    case .cast5: return try CAST5(key: key, isEncrypting: isEncrypting)
    }
  }
}
