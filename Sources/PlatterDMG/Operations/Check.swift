import PlatterCodecs
import PlatterCore
import PlatterCrypto
import Synchronization

extension DMGImage: CheckableMap {
  /// Decodes every chunk and compares every checksum that the image carries: of each partition, of the data fork and of
  /// the block tables together.
  ///
  /// Cost: all chunks decoded once and the file read twice, on all workers; memory for one chunk of at most 8 MiB a
  /// worker, and 4 bytes a chunk.
  func check(workers: Int, progress: @escaping @Sendable (Double) -> Bool) throws(ImageError) -> CheckReport {
    switch content {
    case .raw: return CheckReport()
    case .locked: throw DMG.passphraseNeeded.named(stores[0].name)
    case .chunks(let table, let trailers):
      let plan = CheckPlan(table, trailers, stores[Int(dataStore)], progress)
      let count = min(max(workers, 1), Workers.maximumCount)
      try Workers.run(count) { _, stop throws(ImageError) in
        let checker = ChunkChecker(plan)
        while !stop.isRaised, let job = plan.nextJob() { try checker.run(job) }
      }
      var report = CheckReport()
      report.imageEndOffset = try stores[0].byteCount()
      for warning in warnings { report.say(warning) }
      plan.conclude(&report)
      return report
    }
  }
}

/// What is to be checked, cut in jobs, and what came out of it. Shared by all workers.
final class CheckPlan: Sendable {
  /// A job reads this much of a data fork.
  static let pieceByteCount: UInt64 = 4 << 20
  /// Most zeros of a partition that are put through a hash function: a minute or two.
  static let maximumHashedZeroByteCount: UInt64 = 64 << 30

  enum Job: Sendable {
    /// Index of the run in the table's order.
    case run(Int)
    /// A piece of a data fork: index of the piece, and its place in the data store.
    case piece(Int, FileRange)
    /// All of a partition, for a checksum that cannot be put together from parts.
    case partition(Int)
  }

  private struct Results {
    var runs: [UInt32]
    var pieces: [UInt32]
    /// Digests of partitions, by index.
    var digests: [Int: [UInt8]] = [:]
    /// Findings by run or behind them all, so that the report does not depend on who was first.
    var findings: [(order: Int, message: String, isCorruption: Bool)] = []
    var damagedPartitions: Set<Int> = []
  }

  let table: RunTable
  let store: any ByteStore
  private let trailers: [Trailer]
  /// The data fork of each segment with a checksum, in the data store, and its first piece.
  private let forks: [(range: FileRange, firstPiece: Int)]
  private let pieceCount: Int
  /// Partitions whose checksum is no CRC-32.
  private let digested: [Int]
  private let totalByteCount: UInt64
  private let progress: @Sendable (Double) -> Bool
  private let next = Atomic<Int>(0)
  private let done = Atomic<UInt64>(0)
  private let results: Mutex<Results>

  init(
    _ table: RunTable, _ trailers: [Trailer], _ store: any ByteStore, _ progress: @escaping @Sendable (Double) -> Bool
  ) {
    self.table = table
    self.trailers = trailers
    self.store = store
    self.progress = progress
    var forks: [(FileRange, Int)] = []
    var pieces = 0
    var total: UInt64 = 1
    for trailer in trailers {
      // The segments' forks are one store; a single fork lies somewhere in its file.
      let offset = trailers.count > 1 ? trailer.runningDataForkOffset : trailer.dataFork.offset
      let range = FileRange(offset: offset, byteCount: trailer.dataFork.byteCount)
      forks.append((range, pieces))
      guard trailers.contains(where: { $0.dataForkChecksum.algorithm == .crc32 }) else { continue }
      pieces += Int(range.byteCount.dividedRoundingUp(by: Self.pieceByteCount))
      total += range.byteCount
    }
    for run in table.runs where run.isStored { total &+= run.byteCount }
    self.forks = forks
    pieceCount = pieces
    digested = table.partitions.indices.filter { index in
      let partition = table.partitions[index]
      guard partition.checksum.algorithm.hash != nil else { return false }
      // Unlike a CRC-32, a digest of zeros must be worked for, and an image can claim any number of them.
      let zeros = table.runs[partition.runs].reduce(0) { $1.kind == .zero ? $0 &+ $1.byteCount : $0 }
      return zeros <= Self.maximumHashedZeroByteCount
    }
    totalByteCount = total
    results = Mutex(
      Results(
        runs: [UInt32](repeating: 0, count: table.runs.count), pieces: [UInt32](repeating: 0, count: pieces)))
  }

  /// The next piece of work, or nil when all is given out.
  func nextJob() -> Job? {
    var index = next.wrappingAdd(1, ordering: .relaxed).oldValue
    if index < digested.count { return .partition(digested[index]) }
    index -= digested.count
    if index < table.runs.count { return .run(index) }
    index -= table.runs.count
    guard index < pieceCount else { return nil }
    let fork = forks.last { $0.firstPiece <= index && $0.range.byteCount > 0 } ?? forks[0]
    let start = UInt64(index - fork.firstPiece) * Self.pieceByteCount
    let byteCount = min(Self.pieceByteCount, fork.range.byteCount - start)
    return .piece(index, FileRange(offset: fork.range.offset + start, byteCount: byteCount))
  }

  /// Adds to the share done.
  /// - Throws: `.cancelled` where the caller wants no more.
  func advance(_ byteCount: UInt64) throws(ImageError) {
    let value = done.wrappingAdd(byteCount, ordering: .relaxed).newValue
    guard progress(min(1, Double(value) / Double(totalByteCount))) else {
      throw ImageError(.cancelled, "the check was cancelled", file: store.name)
    }
  }

  func note(run index: Int, checksum: UInt32) { results.withLock { $0.runs[index] = checksum } }
  func note(piece index: Int, checksum: UInt32) { results.withLock { $0.pieces[index] = checksum } }
  func note(partition index: Int, digest: [UInt8]) { results.withLock { $0.digests[index] = digest } }

  /// A chunk that cannot be decoded or read.
  func note(run index: Int, failure: ImageError) {
    let run = table.runs[index]
    let partition = table.partitions[Int(run.table)]
    let message =
      "partition \"\(partition.name.printable())\": the \(run.kind.name) chunk of sectors "
      + "\(run.firstSector)..\(run.endSector - 1) is bad: \(failure.message)"
    results.withLock { results in
      results.damagedPartitions.insert(Int(run.table))
      guard results.findings.count < CheckReport.maximumMessageCount else { return }
      results.findings.append((index, message, failure.code != .io && failure.code != .unsupported))
    }
  }

  /// A part of the data fork that cannot be read.
  func note(piece index: Int, failure: ImageError) {
    results.withLock { results in
      guard results.findings.count < CheckReport.maximumMessageCount else { return }
      results.findings.append((table.runs.count + index, "the data fork cannot be read: \(failure.message)", false))
    }
  }
}

// What the parts say together.
extension CheckPlan {
  /// Compares everything and fills the report. Called after the last worker is done.
  func conclude(_ report: inout CheckReport) {
    let results = results.withLock { $0 }
    for finding in results.findings.sorted(by: { $0.order < $1.order }) {
      if finding.isCorruption { report.corruptions += 1 } else { report.checkErrors += 1 }
      report.say(finding.message)
    }
    for (index, partition) in table.partitions.enumerated() where !results.damagedPartitions.contains(index) {
      compare("partition \"\(partition.name.printable())\"", partition.checksum, &report) {
        partition.checksum.algorithm == .crc32 ? crc32(of: partition, results.runs).bytes : results.digests[index]
      }
    }
    compareMaster(&report)
    compareForks(results.pieces, &report)
  }

  private func compare(
    _ what: String, _ stored: StoredChecksum, _ report: inout CheckReport, computed: () -> [UInt8]?
  ) {
    guard stored.algorithm != .none else { return }
    guard let computed = computed() else {
      report.say("\(what): its checksum of type \(stored.type) (\(stored.bitCount) bits) was not verified")
      return
    }
    guard computed != stored.value else { return }
    report.corruptions += 1
    report.say(
      "\(what): the \(stored.algorithm.rawValue) checksum is \(computed.hexadecimal), and the image says \(stored.text)"
    )
  }

  /// Zero chunks count as zeros, ignored ones not at all. Zeros are never made: their number gives their checksum.
  private func crc32(of partition: Partition, _ checksums: [UInt32]) -> UInt32 {
    var sum: UInt32 = 0
    for index in partition.runs {
      let run = table.runs[index]
      switch run.kind {
      case .ignore: continue
      case .zero: sum = CRC32.combined(sum, CRC32.checksum(ofZeros: run.byteCount), secondByteCount: run.byteCount)
      default: sum = CRC32.combined(sum, checksums[index], secondByteCount: run.byteCount)
      }
    }
    return sum
  }

  /// The master checksum runs over the values of the tables' checksums, in the tables' order.
  private func compareMaster(_ report: inout CheckReport) {
    let stored = trailers.first { $0.masterChecksum.algorithm != .none }?.masterChecksum ?? .none
    compare("master checksum over all block tables", stored, &report) {
      let values = table.partitions.flatMap(\.checksum.value)
      return stored.algorithm.value(of: values)
    }
  }

  private func compareForks(_ pieces: [UInt32], _ report: inout CheckReport) {
    guard pieceCount > 0 else { return }
    var whole: UInt32 = 0
    var sums: [UInt32] = []
    for (index, fork) in forks.enumerated() {
      var sum: UInt32 = 0
      let count = Int(fork.range.byteCount.dividedRoundingUp(by: Self.pieceByteCount))
      for piece in 0..<count {
        let start = UInt64(piece) * Self.pieceByteCount
        let byteCount = min(Self.pieceByteCount, fork.range.byteCount - start)
        sum = CRC32.combined(sum, pieces[fork.firstPiece + piece], secondByteCount: byteCount)
      }
      whole = index == 0 ? sum : CRC32.combined(whole, sum, secondByteCount: fork.range.byteCount)
      sums.append(sum)
    }
    for (index, trailer) in trailers.enumerated() {
      let stored = trailer.dataForkChecksum
      let what = trailers.count > 1 ? "data fork of segment \(index + 1)" : "data fork"
      // A segment's trailer may speak of its own part or of the whole.
      if trailers.count > 1, stored.crc32 == whole { continue }
      compare(what, stored, &report) { stored.algorithm == .crc32 ? sums[index].bytes : nil }
    }
  }
}

extension Run {
  /// Whether the run has bytes in the store.
  var isStored: Bool { kind != .zero && kind != .ignore }
}

extension StoredChecksum.Algorithm {
  /// The hash function; nil for the others.
  var hash: HashAlgorithm? { HashAlgorithm(rawValue: rawValue) }

  /// The checksum of some bytes as the image stores it; nil where it cannot be computed.
  func value(of bytes: [UInt8]) -> [UInt8]? {
    if self == .crc32 { return CRC32.checksum(of: bytes.rawBytes).bytes }
    guard let hash else { return nil }
    return try? Digest.value(of: bytes.rawBytes, hash)
  }
}

extension UInt32 {
  /// Most significant byte first, as checksums are stored.
  var bytes: [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: self >> UInt32(24 - 8 * $0)) } }
}

extension CRC32 {
  /// The checksum of a run of zero bytes. Cost: logarithmic in their number.
  static func checksum(ofZeros byteCount: UInt64) -> UInt32 {
    // The register begins with all bits set, moves through the zeros like any first run, and is inverted at the end.
    combined(.max, .max, secondByteCount: byteCount)
  }
}
