import PlatterCore

/// What a disk may hold when the power goes: everything before the last flush, and of what came after it any of the
/// sectors, in any order.
package struct PowerCut {
  private static let sectorByteCount: UInt64 = 512

  private let initial: [PagedBytes]
  private let journal: [ChangeJournal.Change]
  private let ignored: Set<Int>

  /// - Parameters:
  ///   - initial: each file before the first change, by its number in the journal.
  ///   - journal: all changes since then.
  ///   - ignored: flushes that do nothing, by their number in the journal: what a writer that lacks them would leave.
  package init(_ initial: [PagedBytes], _ journal: ChangeJournal, ignoring ignored: Set<Int> = []) {
    self.initial = initial
    self.journal = journal.changes
    self.ignored = ignored
  }

  /// Calls `body` with what is left of the files for cuts before each operation and after the last.
  /// - Parameter variants: so many cuts at each place where there is something to lose.
  package func forEachCut(
    _ random: inout SeededGenerator, variants: Int = 1,
    _ body: (_ operationCount: Int, _ left: [PagedBytes]) throws -> Void
  ) throws {
    var flushed = initial
    var pending: [ChangeJournal.Change] = []
    for count in 0...journal.count {
      for _ in 0..<(pending.isEmpty ? 1 : variants) {
        var left = flushed
        // All of it and nothing of it are as likely as each share between.
        let odds = Int.random(in: 0...4, using: &random)
        for change in pending { Self.applyPart(of: change.operation, odds, &left[change.file], &random) }
        try body(count, left)
      }
      guard count < journal.count else { return }
      let next = journal[count]
      guard next.operation == .flush else {
        pending.append(next)
        continue
      }
      guard !ignored.contains(count) else { continue }
      for change in pending where change.file == next.file { flushed[change.file].apply(change.operation) }
      pending.removeAll { $0.file == next.file }
    }
  }

  /// - Parameter odds: of four parts that survive.
  private static func applyPart(
    of operation: RecordingStore.Operation, _ odds: Int, _ left: inout PagedBytes, _ random: inout SeededGenerator
  ) {
    func survives() -> Bool { Int.random(in: 0..<4, using: &random) < odds }
    switch operation {
    case .write(let offset, let bytes):
      // Whole, or torn at sector borders.
      guard Int.random(in: 0..<3, using: &random) == 0 else {
        if survives() { left.apply(operation) }
        return
      }
      for range in sectors(offset..<offset + UInt64(bytes.count)) where survives() {
        left.write(
          bytes.rawBytes.extracting(Int(range.lowerBound - offset)..<Int(range.upperBound - offset)),
          at: range.lowerBound)
      }
    case .zero(let range):
      for range in sectors(range) where survives() { left.zero(range) }
    case .resize, .flush:
      if survives() { left.apply(operation) }
    }
  }

  private static func sectors(_ range: Range<UInt64>) -> [Range<UInt64>] {
    var all: [Range<UInt64>] = []
    var position = range.lowerBound
    while position < range.upperBound {
      let end = min(range.upperBound, (position / sectorByteCount + 1) * sectorByteCount)
      all.append(position..<end)
      position = end
    }
    return all
  }
}
