import Platter
import PlatterCore
import PlatterQCOW2
import Synchronization
import SystemPackage
import TestSupport
import Testing
import WriterProof

/// Many threads write one disk at once, and flush it meanwhile.
@Suite("Writers side by side") struct WriterConcurrencyTests {
  static let kinds: [WriterSubject] = {
    var extended = WriterSubject(clusterBits: 14, isExtended: true, clusterCount: 8)
    extended.backing = .raw
    return [
      WriterSubject(clusterBits: 9, clusterCount: 200),
      WriterSubject(clusterBits: 12, sharing: .tables, clusterCount: 40),
      extended, WriterSubject(clusterBits: 12, isEncrypted: true, clusterCount: 40),
    ]
  }()

  @Test("each thread finds what it wrote, in clusters that others write too", arguments: kinds)
  func sameClusters(subject: WriterSubject) throws {
    let built = try subject.build(seed: 5)
    let model = try WriterModel(subject, built)
    let (disk, writer) = (model.disk, model.writer)
    // A row of 100 bytes for each thread in turn: every cluster is everybody's.
    let threadCount = 4
    let stripe = 100
    let finals = Mutex([[Int: [UInt8]]](repeating: [:], count: threadCount))
    try Workers.run(threadCount) { number, _ throws(ImageError) in
      var random = SeededGenerator(seed: UInt64(number))
      var mine: [Int: [UInt8]] = [:]
      for step in 0..<150 {
        let row = Int.random(in: 0..<Int(disk.byteCount) / (stripe * threadCount), using: &random)
        let place = (row * threadCount + number) * stripe
        let start = Int.random(in: 0..<4096, using: &random)
        let payload = random.chance(4) ? [UInt8](repeating: 0, count: stripe) : randomPool.part(start..<start + stripe)
        if payload[0] == 0, payload.rawBytes.isAllZero {
          try writer.zero(UInt64(place)..<UInt64(place + stripe), mayUnmap: true)
        } else {
          try writer.write(payload.rawBytes, at: UInt64(place))
        }
        mine[place] = payload
        if step % 40 == number { try writer.flush() }
        var found = [UInt8](repeating: 0xee, count: stripe)
        try found.withMutableRawBytes { bytes throws(ImageError) in try writer.read(into: &bytes, at: UInt64(place)) }
        guard found == payload else {
          throw ImageError(.corrupt, "thread \(number) does not read what it wrote at \(place)")
        }
      }
      let result = mine
      finals.withLock { $0[number] = result }
    }
    try writer.close()
    var expected = built.guest
    for rows in finals.withLock({ $0 }) { for (place, payload) in rows { expected.put(payload, at: place) } }
    let reopened = try WriterModel.open(model.store, built, subject)
    let found = try reopened.read(expected.count, at: 0)
    #expect(found.rawBytes.firstDifference(from: expected.rawBytes) == nil)
    let check = QCOW2Checker(model.store.bytes)
    #expect(check.damages == [] && check.leaks <= QCOW2Checker(built.image).leaks)
  }
}
