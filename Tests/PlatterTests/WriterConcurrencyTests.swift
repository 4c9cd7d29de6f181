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

  @Test("a power cut loses nothing that a thread has flushed while others wrote", arguments: kinds, 0..<UInt64(3))
  func powerCuts(subject: WriterSubject, seed: UInt64) throws {
    let built = try subject.build(seed: seed)
    let journal = ChangeJournal()
    // What is written while a flush returns late is not what it has made durable.
    let model = try WriterModel(
      subject, built, journal: journal, front: { WatchedStore($0) { _ throws(ImageError) in Pause.moment() } })
    let writer = model.writer
    let threadCount = 4
    let places = ThreadPlaces(subject, threadCount)
    let logs = Mutex([PlaceLog](repeating: PlaceLog(), count: threadCount))
    try Workers.run(threadCount) { number, _ throws(ImageError) in
      var random = SeededGenerator(seed: seed << 8 | UInt64(number))
      var log = PlaceLog()
      for step in 1...40 {
        guard let place = places.ofThreads[number].randomElement(using: &random) else { continue }
        let isZero = random.chance(3)
        log.add(place, isZero ? 0 : UInt8(step), start: journal.count)
        if isZero {
          try writer.zero(UInt64(place.lowerBound)..<UInt64(place.upperBound), mayUnmap: true)
        } else {
          let payload = [UInt8](repeating: UInt8(step), count: place.count)
          try writer.write(payload.rawBytes, at: UInt64(place.lowerBound))
        }
        if random.chance(5) {
          try writer.flush()
          log.flush(journal.count)
        }
      }
      let result = log
      logs.withLock { $0[number] = result }
    }
    let all = logs.withLock { $0 }
    var random = SeededGenerator(seed: seed)
    var choice = SeededGenerator(seed: seed)
    let everySoMany = journal.count / 60 + 1
    try PowerCut([built.image], journal).forEachCut(&random) { count, left in
      guard choice.chance(everySoMany) else { return }
      let check = QCOW2Checker(left[0], countsLeaks: false)
      #expect(check.damages == [], "after \(count)")
      let disk = try WriterModel.open(PagedStore(left[0], name: "left"), built, subject)
      let found = try disk.read(built.guest.count, at: 0)
      for log in all { try log.check(found, before: built.guest, afterOperations: count) }
    }
  }
}

/// Which bytes each thread alone writes: in the first half of the disk a row of 100 for each thread in turn, so that every
/// cluster is everybody's; then whole clusters, whose space is given up and taken by somebody else.
private struct ThreadPlaces: Sendable {
  private(set) var ofThreads: [[Range<Int>]]

  init(_ subject: WriterSubject, _ threadCount: Int) {
    ofThreads = Array(repeating: [], count: threadCount)
    let cluster = Int(subject.cluster)
    let half = subject.clusterCount / 2 * cluster
    for row in 0..<min(40, half / (100 * threadCount)) {
      for number in 0..<threadCount {
        let start = (row * threadCount + number) * 100
        ofThreads[number].append(start..<start + 100)
      }
    }
    for start in stride(from: half, through: Int(subject.byteCount) - cluster, by: cluster) {
      ofThreads[start / cluster % threadCount].append(start..<start + cluster)
    }
  }
}

/// What one thread has written where, and since when it is on stable storage.
private struct PlaceLog: Sendable {
  private struct Entry {
    var value: UInt8
    /// Operations of the journal before the request.
    var start: Int
    /// Operations after which it was flushed.
    var flushed = Int.max
  }

  private var entries: [Range<Int>: [Entry]] = [:]

  mutating func add(_ place: Range<Int>, _ value: UInt8, start: Int) {
    entries[place, default: []].append(Entry(value: value, start: start))
  }

  mutating func flush(_ count: Int) {
    for place in Array(entries.keys) {
      guard let all = entries[place] else { continue }
      for index in all.indices where all[index].flushed == Int.max {
        entries[place]?[index].flushed = count
      }
    }
  }

  /// Each byte is as it was flushed last, or newer.
  func check(_ found: [UInt8], before: [UInt8], afterOperations count: Int) throws {
    for (place, all) in entries {
      let first = all.lastIndex { $0.flushed <= count }
      let allowed = Set(all[(first ?? 0)...].filter { $0.start < count }.map(\.value))
      for index in place where !allowed.contains(found[index]) && (first != nil || found[index] != before[index]) {
        throw WriterFault("byte \(index) after \(count) operations reads \(found[index]), not one of \(allowed)")
      }
    }
  }
}
