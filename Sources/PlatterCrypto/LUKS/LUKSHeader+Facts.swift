package import PlatterCore

extension LUKSHeader {
  /// What `info` shows, in the order of QEMU 7.2.
  ///
  /// - Parameter isInsideImage: the volume lies in another format, whose `info` has it under "encrypt" and names it.
  package func facts(isInsideImage: Bool = false) -> Property {
    var members: [Property.Member] = [
      .init("ivgen-alg", .text(suite.generator.name)),
      .init("hash-alg", .text(hash.name)),
      .init("cipher-alg", .text(suite.cipher.name)),
      .init("uuid", .text(uuid)),
    ]
    if let hash = suite.generator.hash { members.append(.init("ivgen-hash-alg", .text(hash.name))) }
    if isInsideImage { members.append(.init("format", .text("luks"))) }
    members += [
      .init("cipher-mode", .text(suite.mode.rawValue)),
      .init("slots", .list(slots.map(\.facts))),
      .init("payload-offset", .unsigned(payloadOffset)),
      .init("master-key-iters", .unsigned(UInt64(digestIterations))),
    ]
    return .object(members)
  }
}

extension LUKSHeader.Slot {
  fileprivate var facts: Property {
    let offset = Property.unsigned(UInt64(materialSector) * LUKSHeader.sectorByteCount)
    guard isActive else { return ["active": .flag(false), "key-offset": offset] }
    return [
      "active": .flag(true), "iters": .unsigned(UInt64(iterations)), "key-offset": offset,
      "stripes": .unsigned(UInt64(stripes)),
    ]
  }
}
