import PlatterCore
import PlatterQCOW2
import Synchronization
import SystemPackage
import TestSupport
import Testing

/// A disk of 16 clusters of 4 KiB, encrypted with LUKS, each filled with its number and 1.
struct EncryptedDisk {
  static let key = OpenContext(passphrase: { Array("abc".utf8) })
  /// Key derivation is measured when an image is made, so one is made for all.
  static let sound = EncryptedDisk()

  var bytes: [UInt8]
  var table: UInt64
  var hosts: [UInt64]
  var l1Offset: UInt64
  var cryptoOffset: UInt64
  var cryptoByteCount: UInt64
  /// Where the length of the crypto header lies.
  var cryptoLengthPlace: UInt64

  private init() {
    let options = Options(
      "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=0,encrypt.cipher-alg=aes-128,"
        + "encrypt.cipher-mode=cbc,cluster_size=4096,preallocation=metadata", 16 * 4096)
    bytes = (try? created(options)) ?? []
    l1Offset = bytes.word(at: 40)
    table = bytes.word(at: l1Offset) & 0x00ff_ffff_ffff_fe00
    hosts = []
    // The first extension behind the header.
    let place = bytes.word(at: 96) & 0xffff_ffff
    (cryptoOffset, cryptoByteCount) = (bytes.word(at: place + 8), bytes.word(at: place + 16))
    cryptoLengthPlace = place + 16
    guard let cipher = try? open(bytes, Self.key).ciphers.first else { return }
    for guest in UInt64(0)..<16 {
      let entry = table + guest * 8
      let host = bytes.word(at: entry) & 0x00ff_ffff_ffff_fe00
      // The flag that says zeros goes.
      bytes.lie(at: entry, host | copied)
      hosts.append(host)
      let content = Self.enciphered(filled(UInt8(guest + 1), 4096), host, cipher)
      let end = Int(host) + 4096
      if bytes.count < end { bytes += filled(0, end - bytes.count) }
      bytes.lie(at: host, content)
    }
  }

  private static func enciphered(_ plain: [UInt8], _ host: UInt64, _ cipher: any SectorCipher) -> [UInt8] {
    var bytes = plain
    try? bytes.withMutableRawBytes { bytes throws(ImageError) in
      try cipher.encrypt(&bytes, guestOffset: 0, hostOffset: host)
    }
    return bytes
  }
}

/// One way to break an encrypted image.
struct EncryptedDamage: Sendable, CustomTestStringConvertible {
  var testDescription: String
  /// Guest clusters that a repair may lose.
  var loses: Range<Int> = 0..<0
  var says: String
  /// It can be repaired without the passphrase.
  var needsKey = true
  var lie: @Sendable (EncryptedDisk) -> (place: UInt64, word: UInt64)

  var bytes: [UInt8] {
    var bytes = EncryptedDisk.sound.bytes
    let lie = lie(.sound)
    bytes.lie(at: lie.place, lie.word)
    return bytes
  }

  static let all = [
    EncryptedDamage(testDescription: "two entries share a cluster", loses: 1..<2, says: "another part of the disk") {
      ($0.table + 8, $0.hosts[0] | copied)
    },
    EncryptedDamage(testDescription: "an entry names the L1 table", loses: 1..<2, says: "used by metadata too") {
      ($0.table + 8, $0.l1Offset | copied)
    },
    EncryptedDamage(testDescription: "an entry names the crypto header", loses: 1..<2, says: "used by metadata too") {
      ($0.table + 8, $0.cryptoOffset | copied)
    },
    EncryptedDamage(testDescription: "an entry names key material", loses: 1..<2, says: "used by metadata too") {
      ($0.table + 8, ($0.cryptoOffset + 8192) | copied)
    },
    EncryptedDamage(
      testDescription: "an L1 entry names the crypto header", loses: 0..<16, says: "is other metadata", needsKey: false
    ) { ($0.l1Offset, $0.cryptoOffset | copied) },
    EncryptedDamage(
      testDescription: "the crypto header's length covers tables and data", says: "overlaps another", needsKey: false
    ) { ($0.cryptoLengthPlace, UInt64($0.bytes.count) - $0.cryptoOffset) },
    EncryptedDamage(
      testDescription: "the refcount table lies in the crypto header", says: "overlaps another", needsKey: false
    ) { (48, $0.cryptoOffset + 4096) },
  ]
}

/// Clusters used twice were left alone: they are encrypted for the place where they lie.
@Suite("Repair of encrypted images") struct EncryptedRepairTests {
  @Test("the fixture reads as it should")
  func fixture() throws {
    let bytes = EncryptedDisk.sound.bytes
    #expect(try check(bytes, EncryptedDisk.key).messages == [])
    #expect(try contents(bytes, EncryptedDisk.key) == (1...16).map { filled($0, 4096) })
  }

  @Test("with the passphrase everything is repaired, and reads as before", arguments: EncryptedDamage.all)
  func repaired(_ damage: EncryptedDamage) throws {
    let broken = damage.bytes
    let (fixed, report) = try repair(broken, .all, EncryptedDisk.key)
    #expect(status(report) == 0, "\(report.messages)")
    #expect(report.messages.contains { $0.contains(damage.says) }, "\(report.messages)")
    #expect(try check(fixed, EncryptedDisk.key).messages == [])
    let (before, after) = (
      try contents(broken, EncryptedDisk.key), try contents(fixed, EncryptedDisk.key)
    )
    for guest in 0..<16 where damage.loses != 0..<16 {
      #expect(after[guest] == before[guest], "guest cluster \(guest)")
      if !damage.loses.contains(guest) { #expect(after[guest] == filled(UInt8(guest + 1), 4096)) }
    }
    #expect(try repair(fixed, .all, EncryptedDisk.key).bytes == fixed)
  }

  @Test("without it, what needs it is left, and one sentence says so", arguments: EncryptedDamage.all)
  func withoutKey(_ damage: EncryptedDamage) throws {
    let broken = damage.bytes
    let (fixed, report) = try repair(broken)
    #expect(status(report) == (damage.needsKey ? 2 : 0), "\(report.messages)")
    #expect(report.messages.count { $0.contains("the repair needs the passphrase") } == (damage.needsKey ? 1 : 0))
    guard damage.loses != 0..<16 else { return }
    #expect(try contents(fixed, EncryptedDisk.key) == contents(broken, EncryptedDisk.key))
    // The key is not too late.
    #expect(status(try repair(fixed, .all, EncryptedDisk.key).report) == 0)
  }

  @Test("a wrong passphrase changes nothing")
  func wrongKey() throws {
    let broken = EncryptedDamage.all[0].bytes
    let store = MemoryStore(broken, name: "test.qcow2")
    let wrong = OpenContext(passphrase: { [1] })
    let error = #expect(throws: ImageError.self) { try QCOW2.repair(store, wrong, .all, workers: 1) { _ in true } }
    #expect(error?.code == .invalidArgument)
    #expect(store.bytes == broken)
  }

  @Test("an image that was not closed is repaired by who opens it for writing, who is asked for the passphrase once")
  func dirtyOpened() throws {
    var bytes = EncryptedDamage.all[0].bytes
    bytes[79] |= 1
    let asked = Mutex(0)
    let context = OpenContext(
      isWritable: true,
      passphrase: {
        asked.withLock { $0 += 1 }
        return Array("abc".utf8)
      })
    let store = MemoryStore(bytes, name: "test.qcow2")
    _ = try QCOW2.open(store, context)
    #expect(asked.withLock { $0 } == 1)
    #expect(try check(store.bytes, EncryptedDisk.key).messages == [])
  }

  /// The entries of a table that is no table would be mended there, and the keys be gone.
  @Test(
    "an L1 table that lies in the crypto header is left, and so is the crypto header", arguments: [UInt64(0), 8192])
  func tableInHeader(inside: UInt64) throws {
    let disk = EncryptedDisk.sound
    var broken = disk.bytes
    broken.lie(at: 40, disk.cryptoOffset + inside)
    let (fixed, report) = try repair(broken, .all, EncryptedDisk.key)
    #expect(status(report) == 2)
    #expect(report.messages.contains { $0.contains("lies in the crypto header") }, "\(report.messages)")
    let header = Int(disk.cryptoOffset)..<Int(disk.cryptoOffset + disk.cryptoByteCount)
    #expect(fixed[header] == broken[header])
    var mended = fixed
    mended.lie(at: 40, disk.l1Offset)
    let again = try repair(mended, .all, EncryptedDisk.key)
    #expect(status(again.report) == 0, "\(again.report.messages)")
    #expect(try contents(again.bytes, EncryptedDisk.key) == (1...16).map { filled($0, 4096) })
  }

  @Test(
    "an extension that names no LUKS header is refused",
    arguments: [UInt64(0), 4096, 8704, UInt64(1) << 40] as [UInt64])
  func noHeader(offset: UInt64) throws {
    let disk = EncryptedDisk.sound
    var broken = disk.bytes
    broken.lie(at: disk.cryptoLengthPlace - 8, offset)
    let store = MemoryStore(broken, name: "test.qcow2")
    let error = #expect(throws: ImageError.self) {
      try QCOW2.repair(store, EncryptedDisk.key, .all, workers: 1) { _ in true }
    }
    #expect(error?.message.contains("crypto header") == true || error?.message.contains("LUKS header") == true)
    #expect(store.bytes == broken)
  }
}

@Suite("qemu-img agrees on encrypted images", .requires(.qemuImg)) struct EncryptedRepairInteropTests {
  @Test("what is repaired is clean for qemu-img too", arguments: EncryptedDamage.all)
  func repaired(_ damage: EncryptedDamage) throws {
    let folder = try ScratchDirectory()
    let path = try folder.write(try repair(damage.bytes, .all, EncryptedDisk.key).bytes, to: "disk.qcow2")
    let result = try Tool.qemuImg(
      "check", "--object", "secret,id=s,data=abc", "--image-opts",
      "driver=qcow2,file.filename=\(path.string),encrypt.key-secret=s")
    #expect(result.status == 0, "\(result.outputText)\(result.errorText)")
  }
}
