package import PlatterCore

extension LUKSHeader {
  /// Reads and checks a header.
  ///
  /// - Parameters:
  ///   - bytes: from the header's first byte; `byteCount` of them are used.
  ///   - areaByteCount: bytes that header and key material may take: the length of a raw LUKS file, of the crypto header
  ///     of a qcow2 image.
  ///   - hasPayload: whether the payload offset counts and must lie inside the area; false inside qcow2.
  /// - Throws: `.truncated`, `.unsupported` for another version, cipher or hash; `.corrupt`.
  package init(parsing bytes: RawSpan, areaByteCount: UInt64, hasPayload: Bool) throws(ImageError) {
    guard bytes.byteCount >= Self.byteCount else {
      throw .truncated("LUKS header has \(bytes.byteCount) bytes of \(Self.byteCount)")
    }
    guard case .version(let version) = Self.recognise(bytes) else {
      throw .corrupt("LUKS header does not start with the LUKS signature")
    }
    guard version == 1 else { throw .unsupported("LUKS version \(version) is not supported") }
    let family = try Self.text(bytes, at: 8, count: 32, "cipher name")
    modeText = try Self.text(bytes, at: 40, count: 32, "cipher mode")
    let hashName = try Self.text(bytes, at: 72, count: 32, "hash name")
    payloadSector = try Self.number(bytes, at: 104)
    let keyByteCount = try Self.number(bytes, at: 108)
    guard (1...UInt32(Self.maximumKeyByteCount)).contains(keyByteCount) else {
      throw .corrupt("LUKS header: key length \(keyByteCount) is outside 1 to \(Self.maximumKeyByteCount)")
    }
    suite = try SectorCipherSuite(luksCipher: family, mode: modeText, keyByteCount: Int(keyByteCount))
    hash = try HashAlgorithm(named: hashName)
    keyDigest = bytes.bytes(at: 112, count: Self.digestByteCount) ?? []
    digestSalt = bytes.bytes(at: 132, count: Self.saltByteCount) ?? []
    digestIterations = try Self.iterations(bytes, at: 164, "digest")
    uuid = try Self.text(bytes, at: 168, count: 40, "UUID")
    slots = []
    for index in 0..<Self.slotCount { slots.append(try Slot(parsing: bytes, index: index)) }
    try checkPlaces(areaByteCount: areaByteCount, hasPayload: hasPayload)
  }

  private static func number(_ bytes: RawSpan, at offset: Int) throws(ImageError) -> UInt32 {
    guard let value = bytes.bigEndian(at: offset, as: UInt32.self) else { throw .truncated("LUKS header is cut short") }
    return value
  }

  private static func text(_ bytes: RawSpan, at offset: Int, count: Int, _ what: String) throws(ImageError) -> String {
    guard let field = bytes.bytes(at: offset, count: count), let end = field.firstIndex(of: 0) else {
      throw .corrupt("LUKS header: the \(what) does not end within its \(count) bytes")
    }
    return String(decoding: field[..<end], as: UTF8.self).printableForError
  }

  /// An iteration count: PBKDF2 has no meaning for 0, and a number near 2^32 keeps a processor busy for an hour.
  fileprivate static func iterations(_ bytes: RawSpan, at offset: Int, _ what: String) throws(ImageError) -> UInt32 {
    let iterations = try number(bytes, at: offset)
    guard iterations >= 1, UInt64(iterations) <= PBKDF2.maximumIterations else {
      throw .corrupt(
        "LUKS header: \(iterations) iterations of the \(what) are outside 1 to \(PBKDF2.maximumIterations)")
    }
    return iterations
  }

  /// All sums in 64 bits: in 32, an offset near the top would wrap to a harmless one.
  private func checkPlaces(areaByteCount: UInt64, hasPayload: Bool) throws(ImageError) {
    let areaSectors = areaByteCount / Self.sectorByteCount
    if hasPayload, UInt64(payloadSector) > areaSectors {
      throw .corrupt(
        "LUKS header: payload at \(payloadOffset.hex) lies past the end of the file (\(areaByteCount.hex))")
    }
    let limit = hasPayload ? UInt64(payloadSector) : areaSectors
    let count = UInt64(materialByteCount) / Self.sectorByteCount
    for (index, slot) in slots.enumerated() {
      let start = UInt64(slot.materialSector)
      let offset = (start * Self.sectorByteCount).hex
      guard start >= UInt64(Self.byteCount).dividedRoundingUp(by: Self.sectorByteCount) else {
        throw .corrupt("LUKS header: key slot \(index) at \(offset) lies inside the header")
      }
      guard start + count <= limit else {
        let what = hasPayload ? "the start of the payload" : "the end of the header's area"
        throw .corrupt(
          "LUKS header: key slot \(index) at \(offset) reaches past \(what) (\((limit * Self.sectorByteCount).hex))")
      }
      for (earlier, other) in slots[..<index].enumerated() {
        let distance = max(start, UInt64(other.materialSector)) - min(start, UInt64(other.materialSector))
        guard distance >= count else { throw .corrupt("LUKS header: key slots \(earlier) and \(index) overlap") }
      }
    }
  }
}

extension LUKSHeader.Slot {
  fileprivate init(parsing bytes: RawSpan, index: Int) throws(ImageError) {
    let offset = LUKSHeader.slotsOffset + index * LUKSHeader.slotByteCount
    guard let mark = bytes.bigEndian(at: offset, as: UInt32.self),
      let salt = bytes.bytes(at: offset + 8, count: LUKSHeader.saltByteCount),
      let materialSector = bytes.bigEndian(at: offset + 40, as: UInt32.self),
      let stripes = bytes.bigEndian(at: offset + 44, as: UInt32.self)
    else { throw .truncated("LUKS header is cut short") }
    guard mark == Self.activeMark || mark == Self.freeMark else {
      throw .corrupt("LUKS header: key slot \(index) has the unknown state \(UInt64(mark).hex)")
    }
    guard stripes == UInt32(LUKSHeader.stripes) else {
      throw .corrupt("LUKS header: key slot \(index) has \(stripes) stripes, not \(LUKSHeader.stripes)")
    }
    isActive = mark == Self.activeMark
    iterations =
      isActive
      ? try LUKSHeader.iterations(bytes, at: offset + 4, "key slot \(index)")
      : bytes.bigEndian(at: offset + 4, as: UInt32.self) ?? 0
    self.salt = salt
    self.materialSector = materialSector
    self.stripes = stripes
  }
}
