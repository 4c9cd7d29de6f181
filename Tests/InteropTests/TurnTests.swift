import TestSupport
import Testing
import WriterProof

/// Both programs change one disk in turns, in every way that there is: requests, packed clusters, snapshots, sizes, options,
/// images below, bitmaps, conversion. After each step the other one reads what it left, and `qemu-img check` calls it clean.
///
/// `PLATTER_TURN_COUNT` sets how many sequences run; `PLATTER_TURN_SEED` runs one alone.
@Suite("Everything that changes a disk, in turns with qemu-img and qemu-io", .requires(.qemuImg, .qemuIO))
struct TurnTests {
  static let count = environmentValue("PLATTER_TURN_COUNT").flatMap(Int.init) ?? 40
  static let chosenSeed = environmentValue("PLATTER_TURN_SEED").flatMap(UInt64.init)

  @Test("random sequences: each reads and continues what the other wrote", arguments: Seeds.shares)
  func sequences(share: UInt64) {
    Seeds.run(share: share, amount: Self.count, chosen: Self.chosenSeed) { seed in
      try Self.sequence(seed: seed)
      return 1
    }
  }

  /// Steps of one sequence.
  static func sequence(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed &+ 0x7a11)
    // A stride that meets every kind of row.
    let row = Self.row(ProofRow.all[Int(seed &* 7 % UInt64(ProofRow.all.count))], &random)
    let turns = try TurnModel(row)
    do {
      try turns.start(&random)
      for _ in 0..<Int.random(in: 6...14, using: &random) { try turns.step(&random) }
      try turns.finish()
    } catch {
      throw WriterFault("\(error)\n\(row)\n\(turns.history.joined(separator: "\n"))")
    }
  }

  /// Mostly without encryption and data file: half of what can be done needs an image without them. Often with lazy
  /// refcounts: writers that are killed leave such images dirty.
  static func row(_ row: ProofRow, _ random: inout SeededGenerator) -> ProofRow {
    var row = row
    for name in ["encrypt.format=", "data_file="] where !random.chance(4) {
      row.words = row.words.map { $0.hasPrefix(name) ? name + "off" : $0 }
    }
    if row.value("compat") != "0.10", random.chance(2) {
      row.words = row.words.map { $0.hasPrefix("lazy_refcounts=") ? "lazy_refcounts=on" : $0 }
    }
    return row
  }
}
