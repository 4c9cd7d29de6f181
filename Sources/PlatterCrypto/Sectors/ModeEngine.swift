import PlatterCore

/// The modes over any block cipher [NIST SP 800-38A for ECB, CBC and CTR; IEEE 1619 for XTS]. A batch of sectors is one
/// call of the cipher wherever the mode lets it be.
struct ModeEngine: SectorEngine {
  private static let sectorByteCount = KeyedSectorCipher.sectorByteCount

  private let mode: CipherMode
  private let blockByteCount: Int
  private let encryption: any BlockTransform
  private let decryption: any BlockTransform
  /// The second key of XTS.
  private let tweaking: (any BlockTransform)?

  init(_ suite: SectorCipherSuite, key: RawSpan) throws(ImageError) {
    mode = suite.mode
    blockByteCount = suite.cipher.blockByteCount
    let count = suite.cipher.keyBits / 8
    let first = key.extracting(0..<count)
    encryption = try suite.cipher.makeTransform(key: first, isEncrypting: true)
    decryption = try suite.cipher.makeTransform(key: first, isEncrypting: false)
    guard mode == .xts else { tweaking = nil; return }
    tweaking = try suite.cipher.makeTransform(key: key.extracting(count..<2 * count), isEncrypting: true)
  }

  func run(_ sectors: inout MutableRawSpan, vectors: [UInt8], isEncrypting: Bool) throws(ImageError) {
    let cipher = isEncrypting ? encryption : decryption
    switch mode {
    case .ecb: try cipher.run(&sectors)
    case .cbc: try isEncrypting ? encryptChained(&sectors, vectors) : decryptChained(&sectors, vectors)
    case .ctr: try addCounters(&sectors, vectors)
    case .xts:
      let mask = try tweaks(vectors)
      sectors.exclusiveOr(mask.rawBytes)
      try cipher.run(&sectors)
      sectors.exclusiveOr(mask.rawBytes)
    }
  }

  // MARK: CBC

  /// Each block waits for the one before it, but sectors do not wait for each other: block n of all of them at once.
  private func encryptChained(_ sectors: inout MutableRawSpan, _ vectors: [UInt8]) throws(ImageError) {
    var row = vectors
    let sectorCount = sectors.byteCount / Self.sectorByteCount
    for block in stride(from: 0, to: Self.sectorByteCount, by: blockByteCount) {
      try row.withMutableRawBytes { row throws(ImageError) in
        for sector in 0..<sectorCount {
          let start = sector * Self.sectorByteCount + block
          let plain = sectors.bytes.extracting(start..<start + blockByteCount)
          row.withPart(sector * blockByteCount..<(sector + 1) * blockByteCount) { $0.exclusiveOr(plain) }
        }
        try encryption.run(&row)
        for sector in 0..<sectorCount {
          let part = row.bytes.extracting(sector * blockByteCount..<(sector + 1) * blockByteCount)
          sectors.copy(part, to: sector * Self.sectorByteCount + block)
        }
      }
    }
  }

  private func decryptChained(_ sectors: inout MutableRawSpan, _ vectors: [UInt8]) throws(ImageError) {
    // What each block is combined with: its sector's vector, or the block before it.
    var mask = [UInt8](repeating: 0, count: sectors.byteCount)
    mask.withMutableRawBytes { mask in
      mask.copy(sectors.bytes.extracting(0..<sectors.byteCount - blockByteCount), to: blockByteCount)
      for (sector, start) in stride(from: 0, to: sectors.byteCount, by: Self.sectorByteCount).enumerated() {
        mask.copy(vectors.rawBytes.extracting(sector * blockByteCount..<(sector + 1) * blockByteCount), to: start)
      }
    }
    try decryption.run(&sectors)
    sectors.exclusiveOr(mask.rawBytes)
  }

  // MARK: CTR

  /// Encrypted counters are XORed in, whichever the direction. A sector's first is its vector; the next ones count up, the
  /// last byte first.
  private func addCounters(_ sectors: inout MutableRawSpan, _ vectors: [UInt8]) throws(ImageError) {
    var mask = [UInt8](repeating: 0, count: sectors.byteCount)
    try mask.withMutableRawBytes { mask throws(ImageError) in
      for (sector, start) in stride(from: 0, to: sectors.byteCount, by: Self.sectorByteCount).enumerated() {
        let place = sector * blockByteCount
        let last = vectors.rawBytes.bigEndian(at: place + blockByteCount - 8, as: UInt64.self) ?? 0
        for block in 0..<Self.sectorByteCount / blockByteCount {
          let (low, overflow) = last.addingReportingOverflow(UInt64(block))
          let offset = start + block * blockByteCount
          if blockByteCount == 16 {
            let high = vectors.rawBytes.bigEndian(at: place, as: UInt64.self) ?? 0
            mask.storeBigEndian(overflow ? high &+ 1 : high, at: offset)
          }
          mask.storeBigEndian(low, at: offset + blockByteCount - 8)
        }
      }
      try encryption.run(&mask)
    }
    sectors.exclusiveOr(mask.rawBytes)
  }

  // MARK: XTS

  /// The tweak of every block: the encrypted vector, then doubled from block to block, as a polynomial of 128 bits.
  private func tweaks(_ vectors: [UInt8]) throws(ImageError) -> [UInt8] {
    var first = vectors
    try first.withMutableRawBytes { first throws(ImageError) in try tweaking?.run(&first) }
    var mask = [UInt8](repeating: 0, count: vectors.count / 16 * Self.sectorByteCount)
    mask.withMutableRawBytes { mask in
      for sector in 0..<vectors.count / 16 {
        var low = first.rawBytes.littleEndian(at: sector * 16, as: UInt64.self) ?? 0
        var high = first.rawBytes.littleEndian(at: sector * 16 + 8, as: UInt64.self) ?? 0
        for block in 0..<Self.sectorByteCount / 16 {
          let offset = sector * Self.sectorByteCount + block * 16
          mask.storeLittleEndian(low, at: offset)
          mask.storeLittleEndian(high, at: offset + 8)
          let carry = UInt64(truncatingIfNeeded: Int64(bitPattern: high) >> 63) & 0x87
          high = high &<< 1 | low &>> 63
          low = low &<< 1 ^ carry
        }
      }
    }
    return mask
  }
}
