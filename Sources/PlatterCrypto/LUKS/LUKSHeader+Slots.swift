package import PlatterCore

// Key slots change in an order in which a power cut at any moment, however much of what was not flushed it takes away,
// leaves every passphrase that stays, and the old or the new one of a slot that is overwritten:
//
//     a new passphrase       material ── flush ── header ── flush
//     one less               header ── flush ── noise over the material ── flush
//     one for another        the new one into a free slot, then into its place, then the free slot is erased
//
// The header is 592 bytes, so a cut can tear it inside key slot 6; the fields of all other slots stay what they were or
// what they become, and the order never leans on slot 6 before it is flushed.

extension LUKSHeader {
  /// A header with one more passphrase, and how to get there.
  ///
  /// - Parameters:
  ///   - index: the slot; nil for the first free one.
  ///   - key: the volume key, as `unlock` gave it.
  ///   - isForced: overwrite a slot in use. The new passphrase works throughout where one slot is free, and else one of
  ///     the other seven.
  /// - Throws: `.invalidArgument` where the slot is in use, none is free, or the key is another volume's.
  package func addingSlot(
    _ index: Int?, passphrase: [UInt8], key: SecretBytes, iterations: UInt64, isForced: Bool = false
  ) throws(ImageError) -> (header: LUKSHeader, steps: [LUKSStep]) {
    let free = slots.firstIndex { !$0.isActive }
    guard let index = index ?? free else {
      throw .invalidArgument("Can't add a keyslot - all keyslots are in use")
    }
    try checkIndex(index)
    guard !slots[index].isActive || isForced else {
      throw .invalidArgument("Refusing to overwrite active keyslot \(index) - please erase it first")
    }
    guard try accepts(key: key) else { throw .invalidArgument("the key is not that of this volume") }
    guard slots[index].isActive, let free else {
      return try filling(index, passphrase, key, iterations)
    }
    let first = try filling(free, passphrase, key, iterations)
    let second = try first.header.filling(index, passphrase, key, iterations)
    let third = try second.header.erasingSlots([free])
    return (third.header, first.steps + second.steps + third.steps)
  }

  private func filling(_ index: Int, _ passphrase: [UInt8], _ key: SecretBytes, _ iterations: UInt64)
    throws(ImageError) -> (header: LUKSHeader, steps: [LUKSStep])
  {
    guard iterations >= PBKDF2.minimumIterationsForCreation, let count = UInt32(exactly: iterations),
      work(iterations: count) <= Self.maximumUnlockingWork
    else { throw .invalidArgument("\(iterations) iterations are too few or too many for a key slot") }
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

  /// A header without some passphrases, and how to get there.
  ///
  /// - Parameter isForced: also where no passphrase is left, which makes the volume noise for ever, and where a slot is
  ///   not in use: its material is overwritten again.
  /// - Throws: `.invalidArgument` where a slot is not in use or would be the last.
  package func erasingSlots(_ indices: [Int], isForced: Bool = false) throws(ImageError) -> (
    header: LUKSHeader, steps: [LUKSStep]
  ) {
    var header = self
    for index in indices {
      try checkIndex(index)
      guard slots[index].isActive || isForced else {
        throw .invalidArgument("Given keyslot \(index) is already erased (inactive)")
      }
      header.slots[index].isActive = false
      header.slots[index].iterations = 0
      header.slots[index].salt = [UInt8](repeating: 0, count: Self.saltByteCount)
    }
    guard isForced || header.slots.contains(where: \.isActive) else {
      throw .invalidArgument(
        "Attempt to erase the only active keyslot \(indices.first ?? 0) which will erase all the data in the image "
          + "irreversibly - refusing operation")
    }
    var steps: [LUKSStep] = [.write(offset: 0, bytes: header.serialised()), .flush]
    for index in indices {
      let offset = UInt64(header.slots[index].materialSector) * Self.sectorByteCount
      steps.append(.write(offset: offset, bytes: try Random.bytes(materialByteCount)))
    }
    steps.append(.flush)
    return (header, steps)
  }

  func checkIndex(_ index: Int) throws(ImageError) {
    guard slots.indices.contains(index) else {
      throw .invalidArgument("Invalid keyslot \(index) specified, must be between 0 and \(Self.slotCount - 1)")
    }
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
}
