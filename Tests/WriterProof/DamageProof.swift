import Platter
package import PlatterCore
import PlatterQCOW2
package import TestSupport

/// An image with random content, made in any way that there is, broken and repaired.
package struct DamageProof {
  package let row: ProofRow
  package let image: DamagedImage
  /// The files with the broken image, and with the repaired one.
  package private(set) var broken: [PagedBytes]
  package private(set) var repaired: [PagedBytes]
  package private(set) var report = CheckReport()
  private let chain: ProofChain
  private let state: ProofState
  private let hasKey: Bool

  /// Nil where the image is refused, which must be told in a sentence and change nothing.
  package init?(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed &+ 0x3_0000_0000)
    row = ProofRow.all[Int(seed % UInt64(ProofRow.all.count))]
    let files = try ProofFiles(row, &random)
    let model = try ProofModel(row, files, files.firstState(row))
    for _ in 0..<Int.random(in: 5...20, using: &random) { try model.step(&random, withBitmaps: true) }
    try model.finish()
    (state, chain) = (model.state, model.chain)
    image = DamagedImage(model.stores[0].bytes, &random)
    broken = [image.broken] + model.stores.dropFirst().map(\.bytes)
    repaired = broken
    hasKey = !row.isEncrypted || random.chance(2)
    do {
      (repaired[0], report) = try repair(image.broken)
    } catch let error as ImageError {
      guard error.code != .io, !error.message.isEmpty else { throw error }
      return nil
    }
  }

  /// What was done, for a failure's message.
  package var story: String {
    "\(row), \(state.bytes.count) bytes\(hasKey ? "" : " without its key")\n\(image.history.joined(separator: "\n"))\n"
      + report.messages.prefix(12).joined(separator: "\n")
  }

  /// The repaired image keeps its data in another file: damage may have made another kind of image of it.
  package var namesDataFile: Bool {
    repaired[0].number(at: 4, byteCount: 4) >= 3 && repaired[0].number(at: 72) & 4 != 0
  }
  /// The disk has no bytes.
  package var isEmpty: Bool { state.bytes.isEmpty }
  package var status: Int32 { report.corruptions > 0 ? 2 : report.leaks > 0 ? 3 : 0 }

  private func repair(_ bytes: PagedBytes, _ mode: RepairMode = .all, _ journal: ChangeJournal? = nil) throws
    -> (PagedBytes, CheckReport)
  {
    let store = PagedStore(bytes, name: "top.qcow2", journal: journal)
    let context = hasKey ? OpenContext(passphrase: { ProofRow.secret() }) : OpenContext()
    let report = try QCOW2.repair(store, context, mode, workers: 2) { _ in true }
    return (store.bytes, report)
  }

  // MARK: Promises

  /// The repair may give up, where it says why.
  private var isExcused: Bool {
    report.messages.contains { message in
      ["ERROR the L1 table (", "the repair needs the passphrase", "more than double the file"].contains {
        message.contains($0)
      }
    }
  }

  /// - Throws: `WriterFault` where the repair did not keep what it promises.
  package func check() throws {
    if status != 0, !isExcused { throw WriterFault("not repaired") }
    try checkContent()
    let again = try repair(repaired[0])
    guard again.0 == repaired[0] || status != 0 else { throw WriterFault("a second repair changes something") }
    let leaks = try repair(image.broken, .leaks)
    try compare(broken, with: leaks.0, "-r leaks")
    guard status == 0 else { return }
    let checker = QCOW2Checker(repaired[0])
    guard checker.damages.isEmpty, checker.leaks == 0 else {
      throw WriterFault("\(checker.leaks) leaks; \(checker.damages.joined(separator: "; "))")
    }
  }

  /// Cuts the repair at every moment: what is left has lost nothing that could be read, and can be repaired.
  /// - Returns: the crash images that were looked at.
  package func powerCuts(limit: Int, _ random: inout SeededGenerator) throws -> Int {
    let journal = ChangeJournal()
    _ = try repair(image.broken, .all, journal)
    var seen: [PagedBytes] = []
    try PowerCut([image.broken], journal).forEachCut(&random) { moment, files in
      guard seen.count < limit, !seen.contains(files[0]) else { return }
      seen.append(files[0])
      do {
        try compare(broken, with: files[0], "a cut after \(moment)")
        let (again, report) = try repair(files[0])
        try compare(broken, with: again, "the repair of a cut after \(moment)")
        guard report.corruptions == 0 || status != 0 else {
          throw WriterFault("not repaired: \(report.messages.prefix(6).joined(separator: "; "))")
        }
      } catch { throw WriterFault("cut after \(moment): \(error)") }
    }
    return seen.count
  }

  /// What the broken image still had right the repaired one has too.
  private func checkContent() throws { try compare(broken, with: repaired[0], "the repair") }

  private func compare(_ broken: [PagedBytes], with top: PagedBytes, _ what: String) throws {
    let after = [top] + broken.dropFirst()
    try compare(state.bytes, reader(broken), reader(after), "\(what): the disk")
    for (index, snapshot) in state.snapshots.enumerated() where isAlone(index) {
      try compare(
        snapshot.bytes, reader(broken, snapshot.name), reader(after, snapshot.name),
        "\(what): snapshot \(snapshot.name)")
    }
  }

  /// No other snapshot has its name, and its table is none that could only be read by accident.
  private func isAlone(_ index: Int) -> Bool {
    let name = state.snapshots[index].name
    let isInKeys = report.messages.contains {
      $0.hasSuffix("lies in the crypto header") && $0.contains("(\"\(name)\") is dropped")
    }
    return !isInKeys && state.snapshots.count { $0.name == name } == 1
  }

  private func reader(_ contents: [PagedBytes], _ snapshot: String? = nil) -> DiskImage? {
    try? ProofChain(chain, contents).open(snapshot: snapshot)
  }

  private func compare(_ sound: [UInt8], _ broken: DiskImage?, _ after: DiskImage?, _ what: String) throws {
    guard let broken, broken.byteCount == UInt64(sound.count) else { return }
    guard let after else { throw WriterFault("\(what) is gone") }
    let step = Int(row.mapUnit)
    for start in stride(from: 0, to: sound.count, by: step) {
      let wanted = sound.part(start..<min(start + step, sound.count))
      guard let found = try? broken.read(wanted.count, at: UInt64(start)), found == wanted else { continue }
      guard let now = try? after.read(wanted.count, at: UInt64(start)), now == wanted else {
        throw WriterFault("\(what) has lost the bytes at \(start)")
      }
    }
  }
}
