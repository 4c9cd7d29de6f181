import PlatterCore
import PlatterCrypto
import TestSupport
import Testing

@Suite("Making LUKS headers and changing their key slots")
struct LUKSCreationTests {
  private func make(
    _ mode: String = "xts-plain64", keyByteCount: Int = 64, hash: HashAlgorithm = .sha256
  ) throws -> (NewLUKSVolume, MemoryStore) {
    let suite = try SectorCipherSuite(luksCipher: "aes", mode: mode, keyByteCount: keyByteCount)
    let creation = try LUKSCreation(suite: suite, hash: hash, slotIterations: 1000, digestIterations: 1000)
    let volume = try LUKSHeader.create(creation, passphrase: bytes("first"))
    let store = MemoryStore()
    try store.resize(to: volume.header.payloadOffset)
    try carryOut(volume.steps, on: store)
    return (volume, store)
  }

  private func carryOut(_ steps: [LUKSStep], on store: MemoryStore) throws {
    for case .write(let offset, let bytes) in steps { try store.write(bytes.rawBytes, at: offset) }
  }

  private func parse(_ store: MemoryStore) throws -> LUKSHeader {
    let bytes = store.bytes
    return try LUKSHeader(parsing: bytes.rawBytes, areaByteCount: UInt64(bytes.count), hasPayload: true)
  }

  private func unlock(_ store: MemoryStore, _ passphrase: String) throws -> [UInt8] {
    let key = try parse(store).unlock(passphrase: bytes(passphrase)) { (offset, count) throws(ImageError) in
      try store.readFully("material", at: offset, count: count)
    }
    return key.array
  }

  @Test(
    "a new header parses to what was written and opens",
    arguments: [
      ("xts-plain64", 64, HashAlgorithm.sha256), ("cbc-essiv:sha256", 32, .sha512), ("cbc-plain64", 24, .sha384),
    ])
  func roundTrip(mode: String, keyByteCount: Int, hash: HashAlgorithm) throws {
    let (volume, store) = try make(mode, keyByteCount: keyByteCount, hash: hash)
    #expect(try parse(store) == volume.header)
    #expect(try unlock(store, "first") == volume.key.array)
    #expect(throws: ImageError.self) { try unlock(store, "second") }
  }

  @Test("places are QEMU's") func places() throws {
    let (volume, _) = try make()
    #expect(volume.header.payloadOffset == 2_068_480)
    #expect(volume.header.slots.map(\.materialSector) == [8, 512, 1016, 1520, 2024, 2528, 3032, 3536])
  }

  @Test("the header is written last, between barriers") func order() throws {
    let (volume, _) = try make()
    #expect(volume.steps.count == 4)
    guard case .write(let first, _) = volume.steps[0], case .flush = volume.steps[1],
      case .write(0, let header) = volume.steps[2], case .flush = volume.steps[3]
    else { Issue.record("another order: \(volume.steps.count) steps"); return }
    #expect(first == 4096)
    #expect(header == volume.header.serialised())
  }

  @Test("a second passphrase opens too; then the first is erased, and its material is gone") func addAndErase() throws {
    let (volume, store) = try make()
    let before = store.bytes
    let added = try volume.header.addingSlot(nil, passphrase: bytes("second"), key: volume.key, iterations: 1000)
    // Whatever part of the steps is done, the first passphrase opens.
    for step in added.steps {
      try carryOut([step], on: store)
      #expect(try unlock(store, "first") == volume.key.array)
    }
    #expect(try unlock(store, "second") == volume.key.array)
    #expect(added.header.slots[1].isActive)

    let erased = try added.header.erasingSlots([0])
    for step in erased.steps {
      try carryOut([step], on: store)
      #expect(try unlock(store, "second") == volume.key.array)
    }
    #expect(throws: ImageError.self) { try unlock(store, "first") }
    #expect(store.bytes[4096..<262144] != before[4096..<262144])
  }

  @Test("slots are found by passphrase") func slotsByPassphrase() throws {
    let (volume, store) = try make()
    let added = try volume.header.addingSlot(5, passphrase: bytes("first"), key: volume.key, iterations: 1000)
    try carryOut(added.steps, on: store)
    let reader: LUKSHeader.MaterialReader = { (offset, count) throws(ImageError) in
      try store.readFully("material", at: offset, count: count)
    }
    #expect(try parse(store).slots(openedBy: bytes("first"), readMaterial: reader) == [0, 5])
    #expect(try parse(store).slots(openedBy: bytes("other"), readMaterial: reader).isEmpty)
  }

  @Test("nothing is lost by mistake") func refusals() throws {
    let (volume, _) = try make()
    let header = volume.header
    #expect(throws: ImageError.self) { try header.erasingSlots([0]) }
    #expect(throws: ImageError.self) { try header.erasingSlots([1]) }
    #expect(throws: ImageError.self) { try header.erasingSlots([8]) }
    #expect(try !header.erasingSlots([0], isForced: true).header.slots[0].isActive)
    #expect(throws: ImageError.self) {
      try header.addingSlot(0, passphrase: bytes("x"), key: volume.key, iterations: 1000)
    }
    #expect(throws: ImageError.self) {
      try header.addingSlot(8, passphrase: bytes("x"), key: volume.key, iterations: 1000)
    }
    #expect(throws: ImageError.self) {
      try header.addingSlot(1, passphrase: bytes("x"), key: volume.key, iterations: 999)
    }
    let stranger = try SecretBytes.random(count: 64)
    #expect(throws: ImageError.self) {
      try header.addingSlot(1, passphrase: bytes("x"), key: stranger, iterations: 1000)
    }
    var full = header
    for index in full.slots.indices { full.slots[index].isActive = true }
    let error = #expect(throws: ImageError.self) {
      try full.addingSlot(nil, passphrase: bytes("x"), key: volume.key, iterations: 1000)
    }
    #expect(error?.message == "Can't add a keyslot - all keyslots are in use")
  }

  @Test("weak settings are refused for new volumes") func weakSettings() throws {
    let strong = try LUKSCreation.defaultSuite()
    var codebook = strong
    codebook.mode = .ecb
    let weakVectors = SectorCipherSuite(strong.cipher, .cbc, .essiv(.md5))
    for (suite, hash, count) in [
      (strong, HashAlgorithm.md5, 1000 as UInt64), (strong, .sha1, 1000), (codebook, .sha256, 1000),
      (weakVectors, .sha256, 1000), (strong, .sha256, 999), (strong, .sha256, 1 << 40),
    ] {
      let error = #expect(throws: ImageError.self) {
        try LUKSCreation(suite: suite, hash: hash, slotIterations: count, digestIterations: 1000)
      }
      #expect(error?.code == .invalidArgument)
    }
  }

  @Test("two volumes share neither key nor salt nor UUID") func noneAlike() throws {
    let (one, _) = try make()
    let (other, _) = try make()
    #expect(one.key.hex != other.key.hex)
    #expect(one.header.digestSalt != other.header.digestSalt)
    #expect(one.header.slots[0].salt != other.header.slots[0].salt)
    #expect(one.header.uuid != other.header.uuid)
    #expect(one.header.uuid.count == 36)
  }

  @Test("qemu-img and cryptsetup accept a new volume", .requires(.qemuImg, .cryptsetup)) func others() throws {
    let (_, store) = try make()
    let scratch = try ScratchDirectory()
    try scratch.write(store.bytes + [UInt8](repeating: 0, count: 4096), to: "disk.luks")
    try scratch.write(bytes("first"), to: "secret")
    try Tool.qemuImg.succeed(
      "convert", "--object", "secret,id=s,file=\(scratch["secret"])", "--image-opts",
      "driver=luks,key-secret=s,file.filename=\(scratch["disk.luks"])", "-O", "raw", scratch["disk.raw"])
    #expect(try scratch.read("disk.raw").count == 4096)
    try Tool.cryptsetup.succeed("open", "--test-passphrase", "--key-file", scratch["secret"], scratch["disk.luks"])
  }
}
