import Platter
import PlatterCore
import Synchronization
import TestSupport

extension Proof {
  /// Many threads at once: each has rows of bytes of its own in clusters that all of them write, and clusters of its own,
  /// whose space comes and goes; all of them write one range over and over, which must hold one of the writes whole; and one
  /// takes snapshots and deletes them.
  package static func sideBySide(seed: UInt64, threadCount: Int, stepCount: Int) throws {
    let row = ProofRow.all[Int(seed * 31) % ProofRow.all.count]
    var random = SeededGenerator(seed: seed)
    let files = try ProofFiles(row, &random)
    let model = try ProofModel(row, files, files.firstState(row))
    let disk = model.disk
    let finals = Mutex((bytes: [[Int: [UInt8]]](), snapshots: [ProofState.Snapshot]()))
    let threads = (0..<threadCount).map { ProofThread(row, model.writer, number: $0, of: threadCount, seed: seed) }
    try Workers.run(threadCount) { number, _ throws(ImageError) in
      var thread = threads[number]
      try thread.run(stepCount)
      let result = thread
      finals.withLock { finals in
        finals.bytes.append(result.mine)
        finals.snapshots += result.snapshots
      }
    }
    let (rows, snapshots) = finals.withLock { $0 }
    let everybody = try disk.read(ProofThread.commonByteCount(row), at: 0)
    // A write is atomic within a unit, as on a disk within a sector.
    for start in stride(from: 0, to: everybody.count - 511, by: 512)
    where Set(everybody[start..<start + 512]).count != 1 {
      throw WriterFault("bytes of two writers are mixed at \(start) (\(row))")
    }
    model.takeOver { state in
      state.bytes.put(everybody, at: 0)
      for (place, payload) in rows.joined() { state.bytes.put(payload, at: place) }
      state.snapshots = snapshots
    }
    do { try model.finish() } catch { throw WriterFault("\(error) (\(row))") }
  }
}

/// One of many threads that write a disk.
private struct ProofThread: Sendable {
  private static let stripe = 96

  private let row: ProofRow
  private let writer: DiskWriter
  private let number: Int
  private let threadCount: Int
  private var random: SeededGenerator
  /// What this thread wrote last, by place.
  private(set) var mine: [Int: [UInt8]] = [:]
  /// Snapshots that are there, taken by this thread.
  private(set) var snapshots: [ProofState.Snapshot] = []
  private var takesSnapshots: Bool

  init(_ row: ProofRow, _ writer: DiskWriter, number: Int, of threadCount: Int, seed: UInt64) {
    self.row = row
    self.writer = writer
    self.number = number
    self.threadCount = threadCount
    random = SeededGenerator(seed: seed << 8 | UInt64(number))
    takesSnapshots = number == 0 && !row.hasDataFile && row.value("refcount_bits") != "1"
  }

  /// The first bytes of the disk are everybody's.
  static func commonByteCount(_ row: ProofRow) -> Int { min(4096, Int(row.byteCount) / 4) }

  mutating func run(_ stepCount: Int) throws(ImageError) {
    let common = Self.commonByteCount(row)
    for step in 0..<stepCount {
      if random.chance(3) { try changeCluster() } else { try changeStripe(from: common) }
      let shared = [UInt8](repeating: UInt8(number + 1), count: common)
      try writer.write(shared.rawBytes, at: 0)
      if step % 16 == number { try writer.flush() }
      if takesSnapshots, step % 12 == 5 { try changeSnapshots() }
    }
  }

  /// A row of bytes in a cluster of the first half, in which all threads have such rows.
  private mutating func changeStripe(from common: Int) throws(ImageError) {
    let count = (Int(row.byteCount) / 2 - common) / (Self.stripe * threadCount)
    let index = Int.random(in: 0..<count, using: &random) * threadCount + number
    let place = common + index * Self.stripe
    try change(UInt64(place)..<UInt64(place + Self.stripe), isZero: random.chance(4))
  }

  /// A whole cluster of the second half.
  private mutating func changeCluster() throws(ImageError) {
    let cluster = Int(row.cluster)
    let first = (Int(row.byteCount) / 2 + cluster - 1) / cluster
    let own = (first..<Int(row.byteCount) / cluster).filter { $0 % threadCount == number }
    guard let index = own.randomElement(using: &random) else { return }
    let range = UInt64(index * cluster)..<UInt64((index + 1) * cluster)
    let canDiscard = row.value("compat") != "0.10" && row.value("data_file") != "raw"
    switch Int.random(in: 0..<4, using: &random) {
    case 0 where canDiscard:
      try writer.discard(range)
      try keep([UInt8](repeating: 0, count: cluster), at: range.lowerBound)
    case 1 where canDiscard && !row.isEncrypted && !row.hasDataFile:
      // Packed clusters do not replace data.
      try writer.discard(range)
      var payload = [UInt8](repeating: UInt8(number + 1), count: cluster)
      payload[cluster / 2] = UInt8.random(in: 0...255, using: &random)
      try writer.writeCompressed(payload.rawBytes, at: range.lowerBound)
      try keep(payload, at: range.lowerBound)
    case 2: try change(range, isZero: true)
    default: try change(range, isZero: false)
    }
  }

  private mutating func change(_ range: Range<UInt64>, isZero: Bool) throws(ImageError) {
    if isZero {
      try writer.zero(range, mayUnmap: true)
      return try keep([UInt8](repeating: 0, count: range.count), at: range.lowerBound)
    }
    let payload = randomBytes(range.count, from: Int(random.next() >> 44))
    try writer.write(payload.rawBytes, at: range.lowerBound)
    try keep(payload, at: range.lowerBound)
  }

  /// Notes what stands in a place now, and looks whether it does.
  private mutating func keep(_ payload: [UInt8], at place: UInt64) throws(ImageError) {
    mine[Int(place)] = payload
    var found = [UInt8](repeating: 0xee, count: payload.count)
    try found.withMutableRawBytes { bytes throws(ImageError) in try writer.read(into: &bytes, at: place) }
    guard found == payload else {
      throw ImageError(.corrupt, "thread \(number) does not read what it wrote at \(place) (\(row))")
    }
  }

  /// Takes a snapshot of what all threads have written so far, and deletes one that has become old.
  private mutating func changeSnapshots() throws(ImageError) {
    if snapshots.count > 1 {
      let oldest = snapshots.removeFirst().name
      try writer.restructure { (map, barrier) throws(ImageError) in
        try (map as? any SnapshotMap)?.deleteSnapshot(.name(oldest), barrier)
      }
    }
    let name = "s\(random.next())"
    let image = writer.image
    do throws(ImageError) {
      let bytes = try writer.restructure { (map, barrier) throws(ImageError) in
        _ = try (map as? any SnapshotMap)?.createSnapshot(named: name, seconds: 1, nanoseconds: 2, barrier)
        return try image.read(Int(image.byteCount), at: 0)
      }
      snapshots.append(ProofState.Snapshot(name: name, bytes: bytes))
    } catch {
      // Counts of few bits cannot say how often a cluster of packed ones is referred to.
      guard error.code == .unsupported else { throw error }
      takesSnapshots = false
    }
  }
}

extension ProofModel {
  /// Says what somebody else has done.
  func takeOver(_ body: (inout ProofState) -> Void) { body(&state) }
}
