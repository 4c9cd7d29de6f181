import PlatterCore
import TestSupport
import Testing

@Suite struct UnitRecordTests {
  /// A random row of runs, neighbours of one kind not joined yet.
  private static func runs(seed: UInt64) -> [UnitRecord.Run] {
    var random = SeededGenerator(seed: seed)
    var runs: [UnitRecord.Run] = []
    var first: UInt64 = 0
    for _ in 0..<20_000 {
      let kinds: [UnitRecord.Kind] = [.absent, .zero, .plain, .packed, .packed]
      let kind = kinds[Int.random(in: 0..<kinds.count, using: &random)]
      let count =
        kind == .packed ? 1 : UInt64.random(in: 1...(1 << UInt64.random(in: 0...40, using: &random)), using: &random)
      let byteCount = kind == .packed ? Int.random(in: 1..<(2 << 20), using: &random) : 0
      runs.append(.init(kind: kind, first: first, count: count, byteCount: byteCount))
      first += count
    }
    return runs
  }

  @Test("what was told is read back, at any moment", arguments: [1, 2, 3] as [UInt64])
  func roundTrip(seed: UInt64) {
    var record = UnitRecord()
    var expected: [UnitRecord.Run] = []
    for (index, run) in Self.runs(seed: seed).enumerated() {
      if run.kind == .packed {
        record.appendPacked(byteCount: run.byteCount)
      } else {
        record.append(run.kind, count: run.count)
      }
      if let last = expected.last, last.kind == run.kind, run.kind != .packed {
        expected[expected.count - 1].count += run.count
      } else {
        expected.append(run)
      }
      guard index % 4999 == 0 else { continue }
      var cursor = record.cursor()
      for run in expected { #expect(cursor.next() == run) }
      #expect(cursor.next() == nil)
      #expect(record.unitCount == run.first + run.count)
    }
    #expect(record.packedCount == UInt64(expected.filter { $0.kind == .packed }.count))
    #expect(record.plainCount == expected.reduce(0) { $0 + ($1.kind == .plain ? $1.count : 0) })
  }

  @Test(
    "places follow each other, and no cluster is shared by more than can be counted",
    arguments: [1, 3, 15, 65535] as [UInt64])
  func places(maximum: UInt64) {
    var random = SeededGenerator(seed: maximum)
    var places = PackedPlaces(from: 4096, clusterByteCount: 4096, maximumCount: maximum)
    var counts: [UInt64: UInt64] = [:]
    var end: UInt64 = 4096
    for _ in 0..<5000 {
      let byteCount = Int.random(in: 1..<(Bool.random(using: &random) ? 4096 : 64), using: &random)
      let offset = places.next(byteCount: byteCount)
      #expect(offset == end || (offset > end && offset % 4096 == 0 && offset - end < 4096))
      end = offset + UInt64(byteCount)
      for cluster in offset / 4096...(end - 1) / 4096 { counts[cluster, default: 0] += 1 }
    }
    #expect(places.end == end)
    #expect(counts.values.max().map { $0 <= maximum } == true)
  }
}
