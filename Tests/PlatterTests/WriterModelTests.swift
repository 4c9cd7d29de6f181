import Platter
import PlatterCore
import PlatterQCOW2
import Synchronization
import SystemPackage
import TestSupport
import Testing
import WriterProof

/// Whatever one does to a qcow2 disk, it reads as an array of bytes treated alike, its counts are exact after closing, and
/// its snapshot stays what it was.
///
/// `PLATTER_MODEL_COUNT` sets how many sequences run; `PLATTER_MODEL_SEED` runs one alone.
@Suite("The writer of qcow2 against a model") struct WriterModelTests {
  static let sequenceCount = environmentValue("PLATTER_MODEL_COUNT").flatMap(Int.init) ?? 600
  static let chosenSeed = environmentValue("PLATTER_MODEL_SEED").flatMap(UInt64.init)

  @Test("random sequences of requests", arguments: Seeds.shares)
  func sequences(share: UInt64) {
    Seeds.run(share: share, amount: Self.sequenceCount, chosen: Self.chosenSeed) { seed in
      try Self.run(seed: seed)
      return 1
    }
  }

  /// Runs one sequence; an error says what it was.
  private static func run(seed: UInt64, dataFile: FilePath? = nil) throws {
    var random = SeededGenerator(seed: seed)
    let subject = WriterSubject.random(&random, withDataFile: dataFile != nil)
    var history: [String] = []
    do {
      let built = try subject.build(seed: random.next())
      if let dataFile, subject.dataFile == .raw {
        // A raw data file is as long as the disk.
        try FileStore(dataFile, FileStore.Options(isWritable: true)).resize(to: subject.byteCount)
      }
      var model = try WriterModel(subject, built, dataFile: dataFile)
      defer { history = model.history }
      for _ in 0..<Int.random(in: 5...30, using: &random) { try model.step(&random) }
      try model.finish()
    } catch {
      throw WriterFault("\(error)\n\(subject)\n\(history.joined(separator: "\n"))")
    }
  }

  @Test("the same with an external data file")
  func dataFiles() throws {
    let scratch = try ScratchDirectory()
    for seed in 0..<UInt64(Self.sequenceCount / 20 + 20) {
      try scratch.write([], to: "data")
      do { try Self.run(seed: seed, dataFile: scratch.file("data")) } catch {
        throw WriterFault("seed \(seed): \(error)")
      }
    }
  }

  @Test("refcount table and blocks grow with the file", arguments: [UInt32(6), 5, 4])
  func growth(refcountOrder: UInt32) throws {
    var subject = WriterSubject()
    subject.refcountOrder = refcountOrder
    subject.clusterCount = refcountOrder == 6 ? 6000 : 1000
    var image = QCOW2Builder(byteCount: subject.byteCount, clusterBits: 9)
    image.refcountOrder = refcountOrder
    var built = BuiltSubject(image: PagedBytes(image.build().bytes))
    built.guest = [UInt8](repeating: 0, count: Int(subject.byteCount))
    var model = try WriterModel(subject, built)
    var random = SeededGenerator(seed: 1)
    let step: UInt64 = 50 << 10
    for start in stride(from: 0, to: subject.byteCount, by: Int(step)) {
      try model.write(start..<min(start + step, subject.byteCount), &random)
      if random.chance(9) { try model.reopen() }
    }
    try model.finish()
    try model.reopen()
    try model.zero(0..<subject.byteCount, mayUnmap: true)
    try model.reopen()
    for start in stride(from: 0, to: subject.byteCount, by: 1 << 18) {
      try model.write(start..<min(start + 1 << 18, subject.byteCount), &random)
    }
    try model.finish()
  }
}
