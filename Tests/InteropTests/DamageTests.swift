import PlatterCore
import SystemPackage
import TestSupport
import Testing
import WriterProof

/// Images made with any options, broken at random and repaired, beside qemu-img.
///
/// `PLATTER_DAMAGE_COUNT` sets how many; a failing seed is printed, and `PLATTER_DAMAGE_SEED` runs it alone.
@Suite("Damage to images of every kind", .requires(.qemuImg)) struct DamageTests {
  static let count = environmentValue("PLATTER_DAMAGE_COUNT").flatMap(Int.init) ?? 80
  static let chosenSeed = environmentValue("PLATTER_DAMAGE_SEED").flatMap(UInt64.init)

  @Test("what is repaired is clean for both, and has all that could be read", arguments: Seeds.shares)
  func damage(share: UInt64) {
    Seeds.run(share: share, amount: Self.count, chosen: Self.chosenSeed) { seed in
      guard let proof = try DamageProof(seed: seed) else { return 1 }
      do {
        try proof.check()
        // QEMU opens no image that has a bitmap of a disk without bytes.
        if proof.status == 0, !proof.isEmpty { try Self.judge(proof) }
      } catch {
        throw WriterFault("\(error)\n\(proof.story)")
      }
      return 1
    }
  }

  @Test("a repair that is cut short loses nothing, and another one ends well", arguments: Seeds.shares)
  func powerCuts(share: UInt64) {
    Seeds.run(share: share, amount: Self.count, chosen: Self.chosenSeed) { seed in
      guard let proof = try DamageProof(seed: seed) else { return 1 }
      var random = SeededGenerator(seed: seed)
      do { return max(1, try proof.powerCuts(limit: 12, &random)) } catch {
        throw WriterFault("\(error)\n\(proof.story)")
      }
    }
  }

  /// qemu-img on the repaired image.
  private static func judge(_ proof: DamageProof) throws {
    let folder = try ScratchDirectory()
    for (name, bytes) in zip(ProofFiles.names, proof.repaired) {
      try folder.write(bytes.read(0..<bytes.byteCount), to: name)
    }
    // QEMU need not like what lies below.
    var options = [
      "'driver': 'qcow2'", "'backing': null", "'file': {'driver': 'file', 'filename': 'top.qcow2'}",
    ]
    if proof.row.isEncrypted { options.append("'encrypt': {'key-secret': 's', 'format': '\(proof.row.encryption)'}") }
    if proof.namesDataFile { options.append("'data-file': {'driver': 'file', 'filename': 'data'}") }
    let result = try Tool.qemuImg(
      "check", "--object", "secret,id=s,data=secret", "json:{\(options.joined(separator: ", "))}", in: folder.path)
    guard result.status == 0 else {
      throw WriterFault("qemu-img: \(result.status): \(result.outputText)\(result.errorText)")
    }
  }
}
