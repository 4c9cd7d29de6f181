import PlatterCore
import PlatterCrypto
import TestSupport

/// A LUKS volume written down field by field from the LUKS1 on-disk format, with nothing of our own header code.
struct VolumeBuilder {
  var cipher = "aes"
  var mode = "xts-plain64"
  var hash = "sha256"
  var keyByteCount = 64
  var stripes = 4000
  var iterations: UInt32 = 10
  var passphrase: [UInt8] = Array("platter".utf8)
  /// The one slot in use.
  var slot = 0
  var plain: [UInt8] = []
  var payloadAlignmentSectors = 8
  var generator = SeededGenerator(seed: 0x10c5)

  var materialSectors: Int { ((keyByteCount * 4000 + 511) / 512 + 7) / 8 * 8 }
  var payloadSector: Int {
    let end = 8 + 8 * materialSectors
    return (end + payloadAlignmentSectors - 1) / payloadAlignmentSectors * payloadAlignmentSectors
  }

  /// The bytes of the file. `change` may spoil the header.
  mutating func build(_ change: (inout [UInt8]) -> Void = { _ in }) throws -> [UInt8] {
    let suite = try SectorCipherSuite(luksCipher: cipher, mode: mode, keyByteCount: keyByteCount)
    let algorithm = try HashAlgorithm(named: hash)
    let key = generator.bytes(keyByteCount)
    let salt = generator.bytes(32)
    let digestSalt = generator.bytes(32)
    let digest = try derive(key, digestSalt, algorithm, 20)
    let slotKey = try derive(passphrase, salt, algorithm, keyByteCount)

    var file = [UInt8](repeating: 0, count: payloadSector * 512)
    put([0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe, 0, 1], at: 0, &file)
    put(Array(cipher.utf8), at: 8, &file)
    put(Array(mode.utf8), at: 40, &file)
    put(Array(hash.utf8), at: 72, &file)
    put(UInt32(payloadSector), at: 104, &file)
    put(UInt32(keyByteCount), at: 108, &file)
    put(digest, at: 112, &file)
    put(digestSalt, at: 132, &file)
    put(iterations, at: 164, &file)
    put(Array("0b8a2f2e-7a44-4bb3-9a4e-6a1d3b6c5d10".utf8), at: 168, &file)
    for index in 0..<8 {
      let offset = 208 + index * 48
      put(index == slot ? 0x00ac_71f3 as UInt32 : 0x0000_dead, at: offset, &file)
      if index == slot {
        put(iterations, at: offset + 4, &file)
        put(salt, at: offset + 8, &file)
      }
      put(UInt32(8 + index * materialSectors), at: offset + 40, &file)
      put(UInt32(stripes), at: offset + 44, &file)
    }
    let material = try split(key, algorithm)
    put(try encrypt(material, suite, slotKey), at: (8 + slot * materialSectors) * 512, &file)
    file += try encrypt(plain, suite, key)
    change(&file)
    return file
  }

  private func derive(_ passphrase: [UInt8], _ salt: [UInt8], _ hash: HashAlgorithm, _ count: Int) throws -> [UInt8] {
    let key = try PBKDF2.key(
      passphrase: passphrase.rawBytes, salt: salt.rawBytes, iterations: UInt64(iterations), hash: hash, byteCount: count
    )
    return key.bytes.array()
  }

  private func encrypt(_ bytes: [UInt8], _ suite: SectorCipherSuite, _ key: [UInt8]) throws -> [UInt8] {
    let cipher = try suite.makeCipher(key: SecretBytes(copying: key.rawBytes), numbering: .guest)
    var bytes = bytes
    try bytes.withMutableRawBytes { bytes throws(ImageError) in
      try cipher.encrypt(&bytes, guestOffset: 0, hostOffset: 0)
    }
    return bytes
  }

  /// d = 0; for all stripes but the last: d = H(d XOR stripe), piece by piece; the last stripe is d XOR key.
  private mutating func split(_ key: [UInt8], _ hash: HashAlgorithm) throws -> [UInt8] {
    var material = generator.bytes(keyByteCount * 3999)
    var state = [UInt8](repeating: 0, count: keyByteCount)
    for stripe in 0..<3999 {
      for index in 0..<keyByteCount { state[index] ^= material[stripe * keyByteCount + index] }
      var next: [UInt8] = []
      for (number, start) in stride(from: 0, to: keyByteCount, by: hash.byteCount).enumerated() {
        let piece = state[start..<min(start + hash.byteCount, keyByteCount)]
        let numbered = [0, 0, 0, UInt8(number)] + piece
        next += try Digest.value(of: numbered.rawBytes, hash).prefix(piece.count)
      }
      state = next
    }
    for index in 0..<keyByteCount { material.append(state[index] ^ key[index]) }
    return material + [UInt8](repeating: 0, count: (512 - material.count % 512) % 512)
  }
}

func put(_ bytes: [UInt8], at offset: Int, _ file: inout [UInt8]) {
  file.replaceSubrange(offset..<offset + bytes.count, with: bytes)
}

func put(_ number: UInt32, at offset: Int, _ file: inout [UInt8]) {
  put([24, 16, 8, 0].map { UInt8(truncatingIfNeeded: number >> $0) }, at: offset, &file)
}

/// A context whose passphrase is a text; nil for none.
func context(_ passphrase: String?, isForFactsOnly: Bool = false) -> OpenContext {
  let secret = passphrase.map { Array($0.utf8) }
  return OpenContext(passphrase: { secret }, isForFactsOnly: isForFactsOnly)
}

/// All guest bytes, as the engine would read them: data and decryption only.
func contents(_ map: any ImageMap, unitByteCount: Int = 1 << 16) throws -> [UInt8] {
  var runs: [Extent] = []
  var next: UInt64 = 0
  while next < map.byteCount { next = try map.map(next..<map.byteCount, limit: 16, into: &runs) }
  var guest: [UInt8] = []
  for run in runs {
    guard run.kind == .data, run.cipher > 0 else { throw ImageError(.unsupported, "a run of another kind") }
    var done: UInt64 = 0
    while done < run.byteCount {
      let count = Int(min(UInt64(unitByteCount), run.byteCount - done))
      var part = try map.stores[Int(run.store)].readFully("the data", at: run.offset + done, count: count)
      try part.withMutableRawBytes { part throws(ImageError) in
        try map.ciphers[Int(run.cipher) - 1].decrypt(
          &part, guestOffset: run.start + done, hostOffset: run.offset + done)
      }
      guest += part
      done += UInt64(count)
    }
  }
  return guest
}
