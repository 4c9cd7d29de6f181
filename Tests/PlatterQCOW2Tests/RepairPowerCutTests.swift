import PlatterCore
import PlatterQCOW2
import TestSupport
import Testing

/// One broken image for the simulator: bytes, and the guest clusters that a repair may lose.
private struct Patient: Sendable, CustomTestStringConvertible {
  var testDescription: String
  var broken: [UInt8]
  var loses: Range<Int>
  var context: OpenContext
  /// Snapshots that are looked at too.
  var snapshots: [String]
  /// Guest clusters of the sound image, and what of them the broken one still shows.
  private var before: [[UInt8]?]
  private var found: [[UInt8]?]

  init(
    _ name: String, _ sound: [UInt8], _ broken: [UInt8], _ loses: Range<Int>, _ context: OpenContext = OpenContext(),
    snapshots: [String] = []
  ) {
    testDescription = name
    self.broken = broken
    self.loses = loses
    self.context = context
    self.snapshots = snapshots
    before = (try? Self.everything(sound, context, snapshots)) ?? []
    // Damage may keep readers out of all of the disk or of parts of it.
    found = (try? Self.everything(broken, context, snapshots)) ?? before.map { _ in nil }
  }

  /// The clusters of the present disk, then those of the snapshots.
  private static func everything(_ bytes: [UInt8], _ context: OpenContext, _ snapshots: [String]) throws -> [[UInt8]?] {
    let map = try open(bytes, context)
    return contents(of: map, bytes) + (try snapshots.flatMap { contents(of: try map.snapshot(named: $0), bytes) })
  }

  static let all: [Patient] =
    Damage.all.map { Patient($0.name, variedImage().build().bytes, $0.bytes(), $0.loses) }
    + MetadataDamage.all.map {
      Patient(
        $0.name, richImage().build().bytes, $0.bytes(), $0.name.contains("directory is guest data") ? 9..<10 : 0..<0)
    }
    + Surplus.all.map { Patient($0.testDescription, $0.build(), $0.build(), 0..<0, snapshots: $0.names) }
    + EncryptedDamage.all.map {
      Patient("encrypted: \($0.testDescription)", EncryptedDisk.sound.bytes, $0.bytes, $0.loses, EncryptedDisk.key)
    }

  /// What is left by a repair that was stopped: everything that the repair did not have to lose, and a repair that is taken up
  /// again ends well.
  func check(_ left: [UInt8], _ when: String) throws {
    let present = (try? Self.everything(left, context, snapshots)) ?? before.map { _ in nil }
    let (fixed, report) = try repair(left, .all, context)
    let after = try Self.everything(fixed, context, snapshots)
    for guest in before.indices where !loses.contains(guest) {
      let isWorse = found[guest] == before[guest] && present[guest] != before[guest]
      if isWorse || after[guest] != before[guest] {
        Issue.record("\(when): guest cluster \(guest) is lost\(isWorse ? " by the repair" : "")")
        return
      }
    }
    if status(report) != 0 { Issue.record("\(when): \(report.messages)") }
  }
}

/// A repair may be cut short at any moment: it never makes worse what it found.
///
/// `PLATTER_REPAIR_CUT_COUNT` sets how often each image is tried; from 2 on, every read fails once and not only some.
@Suite("A repair that is stopped") struct RepairPowerCutTests {
  static let roundCount = environmentValue("PLATTER_REPAIR_CUT_COUNT").flatMap(UInt64.init) ?? 1

  @Test("the power goes", arguments: Patient.all)
  fileprivate func powerCuts(_ patient: Patient) throws {
    let initial = PagedBytes(patient.broken)
    let journal = ChangeJournal()
    let store = PagedStore(initial, name: "test.qcow2", journal: journal)
    _ = try QCOW2.repair(store, patient.context, .all, workers: 1) { _ in true }
    var seen: [PagedBytes] = []
    for seed in 0..<Self.roundCount {
      var random = SeededGenerator(seed: seed)
      try PowerCut([initial], journal).forEachCut(&random) { count, files in
        let left = files[0]
        guard !seen.contains(left) else { return }
        seen.append(left)
        try patient.check(left.read(0..<left.byteCount), "seed \(seed), cut after \(count)")
      }
    }
  }

  @Test("the disk below fails", arguments: ["read", "write", "flush"], Patient.all)
  fileprivate func faults(kind: String, _ patient: Patient) throws {
    let step = kind == "read" && Self.roundCount == 1 ? 9 : 1
    var seen: [[UInt8]] = [patient.broken]
    for nth in stride(from: 1, to: Int.max, by: step) {
      let fault: FaultyStore.Fault =
        kind == "read" ? .failRead(nth: nth) : kind == "write" ? .failWrite(nth: nth) : .failFlush(nth: nth)
      let disk = MemoryStore(patient.broken, name: "test.qcow2")
      do {
        _ = try QCOW2.repair(FaultyStore(disk, fault), patient.context, .all, workers: 1) { _ in true }
        return
      } catch {
        // Many faults leave the same.
        guard !seen.contains(disk.bytes) else { continue }
        seen.append(disk.bytes)
        try patient.check(disk.bytes, "\(kind) \(nth)")
      }
    }
  }
}
