import Platter
import PlatterCore
import PlatterQCOW2
import TestSupport
import Testing
import WriterProof

/// Whatever one does to a disk and to its bitmaps, each bitmap says exactly what an array of flags treated alike says:
/// through the writer, and in the file once it is closed. What the disk reads as and what its clusters are counted as is
/// checked on the way.
///
/// `PLATTER_MODEL_COUNT` sets how many sequences run; `PLATTER_MODEL_SEED` runs one alone.
@Suite("Dirty bitmaps against a model") struct BitmapModelTests {
  static let sequenceCount = WriterModelTests.sequenceCount / 2
  static let chosenSeed = WriterModelTests.chosenSeed

  @Test("random sequences of requests and changes of bitmaps", arguments: Seeds.shares)
  func sequences(share: UInt64) {
    Seeds.run(share: share, amount: Self.sequenceCount, chosen: Self.chosenSeed) { seed in
      try Self.run(seed: seed)
      return 1
    }
  }

  private static func run(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let subject = BitmapModel.subject(&random)
    var history: [String] = []
    do {
      var model = BitmapModel(try WriterModel(subject, subject.build(seed: random.next())))
      defer { history = model.history }
      try model.add(&random)
      for _ in 0..<Int.random(in: 5...40, using: &random) { try model.step(&random) }
      try model.reopen()
    } catch {
      throw WriterFault("\(error)\n\(subject)\n\(history.joined(separator: "\n"))")
    }
  }
}
