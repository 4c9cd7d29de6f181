package import PlatterCore

extension LUKSHeader {
  /// Reads `count` bytes at `offset` from the header's first byte.
  package typealias MaterialReader = (_ offset: UInt64, _ count: Int) throws(ImageError) -> [UInt8]

  /// The sentence for a passphrase that fits no slot; scripts may look for it. A damaged header says the same.
  package static let wrongPassphraseMessage = "Invalid password, cannot unlock any keyslot"  // QEMU's words

  /// Most work that one unlocking may cost, in iterations times blocks of key: a header may ask for 2^30 of them in
  /// each of eight slots, to keep whoever opens it busy for hours.
  package static let maximumUnlockingWork: UInt64 = 2_000_000_000  // ours

  /// Finds the volume key: tries every active slot in order.
  ///
  /// Cost: one or two seconds a slot, as its maker chose.
  /// - Throws: `.invalidArgument` with `wrongPassphraseMessage`; `.unsupported` where cipher or hash are not offered, or
  ///   the work is beyond `maximumUnlockingWork`; what `readMaterial` throws.
  package func unlock(passphrase: [UInt8], readMaterial: MaterialReader) throws(ImageError) -> SecretBytes {
    try unlockSlot(passphrase: passphrase, readMaterial: readMaterial).key
  }

  /// As `unlock`, and says which slot it was.
  /// - Parameter only: the one slot to try; nil for all.
  package func unlockSlot(passphrase: [UInt8], only: Int? = nil, readMaterial: MaterialReader) throws(ImageError) -> (
    key: SecretBytes, slot: Int
  ) {
    var work: UInt64 = 0
    for (index, slot) in slots.enumerated() where slot.isActive && (only == nil || only == index) {
      work += self.work(iterations: slot.iterations)
      guard work <= Self.maximumUnlockingWork else {
        throw .unsupported(
          "LUKS header: key slot \(index) with \(slot.iterations) iterations takes the work of unlocking past the limit "
            + "of \(Self.maximumUnlockingWork) hash rounds")
      }
      if let key = try key(from: slot, passphrase.rawBytes, readMaterial) { return (key, index) }
    }
    throw .invalidArgument(Self.wrongPassphraseMessage)
  }

  /// What trying one slot costs, the check of its key included; no sum of eight overflows.
  func work(iterations: UInt32) -> UInt64 {
    let keyBlocks = UInt64((keyByteCount + hash.byteCount - 1) / hash.byteCount)
    let digestBlocks = UInt64((Self.digestByteCount + hash.byteCount - 1) / hash.byteCount)
    return UInt64(iterations) * keyBlocks + UInt64(digestIterations) * digestBlocks
  }

  /// Whether this is the volume key.
  package func accepts(key: borrowing SecretBytes) throws(ImageError) -> Bool {
    let digest = try PBKDF2.key(
      passphrase: key.bytes, salt: digestSalt.rawBytes, iterations: UInt64(digestIterations), hash: hash,
      byteCount: Self.digestByteCount)
    return isEqualInConstantTime(digest.bytes, keyDigest.rawBytes)
  }

  /// The volume key if the passphrase opens this slot.
  private func key(from slot: Slot, _ passphrase: RawSpan, _ readMaterial: MaterialReader) throws(ImageError)
    -> SecretBytes?
  {
    let slotKey = try PBKDF2.key(
      passphrase: passphrase, salt: slot.salt.rawBytes, iterations: UInt64(slot.iterations), hash: hash,
      byteCount: keyByteCount)
    // Sectors of the material are numbered from 0.
    let cipher = try suite.makeCipher(key: slotKey, numbering: .host(base: 0))
    let encrypted = try readMaterial(UInt64(slot.materialSector) * Self.sectorByteCount, materialByteCount)
    guard encrypted.count == materialByteCount else { throw .truncated("LUKS key material is cut short") }
    let material = try SecretBytes(count: materialByteCount) { bytes throws(ImageError) in
      bytes.copy(encrypted.rawBytes)
      try cipher.decrypt(&bytes, guestOffset: 0, hostOffset: 0)
    }
    let key = try AntiForensic.merge(material.bytes, keyByteCount: keyByteCount, stripes: Self.stripes, hash: hash)
    return try accepts(key: key) ? key : nil
  }
}
