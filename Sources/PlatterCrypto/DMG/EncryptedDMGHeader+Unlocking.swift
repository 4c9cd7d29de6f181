import PlatterCore

extension EncryptedDMGHeader {
  /// The two keys of an image.
  struct Keys: Sendable {
    /// AES.
    var cipher: SecretBytes
    /// HMAC-SHA1 of block numbers.
    var code: SecretBytes
  }

  /// Tries the passphrase on every item.
  /// - Parameter work: iterations of all items tried so far; those of this image are added.
  func unlock(passphrase: [UInt8], iterations work: inout UInt64) throws(ImageError) -> Keys {
    guard !wrappings.isEmpty else {
      throw .unsupported("encrypted disk image: its keys are wrapped for certificates only, not under a passphrase")
    }
    for wrapping in wrappings {
      work = work.adding(wrapping.iterations) ?? .max
      guard work <= EncryptedDMG.maximumIterations else {
        throw .unsupported(
          "encrypted disk image: its key items ask for more than \(EncryptedDMG.maximumIterations) iterations")
      }
      let key = try PBKDF2.key(
        passphrase: passphrase.rawBytes, salt: wrapping.salt.rawBytes, iterations: wrapping.iterations, hash: .sha1,
        byteCount: TripleDES.keyByteCount)
      let keys =
        switch wrapping.content {
        case .pair(let iv, let blob): try unwrapPair(blob, iv, key)
        case .separate(let cipherKey, let codeKey): try unwrapSeparate(cipherKey, codeKey, key)
        }
      if let keys { return keys }
    }
    throw .invalidArgument(EncryptedDMG.wrongPassphraseMessage)
  }

  /// Version 2: cipher key, code key, "CKIE", 0, padding.
  private func unwrapPair(_ blob: [UInt8], _ iv: [UInt8], _ key: SecretBytes) throws(ImageError) -> Keys? {
    let end: [UInt8] = Array("CKIE\0".utf8)
    let plain = try TripleDES.decrypt(blob.rawBytes, key: key, iv: iv)
    let cipherByteCount = keyBits / 8
    let usedByteCount = cipherByteCount + Self.codeKeyByteCount
    guard let count = TripleDES.unpaddedByteCount(plain.bytes), count == usedByteCount + end.count,
      isEqualInConstantTime(plain.bytes.extracting(usedByteCount..<count), end.rawBytes)
    else { return nil }
    return Keys(
      cipher: try SecretBytes(copying: plain.bytes.extracting(0..<cipherByteCount)),
      code: try SecretBytes(copying: plain.bytes.extracting(cipherByteCount..<usedByteCount)))
  }

  private func unwrapSeparate(_ cipherKey: [UInt8], _ codeKey: [UInt8], _ key: SecretBytes) throws(ImageError) -> Keys?
  {
    guard let cipher = try unwrapTwice(cipherKey, key), cipher.count == keyBits / 8,
      let code = try unwrapTwice(codeKey, key), code.count >= Self.codeKeyByteCount
    else { return nil }
    return Keys(cipher: cipher, code: try SecretBytes(copying: code.bytes.extracting(0..<Self.codeKeyByteCount)))
  }

  /// Version 1: decrypted twice, turned round in between [the scheme of RFC 3217]; eight bytes of nonce and four of
  /// zeros precede the key.
  private func unwrapTwice(_ blob: [UInt8], _ key: SecretBytes) throws(ImageError) -> SecretBytes? {
    let outer = try TripleDES.decrypt(
      blob.rawBytes, key: key, iv: [0x4a, 0xdd, 0xa2, 0x2c, 0x79, 0xe8, 0x21, 0x05])
    guard let outerCount = TripleDES.unpaddedByteCount(outer.bytes), outerCount > 0,
      outerCount % TripleDES.blockByteCount == 0
    else { return nil }
    let turned = try SecretBytes(count: outerCount) { turned in
      for index in 0..<outerCount {
        turned.storeBytes(of: outer.bytes[outerCount - 1 - index], toByteOffset: index, as: UInt8.self)
      }
    }
    let inner = try TripleDES.decrypt(
      turned.bytes, key: key, iv: [UInt8](repeating: 0, count: TripleDES.blockByteCount))
    guard let count = TripleDES.unpaddedByteCount(inner.bytes), count > 12,
      inner.bytes.bigEndian(at: 8, as: UInt32.self) == 0
    else { return nil }
    return try SecretBytes(copying: inner.bytes.extracting(12..<count))
  }
}
