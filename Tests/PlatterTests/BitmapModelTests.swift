import Platter
import PlatterCore
import PlatterQCOW2
import TestSupport
import Testing

/// Whatever one does to a disk and to its bitmaps, each bitmap says exactly what an array of flags treated alike says:
/// through the writer, and in the file once it is closed. What the disk reads as and what its clusters are counted as is
/// checked on the way.
///
/// `PLATTER_MODEL_COUNT` sets how many sequences run; `PLATTER_MODEL_SEED` runs one alone.
@Suite("Dirty bitmaps against a model") struct BitmapModelTests {
  static let sequenceCount = WriterModelTests.sequenceCount / 2
  static let chosenSeed = WriterModelTests.chosenSeed
  static let shareCount = 4

  @Test("random sequences of requests and changes of bitmaps", arguments: 0..<shareCount)
  func sequences(share: Int) throws {
    var failures = 0
    for number in 0..<Self.sequenceCount where number % Self.shareCount == share && failures < 3 {
      let seed = Self.chosenSeed ?? UInt64(number)
      if !Self.run(seed: seed) { failures += 1 }
      if Self.chosenSeed != nil { break }
    }
  }

  private static func run(seed: UInt64) -> Bool {
    var random = SeededGenerator(seed: seed)
    let subject = BitmapModel.subject(&random)
    var history: [String] = []
    do {
      var model = BitmapModel(try WriterModel(subject, subject.build(seed: random.next())))
      defer { history = model.history }
      try model.add(&random)
      for _ in 0..<Int.random(in: 5...40, using: &random) { try model.step(&random) }
      try model.reopen()
      return true
    } catch {
      Issue.record("seed \(seed): \(error)\n\(subject)\n\(history.joined(separator: "\n"))")
      return false
    }
  }
}
