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
}

/// Encrypts and decrypts 512-byte sectors. Every thread may use it at once.
package final class KeyedSectorCipher: SectorCipher {
  /// Bytes of a sector: one vector each.
  package static let sectorByteCount = 512
  /// Sectors whose vectors are made together.
  private static let batchSectorCount = 64

  package let suite: SectorCipherSuite
  package let numbering: SectorNumbering
  private let engine: any SectorEngine
  /// Encrypts numbers to vectors.
  private let essiv: (any BlockTransform)?

  package var sectorByteCount: Int { Self.sectorByteCount }

  init(_ suite: SectorCipherSuite, key: RawSpan, numbering: SectorNumbering) throws(ImageError) {
    guard key.byteCount == suite.keyByteCount else {
      throw .invalidArgument(
        "cipher \(suite.cipher.name) in mode \(suite.mode.rawValue) needs a key of \(suite.keyByteCount) bytes, "
          + "not \(key.byteCount)")
    }
    self.suite = suite
    self.numbering = numbering
    engine = try suite.makeEngine(key: key)
    if let hash = suite.generator.hash, suite.mode != .ecb {
      essiv = try Self.makeESSIV(suite.cipher, hash, key: key)
    } else {
      essiv = nil
    }
  }

  /// The cipher of vectors: its key is as long as the hash value, whatever the data's key has.
  private static func makeESSIV(_ cipher: BlockCipher, _ hash: HashAlgorithm, key: RawSpan) throws(ImageError)
    -> any BlockTransform
  {
    guard let vectorCipher = BlockCipher(cipher.family, keyBits: hash.byteCount * 8) else {
      throw .unsupported("IV generator essiv:\(hash.name) gives no key for cipher \(cipher.family.rawValue)")
    }
    var digest = try Digest(hash)
    digest.update(key)
    let hashed = try SecretBytes(count: hash.byteCount) { digest.finish(into: &$0) }
    return try vectorCipher.makeTransform(key: hashed.bytes, isEncrypting: true)
  }

  package func decrypt(_ bytes: inout MutableRawSpan, guestOffset: UInt64, hostOffset: UInt64) throws(ImageError) {
    try run(&bytes, isEncrypting: false, guestOffset, hostOffset)
  }

  package func encrypt(_ bytes: inout MutableRawSpan, guestOffset: UInt64, hostOffset: UInt64) throws(ImageError) {
    try run(&bytes, isEncrypting: true, guestOffset, hostOffset)
  }

  private func run(
    _ bytes: inout MutableRawSpan, isEncrypting: Bool, _ guestOffset: UInt64, _ hostOffset: UInt64
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
        try engine.run(&part, vectors: vectors, isEncrypting: isEncrypting)
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
        try essiv.run(&vectors)
      }
    }
    return vectors
  }
}
