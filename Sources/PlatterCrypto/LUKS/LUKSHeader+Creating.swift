package import PlatterCore

/// A volume in the making.
package struct NewLUKSVolume: Sendable {
  package var header: LUKSHeader
  package var key: SecretBytes
  /// Key material first, the header last: until it is written there is no volume.
  package var steps: [LUKSStep]
}

extension LUKSHeader {
  /// Unit that slots and payload are aligned to, in sectors.
  private static let alignmentSectors = 8  // QEMU's; cryptsetup uses more

  /// Bytes of a new volume's header with all its key slots, as `create` lays them out.
  package static func areaByteCount(_ suite: SectorCipherSuite) -> UInt64 {
    UInt64(alignmentSectors + slotCount * slotStride(suite)) * sectorByteCount
  }

  /// Sectors from one slot's key material to the next one's.
  private static func slotStride(_ suite: SectorCipherSuite) -> Int {
    (materialByteCount(keyByteCount: suite.keyByteCount) / 512 + alignmentSectors - 1) / alignmentSectors
      * alignmentSectors
  }

  /// A new volume with a random key and one passphrase, laid out as QEMU does.
  package static func create(_ creation: LUKSCreation, passphrase: [UInt8]) throws(ImageError) -> NewLUKSVolume {
    let key = try newKey(creation.suite)
    let stride = slotStride(creation.suite)
    var header = LUKSHeader(
      suite: creation.suite, modeText: creation.suite.luksMode, hash: creation.hash,
      payloadSector: UInt32(alignmentSectors + slotCount * stride), keyDigest: [],
      digestSalt: try Random.bytes(saltByteCount), digestIterations: UInt32(creation.digestIterations),
      uuid: try newUUID(),
      slots: (0..<slotCount).map { index in
        Slot(
          isActive: false, iterations: 0, salt: [UInt8](repeating: 0, count: saltByteCount),
          materialSector: UInt32(alignmentSectors + index * stride), stripes: UInt32(stripes))
      })
    let digest = try PBKDF2.key(
      passphrase: key.bytes, salt: header.digestSalt.rawBytes, iterations: creation.digestIterations,
      hash: creation.hash, byteCount: digestByteCount)
    header.keyDigest = digest.bytes.array()
    let (complete, steps) = try header.addingSlot(
      0, passphrase: passphrase, key: key, iterations: creation.slotIterations)
    return NewLUKSVolume(header: complete, key: key, steps: steps)
  }

  /// A random key; for XTS one whose halves differ, as libcrypto and FIPS demand.
  private static func newKey(_ suite: SectorCipherSuite) throws(ImageError) -> SecretBytes {
    while true {
      let key = try SecretBytes.random(count: suite.keyByteCount)
      guard suite.mode == .xts else { return key }
      let half = key.count / 2
      if !isEqualInConstantTime(key.bytes.extracting(0..<half), key.bytes.extracting(half..<key.count)) { return key }
    }
  }

  /// A random UUID [RFC 9562, version 4] as text.
  private static func newUUID() throws(ImageError) -> String {
    var bytes = try Random.bytes(16)
    bytes[6] = bytes[6] & 0x0f | 0x40
    bytes[8] = bytes[8] & 0x3f | 0x80
    var text = ""
    for (index, byte) in bytes.enumerated() {
      if [4, 6, 8, 10].contains(index) { text += "-" }
      text += (byte < 16 ? "0" : "") + String(byte, radix: 16)
    }
    return text
  }
}
