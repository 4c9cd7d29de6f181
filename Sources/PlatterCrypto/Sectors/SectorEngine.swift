import PlatterCore

/// A cipher in its mode, under a key: sectors and their vectors in, sectors out. Every thread may use it at once.
protocol SectorEngine: Sendable {
  /// Encrypts or decrypts whole sectors in place.
  /// - Parameter vectors: a cipher block for each sector; nothing in mode ECB.
  func run(_ sectors: inout MutableRawSpan, vectors: [UInt8], isEncrypting: Bool) throws(ImageError)
}

extension SectorCipherSuite {
  /// By libcrypto where it has cipher and mode together, else by the mode over the cipher alone.
  ///
  /// - Throws: `.unsupported` for a mode that the cipher's blocks are too short for.
  func makeEngine(key: RawSpan) throws(ImageError) -> any SectorEngine {
    if let name = libraryName, let cipher = LibCrypto.cipher(name) {
      return try LibraryEngine(self, cipher, key: key)
    }
    guard mode != .xts || cipher.blockByteCount == 16 else {
      throw .unsupported("Unsupported cipher mode xts: the blocks of \(cipher.name) have 8 bytes, not 16")
    }
    return try ModeEngine(self, key: key)
  }

  /// libcrypto's name of cipher and mode.
  private var libraryName: String? {
    guard cipher.family == .aes, !(mode == .xts && cipher.keyBits == 192) else { return nil }
    return "AES-\(cipher.keyBits)-\(mode.rawValue.uppercased())"
  }

  var description: String { "\(cipher.name) in mode \(mode.rawValue)" }
}

/// Cipher and mode by libcrypto.
struct LibraryEngine: SectorEngine {
  private let mode: CipherMode
  private let blockByteCount: Int
  private let decryption: CipherContextPool
  /// Or the reason why there is none: libcrypto refuses to encrypt under an XTS key of two equal halves.
  private let encryption: Result<CipherContextPool, ImageError>

  init(_ suite: SectorCipherSuite, _ cipher: CipherReference, key: RawSpan) throws(ImageError) {
    mode = suite.mode
    blockByteCount = suite.cipher.blockByteCount
    decryption = try CipherContextPool(cipher, name: suite.description, key: key, isEncrypting: false)
    do {
      encryption = .success(try CipherContextPool(cipher, name: suite.description, key: key, isEncrypting: true))
    } catch {
      encryption = .failure(error)
    }
  }

  func run(_ sectors: inout MutableRawSpan, vectors: [UInt8], isEncrypting: Bool) throws(ImageError) {
    let pool = isEncrypting ? try encryption.get() : decryption
    switch mode {
    case .ecb: try pool.run(&sectors)
    case .cbc where !isEncrypting: try decryptChained(&sectors, vectors)
    case .cbc, .xts, .ctr:
      try pool.run(&sectors, vectors: vectors, unitByteCount: KeyedSectorCipher.sectorByteCount)
    }
  }

  /// CBC decryption of a batch as if it were one chain, which libcrypto does faster than one sector after another; then
  /// the first block of each sector is put right: it was combined with the block before it, not with its vector.
  private func decryptChained(_ bytes: inout MutableRawSpan, _ vectors: [UInt8]) throws(ImageError) {
    let sectorByteCount = KeyedSectorCipher.sectorByteCount
    var corrections = vectors
    corrections.withMutableRawBytes { corrections in
      var start = sectorByteCount
      while start < bytes.byteCount {
        let before = bytes.bytes.extracting(start - blockByteCount..<start)
        let correction = start / sectorByteCount * blockByteCount
        corrections.withPart(correction..<correction + blockByteCount) { $0.exclusiveOr(before) }
        start += sectorByteCount
      }
    }
    try decryption.run(&bytes, vectors: Array(vectors.prefix(blockByteCount)), unitByteCount: bytes.byteCount)
    var start = sectorByteCount
    while start < bytes.byteCount {
      let correction = start / sectorByteCount * blockByteCount
      bytes.withPart(start..<start + blockByteCount) { first in
        first.exclusiveOr(corrections.rawBytes.extracting(correction..<correction + blockByteCount))
      }
      start += sectorByteCount
    }
  }
}
