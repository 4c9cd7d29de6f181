package import PlatterCore

/// One step of a change to a volume's header area. Steps are done in order; a power cut between any two leaves a volume
/// that opens as before or as after.
package enum LUKSStep: Sendable, Equatable {
  /// Bytes at an offset from the header's first byte.
  case write(offset: UInt64, bytes: [UInt8])
  /// All before is on stable storage before anything after.
  case flush
}

/// How a new volume is encrypted.
package struct LUKSCreation: Sendable {
  package var suite: SectorCipherSuite
  /// Of key slots and stripes.
  package var hash: HashAlgorithm
  /// Iterations of the key slot and of the key's digest.
  package var slotIterations: UInt64
  package var digestIterations: UInt64

  /// QEMU's `iter-time` where nobody says another, in milliseconds.
  package static let defaultMilliseconds: UInt64 = 2000

  /// QEMU's defaults.
  package static func defaultSuite() throws(ImageError) -> SectorCipherSuite {
    try SectorCipherSuite(luksCipher: "aes", mode: "xts-plain64", keyByteCount: 64)
  }

  /// - Parameter milliseconds: processor time that opening shall take; measured here, which takes about a tenth of a second.
  /// - Throws: `.invalidArgument` for what is too weak for new volumes; `.unsupported` for what libcrypto lacks.
  package init(suite: SectorCipherSuite, hash: HashAlgorithm, milliseconds: UInt64 = defaultMilliseconds)
    throws(ImageError)
  {
    let slot = try PBKDF2.iterations(takingMilliseconds: milliseconds, hash: hash, byteCount: suite.keyByteCount)
    let digest = try PBKDF2.iterations(
      takingMilliseconds: milliseconds / 8, hash: hash, byteCount: LUKSHeader.digestByteCount)
    try self.init(suite: suite, hash: hash, slotIterations: slot, digestIterations: digest)
  }

  /// With counts instead of a time.
  package init(suite: SectorCipherSuite, hash: HashAlgorithm, slotIterations: UInt64, digestIterations: UInt64)
    throws(ImageError)
  {
    guard !hash.isForReadingOnly, suite.generator.hash?.isForReadingOnly != true else {
      throw .invalidArgument("hash algorithm \"\(hash.name)\" is too weak for a new encrypted image")
    }
    guard suite.mode != .ecb else {
      throw .invalidArgument("cipher mode \"ecb\" is too weak for a new encrypted image: equal sectors would show")
    }
    let allowed = PBKDF2.minimumIterationsForCreation...PBKDF2.maximumIterations
    guard allowed.contains(slotIterations), allowed.contains(digestIterations) else {
      throw .invalidArgument(
        "\(slotIterations) and \(digestIterations) iterations are not both in \(allowed.lowerBound) to "
          + "\(allowed.upperBound)")
    }
    self.suite = suite
    self.hash = hash
    self.slotIterations = slotIterations
    self.digestIterations = digestIterations
  }
}

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

  /// A header with one more passphrase, and how to get there: material, flush, header, flush.
  ///
  /// - Parameters:
  ///   - index: the slot; nil for the first free one.
  ///   - key: the volume key, as `unlock` gave it.
  ///   - isForced: overwrite a slot in use.
  /// - Throws: `.invalidArgument` where the slot is in use, none is free, or the key is another volume's.
  package func addingSlot(
    _ index: Int?, passphrase: [UInt8], key: SecretBytes, iterations: UInt64, isForced: Bool = false
  ) throws(ImageError) -> (header: LUKSHeader, steps: [LUKSStep]) {
    guard let index = index ?? slots.firstIndex(where: { !$0.isActive }) else {
      throw .invalidArgument("all \(Self.slotCount) key slots are in use")
    }
    guard slots.indices.contains(index) else {
      throw .invalidArgument("key slot \(index) is outside 0 to \(Self.slotCount - 1)")
    }
    guard !slots[index].isActive || isForced else {
      throw .invalidArgument("key slot \(index) is in use; it must be erased first")
    }
    guard iterations >= PBKDF2.minimumIterationsForCreation, let count = UInt32(exactly: iterations),
      work(iterations: count) <= Self.maximumUnlockingWork
    else { throw .invalidArgument("\(iterations) iterations are too few or too many for a key slot") }
    guard try accepts(key: key) else { throw .invalidArgument("the key is not that of this volume") }
    var header = self
    header.slots[index].isActive = true
    header.slots[index].iterations = count
    header.slots[index].salt = try Random.bytes(Self.saltByteCount)
    let material = try header.material(of: header.slots[index], passphrase, key)
    return (
      header,
      [
        .write(offset: UInt64(header.slots[index].materialSector) * Self.sectorByteCount, bytes: material), .flush,
        .write(offset: 0, bytes: header.serialised()), .flush,
      ]
    )
  }

  /// A header without some passphrases, and how to get there: header, flush, material overwritten, flush.
  ///
  /// - Parameter isForced: also where no passphrase is left, which makes the volume noise for ever.
  /// - Throws: `.invalidArgument` where a slot is not in use or would be the last.
  package func erasingSlots(_ indices: [Int], isForced: Bool = false) throws(ImageError) -> (
    header: LUKSHeader, steps: [LUKSStep]
  ) {
    var header = self
    for index in indices {
      guard header.slots.indices.contains(index), header.slots[index].isActive else {
        throw .invalidArgument("key slot \(index) is not in use")
      }
      header.slots[index].isActive = false
      header.slots[index].iterations = 0
      header.slots[index].salt = [UInt8](repeating: 0, count: Self.saltByteCount)
    }
    guard isForced || header.slots.contains(where: \.isActive) else {
      throw .invalidArgument("erasing the last key slot would make the volume unreadable for ever")
    }
    var steps: [LUKSStep] = [.write(offset: 0, bytes: header.serialised()), .flush]
    for index in indices {
      let offset = UInt64(header.slots[index].materialSector) * Self.sectorByteCount
      steps.append(.write(offset: offset, bytes: try Random.bytes(materialByteCount)))
    }
    steps.append(.flush)
    return (header, steps)
  }

  /// The slots that a passphrase opens; maybe none. Cost: that of trying every slot.
  package func slots(openedBy passphrase: [UInt8], readMaterial: MaterialReader) throws(ImageError) -> [Int] {
    var found: [Int] = []
    for index in slots.indices where slots[index].isActive {
      do {
        _ = try unlockSlot(passphrase: passphrase, only: index, readMaterial: readMaterial)
        found.append(index)
      } catch {
        guard error.message == Self.wrongPassphraseMessage else { throw error }
      }
    }
    return found
  }

  private func material(of slot: Slot, _ passphrase: [UInt8], _ key: SecretBytes) throws(ImageError) -> [UInt8] {
    let slotKey = try PBKDF2.key(
      passphrase: passphrase.rawBytes, salt: slot.salt.rawBytes, iterations: UInt64(slot.iterations), hash: hash,
      byteCount: keyByteCount)
    let cipher = try suite.makeCipher(key: slotKey, numbering: .host(base: 0))
    let stripes = try AntiForensic.split(
      key, stripes: Self.stripes, hash: hash, paddedByteCount: materialByteCount)
    // Encrypted before it leaves the memory that is wiped.
    let encrypted = try SecretBytes(count: stripes.count) { bytes throws(ImageError) in
      bytes.copy(stripes.bytes)
      try cipher.encrypt(&bytes, guestOffset: 0, hostOffset: 0)
    }
    return encrypted.bytes.array()
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
