package import PlatterCore

extension SectorCipherSuite {
  /// The cipher under a key.
  ///
  /// - Parameter key: `keyByteCount` bytes.
  /// - Throws: `.unsupported`, naming the cipher, where libcrypto does not offer it; `.invalidArgument` for a key of
  ///   another length.
  package func makeCipher(key: borrowing SecretBytes, numbering: SectorNumbering) throws(ImageError)
    -> KeyedSectorCipher
  {
    try KeyedSectorCipher(self, key: key.bytes, numbering: numbering)
  }

  /// libcrypto's name of cipher and mode; nil where it has none.
  fileprivate var fetchName: LibCrypto.Name? {
    switch (cipher.family, mode) {
    case (.aes, .xts): cipher.keyBits == 192 ? nil : LibCrypto.Name("AES-\(cipher.keyBits)-XTS")
    case (.aes, _): LibCrypto.Name("AES-\(cipher.keyBits)-\(mode.rawValue.uppercased())")
    case (.cast5, .ecb), (.cast5, .cbc): LibCrypto.Name("CAST5-\(mode.rawValue.uppercased())", isLegacy: true)
    default: nil
    }
  }
}

/// Encrypts and decrypts 512-byte sectors. Every thread may use it at once.
package final class KeyedSectorCipher: SectorCipher {
  /// Bytes of a sector: one vector each.
  package static let sectorByteCount = 512
  /// Sectors whose vectors are made together.
  private static let batchSectorCount = 64

  package let suite: SectorCipherSuite
  package let numbering: SectorNumbering
  private let decryption: CipherContextPool
  /// Or the reason why there is none: libcrypto refuses to encrypt under an XTS key of two equal halves.
  private let encryption: Result<CipherContextPool, ImageError>
  /// Encrypts numbers to vectors.
  private let essiv: CipherContextPool?

  package var sectorByteCount: Int { Self.sectorByteCount }

  init(_ suite: SectorCipherSuite, key: RawSpan, numbering: SectorNumbering) throws(ImageError) {
    guard key.byteCount == suite.keyByteCount else {
      throw .invalidArgument(
        "cipher \(suite.cipher.name) in mode \(suite.mode.rawValue) needs a key of \(suite.keyByteCount) bytes, "
          + "not \(key.byteCount)")
    }
    let name = "\(suite.cipher.name) in mode \(suite.mode.rawValue)"
    let cipher = try LibCrypto.cipher(suite.fetchName, called: name)
    self.suite = suite
    self.numbering = numbering
    decryption = try CipherContextPool(cipher, name: name, key: key, isEncrypting: false)
    do {
      encryption = .success(try CipherContextPool(cipher, name: name, key: key, isEncrypting: true))
    } catch {
      encryption = .failure(error)
    }
    if let hash = suite.generator.hash, suite.mode != .ecb {
      essiv = try Self.makeESSIV(suite.cipher, hash, key: key)
    } else {
      essiv = nil
    }
  }

  /// The cipher of vectors: its key is as long as the hash value, whatever the data's key has.
  private static func makeESSIV(_ cipher: BlockCipher, _ hash: HashAlgorithm, key: RawSpan) throws(ImageError)
    -> CipherContextPool
  {
    guard let vectorCipher = BlockCipher(cipher.family, keyBits: hash.byteCount * 8) else {
      throw .unsupported("IV generator essiv:\(hash.name) gives no key for cipher \(cipher.family.rawValue)")
    }
    let suite = SectorCipherSuite(vectorCipher, .ecb, .plain64)
    let reference = try LibCrypto.cipher(suite.fetchName, called: vectorCipher.name)
    var digest = try Digest(hash)
    digest.update(key)
    let hashed = try SecretBytes(count: hash.byteCount) { digest.finish(into: &$0) }
    return try CipherContextPool(reference, name: vectorCipher.name, key: hashed.bytes, isEncrypting: true)
  }

  package func decrypt(_ bytes: inout MutableRawSpan, guestOffset: UInt64, hostOffset: UInt64) throws(ImageError) {
    try run(&bytes, decryption, isEncrypting: false, guestOffset, hostOffset)
  }

  package func encrypt(_ bytes: inout MutableRawSpan, guestOffset: UInt64, hostOffset: UInt64) throws(ImageError) {
    try run(&bytes, try encryption.get(), isEncrypting: true, guestOffset, hostOffset)
  }

  private func run(
    _ bytes: inout MutableRawSpan, _ pool: CipherContextPool, isEncrypting: Bool, _ guestOffset: UInt64,
    _ hostOffset: UInt64
  ) throws(ImageError) {
    precondition(bytes.byteCount % Self.sectorByteCount == 0)
    let place =
      switch numbering {
      case .host(let base): hostOffset &- base
      case .guest: guestOffset
      }
    guard place % UInt64(Self.sectorByteCount) == 0 else {
      throw .corrupt("encrypted bytes at \(hostOffset.hex) do not start with a sector")
    }
    let count = bytes.byteCount / Self.sectorByteCount
    let first = place / UInt64(Self.sectorByteCount)
    var done = 0
    while done < count {
      let batch = min(Self.batchSectorCount, count - done)
      let vectors = try makeVectors(first: first &+ UInt64(done), count: batch)
      let range = done * Self.sectorByteCount..<(done + batch) * Self.sectorByteCount
      try bytes.withPart(range) { part throws(ImageError) in
        try run(&part, pool, vectors, isEncrypting: isEncrypting)
      }
      done += batch
    }
  }

  /// The vectors of consecutive sectors, one cipher block each; nothing where the mode has none.
  private func makeVectors(first: UInt64, count: Int) throws(ImageError) -> [UInt8] {
    guard suite.mode != .ecb else { return [] }
    let blockByteCount = suite.cipher.blockByteCount
    var vectors = [UInt8](repeating: 0, count: count * blockByteCount)
    let mask: UInt64 = suite.generator == .plain ? 0xffff_ffff : .max
    vectors.withMutableRawBytes { vectors in
      for index in 0..<count {
        vectors.storeLittleEndian((first &+ UInt64(index)) & mask, at: index * blockByteCount)
      }
    }
    if let essiv {
      try vectors.withMutableRawBytes { vectors throws(ImageError) in
        try essiv.run(&vectors, vectors: [], unitByteCount: count * blockByteCount)
      }
    }
    return vectors
  }

  private func run(_ bytes: inout MutableRawSpan, _ pool: CipherContextPool, _ vectors: [UInt8], isEncrypting: Bool)
    throws(ImageError)
  {
    switch suite.mode {
    case .ecb: try pool.run(&bytes, vectors: [], unitByteCount: bytes.byteCount)
    case .cbc where !isEncrypting: try decryptChained(&bytes, pool, vectors)
    case .cbc, .xts, .ctr: try pool.run(&bytes, vectors: vectors, unitByteCount: Self.sectorByteCount)
    }
  }

  /// CBC decryption of a batch as if it were one chain, which libcrypto does faster than one sector after another; then
  /// the first block of each sector is put right: it was combined with the block before it, not with its vector.
  private func decryptChained(_ bytes: inout MutableRawSpan, _ pool: CipherContextPool, _ vectors: [UInt8])
    throws(ImageError)
  {
    let blockByteCount = suite.cipher.blockByteCount
    var corrections = vectors
    corrections.withMutableRawBytes { corrections in
      var start = Self.sectorByteCount
      while start < bytes.byteCount {
        let before = bytes.bytes.extracting(start - blockByteCount..<start)
        let correction = start / Self.sectorByteCount * blockByteCount
        corrections.withPart(correction..<correction + blockByteCount) { $0.exclusiveOr(before) }
        start += Self.sectorByteCount
      }
    }
    try pool.run(&bytes, vectors: Array(vectors.prefix(blockByteCount)), unitByteCount: bytes.byteCount)
    var start = Self.sectorByteCount
    while start < bytes.byteCount {
      let correction = start / Self.sectorByteCount * blockByteCount
      bytes.withPart(start..<start + blockByteCount) { first in
        first.exclusiveOr(corrections.rawBytes.extracting(correction..<correction + blockByteCount))
      }
      start += Self.sectorByteCount
    }
  }
}
