import Platter
import PlatterCore
import TestSupport
import Testing
import WriterProof

/// Every way to create a qcow2 image, everything that can be done to it, over images of every format: a plain array says
/// what it reads as, and no cut or fault may lose what was flushed. `make prove` runs the large numbers.
@Suite("The writer of qcow2 loses nothing") struct ProofTests {
  static let sequenceCount = environmentValue("PLATTER_MODEL_COUNT").flatMap(Int.init) ?? 120
  static let cutCount = environmentValue("PLATTER_CUT_COUNT").flatMap(Int.init) ?? 800
  static let faultCount = environmentValue("PLATTER_FAULT_COUNT").flatMap(Int.init) ?? 280

  @Test("the option rows hold any two values that can stand together")
  func rows() {
    #expect(ProofRow.all.count > 90)
    for size in 9...21 { #expect(ProofRow.all.contains { $0.cluster == 1 << UInt64(size) }) }
    for format in BaseImage.formats {
      #expect(ProofRow.all.contains { $0.backing == format && $0.isEncrypted })
      #expect(ProofRow.all.contains { $0.backing == format && $0.isExtended })
    }
  }

  @Test("images below are read as they were laid out", arguments: BaseImage.formats)
  func bases(format: String) throws {
    var content = [UInt8](repeating: 0, count: 3_000_320)
    content.put(randomBytes(70_000, from: 5), at: 1000)
    content.put(randomBytes(40_000, from: 6), at: 2_960_320)
    let map = try Formats.named(format).open(PagedStore(BaseImage.make(format, content)), OpenContext())
    let disk = DiskImage(layers: [DiskImage.Layer(name: "base", map: map)])
    #expect(disk.byteCount == UInt64(content.count))
    #expect(try disk.read(content.count, at: 0) == content)
  }

  @Test("random sequences read as the array does", arguments: Seeds.shares)
  func sequences(share: UInt64) {
    Seeds.run(share: share, amount: Self.sequenceCount, chosen: nil) { seed in
      // A stride that meets every kind of row.
      try Proof.sequence(seed: seed &* 7)
      return 1
    }
  }

  @Test("a power cut anywhere loses nothing that was flushed", arguments: Seeds.shares)
  func powerCuts(share: UInt64) {
    Seeds.run(share: share, amount: Self.cutCount, chosen: nil) { try Proof.powerCuts(seed: $0, limit: 100) }
  }

  @Test("a disk that fails or fills up loses nothing that was flushed", arguments: Proof.FaultKind.allCases)
  func faults(kind: Proof.FaultKind) throws {
    var (faults, seed) = (0, UInt64(kind.rawValue.utf8.count))
    while faults < Self.faultCount / Proof.FaultKind.allCases.count {
      faults += try Proof.faults(kind, seed: seed, limit: 20)
      seed += 3
    }
  }

  /// Without a barrier between new tables and the entries that name them, a cut leaves an entry without its table.
  @Test("a writer without barriers does not pass")
  func withoutBarriers() throws {
    var failures = 0
    for seed in 0..<UInt64(40) where failures == 0 {
      do { _ = try Proof.powerCuts(seed: seed, hasBarriers: false) } catch { failures += 1 }
    }
    #expect(failures > 0)
  }

  @Test("threads that write the same clusters find what they wrote, and snapshots keep it", arguments: 0..<UInt64(8))
  func sideBySide(seed: UInt64) throws { try Proof.sideBySide(seed: seed, threadCount: 6, stepCount: 60) }
}
