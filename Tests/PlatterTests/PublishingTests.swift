import Platter
import PlatterCore
import PlatterQCOW2
import Synchronization
import SystemPackage
import TestSupport
import Testing
import WriterProof

/// What other threads can do while one of them waits for the disk in a publish.
@Suite("Nobody waits for the flush of somebody else's tables") struct PublishingTests {
  enum Request: Sendable, CaseIterable { case map, read, readThroughWriter, write, recordedWrite }

  @Test("a request that finds its space is done while a barrier hangs", arguments: Request.allCases, 1...4)
  func inPlace(request: Request, barrier: Int) throws {
    let disk = try HangingDisk(hasBitmap: request == .recordedWrite)
    disk.gate.arm(at: barrier)
    // Its L2 table was never looked at.
    let place = disk.cluster * UInt64(300 + barrier)
    let new = randomPool.part(7..<107)
    let answered = Mutex(false)
    try disk.whileFlushing { () throws(ImageError) in
      switch request {
      case .map:
        let before = disk.counter.counts.reads
        var extents: [Extent] = []
        _ = try disk.image.layers[0].map.map(place..<place + disk.cluster, limit: 1, into: &extents)
        guard extents.first?.kind == .data, disk.counter.counts.reads == before + 1 else { return }
      case .read:
        guard try disk.image.read(100, at: place) == disk.bytes(100, at: place) else { return }
      case .readThroughWriter:
        var found = [UInt8](repeating: 0, count: 100)
        try found.withMutableRawBytes { bytes throws(ImageError) in try disk.writer.read(into: &bytes, at: place) }
        guard found == disk.bytes(100, at: place) else { return }
      case .write, .recordedWrite:
        try disk.writer.write(new.rawBytes, at: place)
      }
      answered.withLock { $0 = disk.gate.isShut }
    }
    #expect(answered.withLock { $0 }, "the request waited until the barrier was let go")
    try disk.writer.close()
    #expect(QCOW2Checker(disk.store.bytes).damages == [])
    let reopened = try HangingDisk.open(disk.store)
    let isChanged = [.write, .recordedWrite].contains(request)
    #expect(try reopened.read(100, at: place) == (isChanged ? new : disk.bytes(100, at: place)))
    guard request == .recordedWrite, let map = reopened.layers[0].map as? any BitmapMap else { return }
    var dirty: [Range<UInt64>] = []
    try map.dirtyRanges(ofBitmapNamed: "b") { dirty.append($0) }
    #expect(dirty.contains { $0.contains(place) })
  }

  @Test(
    "what waits for a publish that fails does not go on from there",
    arguments: [(true, 1), (true, 2), (true, 3), (true, 4), (false, 1), (false, 2), (false, 3)])
  func failure(isFlush: Bool, barrier: Int) throws {
    let disk = try HangingDisk(hasBitmap: false)
    disk.gate.arm(at: barrier, fails: true)
    let refusals = Mutex(0)
    @Sendable func expectRefusal(_ body: () throws(ImageError) -> Void) {
      do throws(ImageError) { try body() } catch { refusals.withLock { $0 += 1 } }
    }
    let payload = randomPool.part(0..<512)
    try Workers.run(3) { number, _ throws(ImageError) in
      switch number {
      case 0: expectRefusal { () throws(ImageError) in try disk.writer.flush() }
      case 1:
        disk.gate.waitUntilShut()
        expectRefusal { () throws(ImageError) in
          if isFlush {
            try disk.writer.flush()
          } else {
            try disk.writer.write(payload.rawBytes, at: disk.cluster * 1190)
          }
        }
      default:
        disk.gate.waitUntilShut()
        // Let the other one come as far as it can.
        for _ in 0..<300 { Pause.moment() }
        disk.gate.open()
      }
    }
    #expect(refusals.withLock { $0 } == 2)
    #expect(throws: ImageError.self) { try disk.writer.flush() }
    #expect(throws: ImageError.self) { try disk.writer.write(payload.rawBytes, at: 0) }
    try disk.writer.close()
    #expect(QCOW2Checker(disk.store.bytes).damages == [])
  }
}

/// A disk with much to publish, whose flushes can be made to hang.
private final class HangingDisk: Sendable {
  private static let subject = WriterSubject(clusterBits: 9, clusterCount: 1200)
  /// What a request that does not wait can never need.
  private static let patience = Duration.seconds(30)

  let gate = Gate()
  let store: PagedStore
  let counter: FaultyStore
  let image: DiskImage
  let writer: DiskWriter
  let cluster = HangingDisk.subject.cluster

  /// Clusters 32..<640 have been written before, and nobody has looked at their tables. New tables and entries, raised
  /// counts in new blocks and dropped references wait to be published. Clusters 1184..<1200 have no space.
  init(hasBitmap: Bool) throws {
    let count = Int(cluster)
    store = PagedStore(try Self.subject.build(seed: 3).image)
    let before = try DiskWriter(try Self.open(store, isWritable: true))
    if hasBitmap {
      try before.restructure { (map, _) throws(ImageError) in
        try (map as? any BitmapMap)?.addBitmap(named: "b", granularity: 512, isEnabled: true)
      }
    }
    try before.write(randomPool.part(0..<640 * count).rawBytes, at: 0)
    try before.close()
    counter = FaultyStore(store)
    image = try Self.open(
      WatchedStore(counter) { [gate] _ throws(ImageError) in try gate.pass() }, isWritable: true)
    writer = try DiskWriter(image)
    try writer.write(randomPool.part(0..<540 * count).rawBytes, at: cluster * 640)
    try writer.discard(0..<cluster * 32)
    try writer.discard(cluster * 1184..<cluster * 1200)
  }

  static func open(_ store: any ByteStore, isWritable: Bool = false) throws(ImageError) -> DiskImage {
    let map = try QCOW2.open(store, OpenContext(isWritable: isWritable))
    return DiskImage(layers: [DiskImage.Layer(name: "top", map: map)])
  }

  /// What stands in a range that was written before.
  func bytes(_ count: Int, at offset: UInt64) -> [UInt8] { randomPool.part(Int(offset)..<Int(offset) + count) }

  /// Flushes, and runs `body` while that hangs.
  func whileFlushing(_ body: @escaping @Sendable () throws(ImageError) -> Void) throws(ImageError) {
    try Workers.run(3) { [self] number, _ throws(ImageError) in
      defer { if number != 2 { gate.open() } }
      switch number {
      case 0: try writer.flush()
      case 1:
        gate.waitUntilShut()
        try body()
      default:
        // Lets everybody go where the request waits: the test has failed then.
        let end = ContinuousClock.now + Self.patience
        while !gate.isOpen, ContinuousClock.now < end { Pause.moment() }
        gate.open()
      }
    }
  }
}

/// Makes a flush hang.
private final class Gate: Sendable {
  private struct State: Sendable {
    var count = 0
    /// The flush that is to hang, by number.
    var target: Int?
    var fails = false
    var isShut = false
    var isOpen = false
  }

  private let state = Monitor(State())

  /// The nth flush from here on hangs until `open`.
  func arm(at nth: Int, fails: Bool = false) {
    state.withLock { state in
      state.target = state.count + nth
      state.fails = fails
    }
  }

  /// Every flush comes by.
  func pass() throws(ImageError) {
    let isHere = state.withLock { state in
      state.count += 1
      guard state.count == state.target else { return false }
      state.isShut = true
      return true
    }
    guard isHere else { return }
    let fails = state.wait(until: { $0.isOpen }, then: { $0.fails })
    if fails { throw ImageError.io("cannot flush", .ioError, file: "top") }
  }

  /// A flush hangs.
  var isShut: Bool { state.withLock { $0.isShut && !$0.isOpen } }
  var isOpen: Bool { state.withLock { $0.isOpen } }
  func open() { state.withLock { $0.isOpen = true } }

  /// Waits until a flush hangs, or was let go already.
  func waitUntilShut() { state.wait(until: { $0.isShut || $0.isOpen }, then: { _ in }) }
}
