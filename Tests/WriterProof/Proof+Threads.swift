import Platter
import PlatterCore
import Synchronization
import TestSupport

extension Proof {
  /// Many threads at once: each has bytes of its own in every cluster, and all of them write one range over and over, which
  /// must hold one of the writes whole.
  package static func sideBySide(seed: UInt64, threadCount: Int, stepCount: Int) throws {
    let row = ProofRow.all[Int(seed * 31) % ProofRow.all.count]
    var random = SeededGenerator(seed: seed)
    let files = try ProofFiles(row, &random)
    let model = try ProofModel(row, files, files.firstState(row))
    let (disk, writer) = (model.disk, model.writer)
    let finals = Mutex([[Int: [UInt8]]](repeating: [:], count: threadCount))
    // The first bytes are everybody's; behind them a row of 96 bytes for each thread in turn.
    let common = min(4096, Int(row.byteCount) / 4)
    let stripe = 96
    let rowCount = (Int(row.byteCount) - common) / (stripe * threadCount)
    try Workers.run(threadCount) { number, _ throws(ImageError) in
      var random = SeededGenerator(seed: seed << 8 | UInt64(number))
      var mine: [Int: [UInt8]] = [:]
      for step in 0..<stepCount {
        let place = common + (Int.random(in: 0..<rowCount, using: &random) * threadCount + number) * stripe
        let isZero = random.chance(4)
        let payload =
          isZero ? [UInt8](repeating: 0, count: stripe) : randomBytes(stripe, from: Int(random.next() >> 44))
        if isZero {
          try writer.zero(UInt64(place)..<UInt64(place + stripe), mayUnmap: true)
        } else {
          try writer.write(payload.rawBytes, at: UInt64(place))
        }
        mine[place] = payload
        let shared = [UInt8](repeating: UInt8(number + 1), count: common)
        try writer.write(shared.rawBytes, at: 0)
        if step % 16 == number { try writer.flush() }
        var found = [UInt8](repeating: 0xee, count: stripe)
        try found.withMutableRawBytes { bytes throws(ImageError) in try writer.read(into: &bytes, at: UInt64(place)) }
        guard found == payload else {
          throw ImageError(.corrupt, "thread \(number) does not read what it wrote at \(place) (\(row))")
        }
      }
      let result = mine
      finals.withLock { $0[number] = result }
    }
    let rows = finals.withLock { $0 }
    let everybody = try disk.read(common, at: 0)
    // A write is atomic within a unit, as on a disk within a sector.
    for start in stride(from: 0, to: common - 511, by: 512) where Set(everybody[start..<start + 512]).count != 1 {
      throw WriterFault("bytes of two writers are mixed at \(start) (\(row))")
    }
    model.takeOver { bytes in
      bytes.put(everybody, at: 0)
      for (place, payload) in rows.joined() { bytes.put(payload, at: place) }
    }
    try model.finish()
  }
}

extension ProofModel {
  /// What somebody else has written.
  func takeOver(_ body: (inout [UInt8]) -> Void) { body(&state.bytes) }
}
