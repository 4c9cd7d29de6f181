package import PlatterCore

/// A volume whose key is known, in the file that holds its header.
package struct LUKSVolume: Sendable {
  package private(set) var header: LUKSHeader
  package let key: SecretBytes
  private let store: any ByteStore
  private let offset: UInt64

  /// Finds the key.
  ///
  /// - Parameter offset: of the header in the file.
  /// - Throws: as `LUKSHeader.unlock`.
  package init(unlocking header: LUKSHeader, in store: any ByteStore, at offset: UInt64 = 0, passphrase: [UInt8])
    throws(ImageError)
  {
    self.header = header
    self.store = store
    self.offset = offset
    key = try header.unlock(passphrase: passphrase, readMaterial: Self.reader(store, offset))
  }

  private static func reader(_ store: any ByteStore, _ offset: UInt64) -> LUKSHeader.MaterialReader {
    { (place, count) throws(ImageError) in
      try store.readFully("LUKS key material", at: offset + place, count: count)
    }
  }

  /// A change of key slots that was found possible, and not made yet.
  package struct Plan: Sendable {
    fileprivate var header: LUKSHeader
    fileprivate var steps: [LUKSStep]
  }

  /// Works a change out; writes nothing.
  /// - Throws: `.invalidArgument` where it makes no sense or, unless it is forced, would lose something.
  package func plan(_ change: KeySlotChange) throws(ImageError) -> Plan {
    let (header, steps) = try header.changing(change, key: key, readMaterial: Self.reader(store, offset))
    return Plan(header: header, steps: steps)
  }

  /// Makes a change, in an order in which a power cut loses no passphrase that stays.
  package mutating func carryOut(_ plan: Plan, _ barrier: Barrier) throws(ImageError) {
    try plan.steps.carryOut(on: store, at: offset, barrier)
    header = plan.header
  }
}
