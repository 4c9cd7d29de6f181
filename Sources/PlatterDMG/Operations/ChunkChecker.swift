import PlatterCodecs
import PlatterCore
import PlatterCrypto

/// Reads, decodes and sums chunks: one worker's part of a check, with its buffers.
final class ChunkChecker {
  /// Chunks that decode to more are decoded in pieces.
  private static let maximumUnitByteCount: UInt64 = 8 << 20
  private static let pieceByteCount = 1 << 20

  private let plan: CheckPlan
  private let decoder = UnitDecoder()
  private var packed = AlignedBuffer(byteCount: 0)
  private var plain = AlignedBuffer(byteCount: 0)

  init(_ plan: CheckPlan) { self.plan = plan }

  /// Does a job and notes what came out. Damage is noted too.
  ///
  /// - Throws: `.cancelled`.
  func run(_ job: CheckPlan.Job) throws(ImageError) {
    switch job {
    case .run(let index):
      let run = plan.table.runs[index]
      guard run.isStored else { return }
      do {
        plan.note(run: index, checksum: try checksum(of: run))
      } catch {
        plan.note(run: index, failure: error)
      }
      try plan.advance(run.byteCount)
    case .partition(let index):
      try run(partition: index)
    case .piece(let index, let range):
      do {
        plan.note(piece: index, checksum: try checksum(ofBytes: range))
      } catch {
        plan.note(piece: index, failure: error)
      }
      try plan.advance(range.byteCount)
    }
  }

  /// A digest runs over the chunks one after another. What cannot be read is found by the chunk's own job.
  private func run(partition index: Int) throws(ImageError) {
    let partition = plan.table.partitions[index]
    guard let algorithm = partition.checksum.algorithm.hash, var digest = try? Digest(algorithm) else { return }
    let zeros = [UInt8](repeating: 0, count: 64 << 10)
    for run in plan.table.runs[partition.runs] where run.kind != .ignore {
      var left = run.isStored ? 0 : run.byteCount
      while left > 0 {
        let count = Int(min(left, UInt64(zeros.count)))
        digest.update(zeros.rawBytes.extracting(0..<count))
        left -= UInt64(count)
        try plan.advance(0)
      }
      guard run.isStored else { continue }
      do { try decode(run) { bytes in digest.update(bytes) } } catch { return }
      try plan.advance(0)
    }
    plan.note(partition: index, digest: digest.finish())
  }

  private func checksum(of run: Run) throws(ImageError) -> UInt32 {
    var sum: UInt32 = 0
    try decode(run) { bytes in sum = CRC32.checksum(of: bytes, continuing: sum) }
    return sum
  }

  private func checksum(ofBytes range: FileRange) throws(ImageError) -> UInt32 {
    var sum: UInt32 = 0
    try read(range) { bytes in sum = CRC32.checksum(of: bytes, continuing: sum) }
    return sum
  }

  /// Hands over the decoded bytes of a run, in order and exactly as many as its sectors have.
  func decode(_ run: Run, _ body: (RawSpan) -> Void) throws(ImageError) {
    guard let codec = run.kind.codec else {
      return try read(FileRange(offset: run.offset, byteCount: run.byteCount), body)
    }
    guard run.byteCount <= Self.maximumUnitByteCount else { return try decodeInPieces(run, codec, body) }
    let packedByteCount = Int(run.packedByteCount)
    let byteCount = Int(run.byteCount)
    if packed.byteCount < packedByteCount { packed = AlignedBuffer(byteCount: packedByteCount) }
    if plain.byteCount < byteCount { plain = AlignedBuffer(byteCount: byteCount) }
    let store = plan.store
    try packed.withMutableBytes { buffer throws(ImageError) in
      try buffer.withPart(0..<packedByteCount) { part throws(ImageError) in
        try store.readFully("the chunk", into: &part, at: run.offset)
      }
    }
    let decoder = decoder
    let produced = try plain.withMutableBytes { buffer throws(ImageError) in
      try buffer.withPart(0..<byteCount) { part throws(ImageError) in
        try Self.decode(packed, count: packedByteCount, codec, decoder, into: &part)
      }
    }
    guard produced == byteCount else { throw wrongLength(UInt64(produced), run) }
    Self.lend(plain, count: byteCount, body)
  }

  // A span of a class's property cannot leave the access; these take the buffer instead.
  private static func decode(
    _ packed: borrowing AlignedBuffer, count: Int, _ codec: PackedCodec, _ decoder: UnitDecoder,
    into target: inout MutableRawSpan
  ) throws(ImageError) -> Int {
    try decoder.decode(codec, packed.bytes.extracting(0..<count), into: &target)
  }

  private static func lend(_ buffer: borrowing AlignedBuffer, count: Int, _ body: (RawSpan) -> Void) {
    body(buffer.bytes.extracting(0..<count))
  }

  private func decodeInPieces(_ run: Run, _ codec: PackedCodec, _ body: (RawSpan) -> Void) throws(ImageError) {
    let store = plan.store
    var taken: UInt64 = 0
    try StreamDecoder(codec: codec, byteCount: run.byteCount).decode(
      input: { buffer throws(ImageError) in
        let count = Int(min(UInt64(buffer.byteCount), UInt64(run.packedByteCount) - taken))
        guard count > 0 else { return 0 }
        try buffer.withPart(0..<count) { part throws(ImageError) in
          try store.readFully("the chunk", into: &part, at: run.offset + taken)
        }
        taken += UInt64(count)
        return count
      },
      output: { piece throws(ImageError) in body(piece) })
  }

  private func wrongLength(_ produced: UInt64, _ run: Run) -> ImageError {
    .corrupt("the data at \(run.offset.hex) decodes to \(produced) bytes instead of \(run.byteCount)")
  }

  /// Hands over bytes of the store as they are.
  private func read(_ range: FileRange, _ body: (RawSpan) -> Void) throws(ImageError) {
    if plain.byteCount < Self.pieceByteCount { plain = AlignedBuffer(byteCount: Self.pieceByteCount) }
    let store = plan.store
    var done: UInt64 = 0
    while done < range.byteCount {
      let count = Int(min(range.byteCount - done, UInt64(Self.pieceByteCount)))
      try plain.withMutableBytes { buffer throws(ImageError) in
        try buffer.withPart(0..<count) { part throws(ImageError) in
          try store.readFully("the data", into: &part, at: range.offset + done)
        }
      }
      Self.lend(plain, count: count, body)
      done += UInt64(count)
    }
  }
}
