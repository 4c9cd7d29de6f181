import PlatterCore

/// The header of a LUKS version 1 volume: which cipher, and eight ways to its key. All numbers big-endian.
///
///     0    magic "LUKS" BA BE, version 1             104  payload offset in sectors, key bytes
///     8    cipher name, 32 bytes                     112  key digest (20), its salt (32), its iterations
///     40   cipher mode, 32 bytes                     168  UUID as text, 40 bytes
///     72   hash name, 32 bytes                       208  8 key slots of 48 bytes
///     slot: state, iterations, salt (32), material offset in sectors, stripes
///
/// Invariants of a value: the suite and hash are known by name (libcrypto may still lack them); every slot's material
/// lies behind the header, before the payload, and apart from every other slot's; active slots have at least one
/// iteration and at most `PBKDF2.maximumIterations`. Source: LUKS On-Disk Format Specification 1.2.3.
package struct LUKSHeader: Sendable, Equatable {
  /// Bytes of the header itself; key material follows.
  package static let byteCount = 592
  package static let slotCount = 8
  /// What every writer uses, and QEMU insists on.
  package static let stripes = 4000
  /// The largest key of any suite: AES-256 twice, for XTS.
  package static let maximumKeyByteCount = 64
  package static let sectorByteCount: UInt64 = 512
  static let magic: [UInt8] = [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe]
  static let digestByteCount = 20
  static let saltByteCount = 32
  static let slotsOffset = 208
  static let slotByteCount = 48

  package var suite: SectorCipherSuite
  /// Cipher mode as the header has it, which may name a hash that the suite has no use for.
  package var modeText: String
  package var hash: HashAlgorithm
  /// Where the encrypted disk starts, in sectors. Means nothing inside qcow2.
  package var payloadSector: UInt32
  package var keyDigest: [UInt8]
  package var digestSalt: [UInt8]
  package var digestIterations: UInt32
  package var uuid: String
  package var slots: [Slot]

  /// A key slot.
  package struct Slot: Sendable, Equatable {
    package var isActive: Bool
    /// 0 in a free slot.
    package var iterations: UInt32
    package var salt: [UInt8]
    /// Where its key material starts, in sectors from the header's first byte.
    package var materialSector: UInt32
    package var stripes: UInt32

    static let activeMark: UInt32 = 0x00ac_71f3
    static let freeMark: UInt32 = 0x0000_dead
  }

  /// What the first bytes of a file say.
  package enum Recognition: Sendable, Equatable {
    case version(UInt16)
    case somethingElse
  }

  /// Tells a LUKS header, of any version, from its first 8 bytes.
  package static func recognise(_ head: RawSpan) -> Recognition {
    guard head.bytes(at: 0, count: magic.count) == magic, let version = head.bigEndian(at: 6, as: UInt16.self) else {
      return .somethingElse
    }
    return .version(version)
  }

  /// Bytes of the volume key.
  package var keyByteCount: Int { suite.keyByteCount }
  /// Bytes of one slot's key material, whole sectors.
  package var materialByteCount: Int { Self.materialByteCount(keyByteCount: keyByteCount) }
  package var payloadOffset: UInt64 { UInt64(payloadSector) * Self.sectorByteCount }
  /// Bytes that the header and its key slots take, by its own word.
  package var areaByteCount: UInt64 {
    let ends = slots.map { UInt64($0.materialSector) * Self.sectorByteCount + UInt64(materialByteCount) }
    return max(payloadOffset, ends.max() ?? 0)
  }

  static func materialByteCount(keyByteCount: Int) -> Int { (keyByteCount * stripes + 511) / 512 * 512 }

  /// The header, zero-filled to `byteCount`.
  package func serialised() -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: Self.byteCount)
    bytes.withMutableRawBytes { bytes in
      bytes.copy(Self.magic.rawBytes)
      bytes.storeBigEndian(1 as UInt16, at: 6)
      bytes.copy(Array(suite.cipher.family.rawValue.utf8.prefix(31)).rawBytes, to: 8)
      bytes.copy(Array(modeText.utf8.prefix(31)).rawBytes, to: 40)
      bytes.copy(Array(hash.name.utf8.prefix(31)).rawBytes, to: 72)
      bytes.storeBigEndian(payloadSector, at: 104)
      bytes.storeBigEndian(UInt32(keyByteCount), at: 108)
      bytes.copy(keyDigest.rawBytes, to: 112)
      bytes.copy(digestSalt.rawBytes, to: 132)
      bytes.storeBigEndian(digestIterations, at: 164)
      bytes.copy(Array(uuid.utf8.prefix(39)).rawBytes, to: 168)
      for (index, slot) in slots.enumerated() {
        let offset = Self.slotsOffset + index * Self.slotByteCount
        bytes.storeBigEndian(slot.isActive ? Slot.activeMark : Slot.freeMark, at: offset)
        bytes.storeBigEndian(slot.iterations, at: offset + 4)
        bytes.copy(slot.salt.rawBytes, to: offset + 8)
        bytes.storeBigEndian(slot.materialSector, at: offset + 40)
        bytes.storeBigEndian(slot.stripes, at: offset + 44)
      }
    }
    return bytes
  }
}
