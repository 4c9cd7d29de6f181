package import PlatterCore

/// The encryption that Apple puts around a whole disk image. What comes out is an ordinary DMG, or a raw disk.
///
///     version 2 ("encrcdsa")                     version 1 ("cdsaencr")
///     0            header, key items             0              encrypted blocks
///     data offset  encrypted blocks              header offset  header with the wrapped keys
///                                                end - 20       header offset, version 1, "cdsaencr"
///
/// Block i is AES-CBC under a vector from HMAC-SHA1 of i; the keys are wrapped under the passphrase with triple DES.
package enum EncryptedDMG {
  static let headSignature: [UInt8] = Array("encrcdsa".utf8)
  static let tailSignature: [UInt8] = Array("cdsaencr".utf8)
  static let footerByteCount = 20

  /// The sentence for a passphrase that fits no key item; a damaged item says the same.
  package static let wrongPassphraseMessage = "invalid passphrase: it unlocks no key of the encrypted disk image"

  /// Most iterations that opening one image may cost, over all key items of all its segments.
  package static let maximumIterations: UInt64 = 100_000_000  // ours; Apple's tools use some 10^5

  /// Whether a file is encrypted this way.
  /// - Parameters:
  ///   - head: its first bytes, 8 or more of them.
  ///   - tail: its last bytes, 8 or more of them.
  package static func isEncrypted(head: RawSpan, tail: RawSpan) -> Bool {
    head.bytes(at: 0, count: headSignature.count) == headSignature
      || tail.bytes(at: tail.byteCount - tailSignature.count, count: tailSignature.count) == tailSignature
  }

  /// The same for a store. Cost: two small reads.
  package static func isEncrypted(_ store: any ByteStore) throws(ImageError) -> Bool {
    let length = try store.byteCount()
    let head = try store.readPrefix(count: 8)
    let tail = try store.readPrefix(at: length - min(length, 8), count: 8)
    return isEncrypted(head: head.rawBytes, tail: tail.rawBytes)
  }

  /// The decrypted image, read-only.
  ///
  /// - Parameters:
  ///   - passphrase: every byte counts.
  ///   - iterations: what the segments of one image that are open cost so far; this one's are added.
  /// - Throws: `.invalidArgument` with `wrongPassphraseMessage`; `.unsupported` where only certificates open it, or for
  ///   another cipher; `.corrupt`, `.truncated`.
  package static func open(_ store: any ByteStore, passphrase: [UInt8], iterations: inout UInt64) throws(ImageError)
    -> any ByteStore
  {
    try naming(store.name) { () throws(ImageError) -> any ByteStore in
      let header = try EncryptedDMGHeader(reading: store)
      let keys = try header.unlock(passphrase: passphrase, iterations: &iterations)
      return try DecryptingDMGStore(store, header, keys)
    }
  }

  /// What `info` may show of the encryption; needs no passphrase.
  package static func facts(_ store: any ByteStore) throws(ImageError) -> Property {
    try naming(store.name) { () throws(ImageError) in try EncryptedDMGHeader(reading: store).facts }
  }
}
