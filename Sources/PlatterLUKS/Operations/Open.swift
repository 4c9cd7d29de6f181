import PlatterCore
import PlatterCrypto

extension LUKS {
  /// Reads and checks the header. Reads no key material.
  /// - Parameter length: of the file.
  static func readHeader(_ store: any ByteStore, length: UInt64) throws(ImageError) -> LUKSHeader {
    // The version first: the rest of another version's header is not ours to judge.
    let head = try store.readPrefix(count: LUKSHeader.byteCount)
    if case .version(let version) = LUKSHeader.recognise(head.rawBytes), version != 1 {
      throw .unsupported("LUKS version \(version) is not supported")
    }
    return try LUKSHeader(parsing: head.rawBytes, areaByteCount: length, hasPayload: true)
  }

  /// Asks for the passphrase and finds the key.
  static func unlock(_ header: LUKSHeader, _ store: any ByteStore, _ context: OpenContext) throws(ImageError)
    -> LUKSVolume
  {
    guard let passphrase = try context.passphrase?() else {
      throw .invalidArgument("the image is encrypted; a secret is needed: key-secret")
    }
    return try LUKSVolume(unlocking: header, in: store, passphrase: passphrase)
  }
}
