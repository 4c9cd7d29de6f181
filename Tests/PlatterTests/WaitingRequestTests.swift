import Platter
import PlatterCore
import PlatterQCOW2
import Synchronization
import TestSupport
import Testing

/// Requests that wait while the whole image changes find another image than they were made for.
@Suite("Requests that wait for a change of the whole image", .timeLimit(.minutes(1)))
struct WaitingRequestTests {
  private static let cluster: UInt64 = 512
  /// More than one L2 table, of which the smaller disk needs one.
  private static let count = 200

  enum Request: Sendable, CaseIterable { case write, zero, discard, compressed }

  enum Change: Sendable, CaseIterable { case resize, applySnapshot }

  private func writer() throws -> (store: PagedStore, writer: DiskWriter) {
    let image = QCOW2Builder(byteCount: UInt64(Self.count) * Self.cluster, clusterBits: 9)
    let store = PagedStore(PagedBytes(image.build().bytes), name: "disk")
    let map = try QCOW2.open(store, OpenContext(isWritable: true))
    return (store, try DiskWriter(DiskImage(layers: [DiskImage.Layer(name: "disk", map: map)])))
  }

  private static func run(_ request: Request, _ range: Range<UInt64>, _ writer: DiskWriter) throws(ImageError) {
    let bytes = [UInt8](repeating: 1, count: range.count)
    switch request {
    case .write: try writer.write(bytes.rawBytes, at: range.lowerBound)
    case .zero: try writer.zero(range, mayUnmap: true)
    case .discard: try writer.discard(range)
    case .compressed: try writer.writeCompressed(bytes.rawBytes, at: range.lowerBound)
    }
  }

  /// A writer asked without an end where to write behind the disk's; where the L1 table had become shorter it trapped.
  @Test("a request for bytes that are cut off meanwhile is refused", arguments: Request.allCases, Change.allCases)
  func shrunk(request: Request, change: Change) throws {
    let (store, writer) = try writer()
    let small = Self.cluster * 3
    if change == .applySnapshot {
      try writer.resize(to: small)
      try writer.restructure { (map, barrier) throws(ImageError) in
        _ = try (map as? any SnapshotMap)?.createSnapshot(named: "s", seconds: 1, nanoseconds: 0, barrier)
      }
      try writer.resize(to: UInt64(Self.count) * Self.cluster)
    }
    let isChanging = Mutex(false)
    let refusals = Mutex(0)
    try Workers.run(2) { number, _ throws(ImageError) in
      guard number == 1 else {
        try writer.restructure { (map, barrier) throws(ImageError) in
          isChanging.withLock { $0 = true }
          // Long enough for the other one to come and wait.
          for _ in 0..<500 { Pause.moment() }
          switch change {
          case .resize: try map.resize(to: small, barrier)
          case .applySnapshot: try (map as? any SnapshotMap)?.applySnapshot(.name("s"), barrier)
          }
        }
        return
      }
      while !isChanging.withLock({ $0 }) { Pause.moment() }
      let last = UInt64(Self.count - 4) * Self.cluster..<UInt64(Self.count) * Self.cluster
      do throws(ImageError) { try Self.run(request, last, writer) } catch {
        guard error.code == .invalidArgument else { throw error }
        refusals.withLock { $0 += 1 }
      }
    }
    #expect(refusals.withLock { $0 } == 1)
    try writer.close()
    let check = QCOW2Checker(store.bytes)
    #expect(check.damages == [] && check.leaks == 0)
  }

  /// What another thread wrote into the new part of a disk was zeroed again, when its turn in clearing that part came.
  @Test("a request for bytes that a growing disk has not cleared yet is refused", arguments: Request.allCases)
  func grown(request: Request) throws {
    let cluster = Self.cluster
    var below = QCOW2Builder(byteCount: 16 * cluster, clusterBits: 9)
    for index in 0..<16 { below.entries[index] = .data([UInt8](repeating: 9, count: Int(cluster))) }
    var overlay = QCOW2Builder(byteCount: 4 * cluster, clusterBits: 9)
    overlay.backingName = Array("below".utf8)
    let base = try QCOW2.open(PagedStore(PagedBytes(below.build().bytes)), OpenContext())
    let range = 10 * cluster..<12 * cluster

    /// Grows the disk, with a request during the flush of this number.
    /// - Returns: how many flushes there were, and whether the request was refused.
    func grow(_ flush: Int?) throws -> (flushes: Int, isRefused: Bool) {
      let isLast = Mutex(false)
      let isRefused = Mutex(false)
      let counter = FaultyStore(PagedStore(PagedBytes(overlay.build().bytes)))
      let store = WatchedStore(counter) { number in
        guard number == flush else { return }
        isLast.withLock { $0 = true }
        for _ in 0..<200 { Pause.moment() }
      }
      let map = try QCOW2.open(store, OpenContext(isWritable: true))
      let layers = [DiskImage.Layer(name: "disk", map: map), DiskImage.Layer(name: "below", map: base)]
      let disk = DiskImage(layers: layers)
      let writer = try DiskWriter(disk)
      try Workers.run(flush == nil ? 1 : 2) { number, _ throws(ImageError) in
        guard number == 1 else { return try writer.resize(to: 16 * cluster) }
        while !isLast.withLock({ $0 }) { Pause.moment() }
        do throws(ImageError) { try Self.run(request, range, writer) } catch {
          guard error.code == .invalidArgument else { throw error }
          isRefused.withLock { $0 = true }
        }
      }
      let flushes = counter.counts.flushes
      #expect(try disk.read(Int(12 * cluster), at: 4 * cluster).allSatisfy { $0 == 0 })
      try Self.run(.write, range, writer)
      #expect(try disk.read(Int(2 * cluster), at: range.lowerBound).allSatisfy { $0 == 1 })
      try writer.close()
      return (flushes, isRefused.withLock { $0 })
    }
    #expect(try grow(try grow(nil).flushes).isRefused)
  }

  /// Zeros and discards were noted before they waited for their bytes: a bitmap that was cleared meanwhile missed them.
  @Test(
    "a bitmap that is cleared while a request waits has what the request does", arguments: [Request.zero, .discard])
  func cleared(request: Request) throws {
    let (store, writer) = try writer()
    try writer.write([UInt8](repeating: 9, count: Self.count * Int(Self.cluster)).rawBytes, at: 0)
    try writer.restructure { (map, _) throws(ImageError) in
      try (map as? any BitmapMap)?.addBitmap(named: "b", granularity: 512, isEnabled: true)
    }
    let range = Self.cluster * 10..<Self.cluster * 12
    let isChanging = Mutex(false)
    try Workers.run(2) { number, _ throws(ImageError) in
      guard number == 1 else {
        try writer.restructure { (map, _) throws(ImageError) in
          isChanging.withLock { $0 = true }
          guard let map = map as? any BitmapMap else { return }
          var isNoted = false
          while !isNoted {
            try map.dirtyRanges(ofBitmapNamed: "b") { _ in isNoted = true }
            Pause.moment()
          }
          try map.clearBitmap(named: "b")
        }
        return
      }
      while !isChanging.withLock({ $0 }) { Pause.moment() }
      try Self.run(request, range, writer)
    }
    try writer.close()
    let map = try QCOW2.open(store, OpenContext())
    var dirty: [Range<UInt64>] = []
    try (map as? any BitmapSource)?.dirtyRanges(ofBitmapNamed: "b") { dirty.append($0) }
    #expect(dirty == [range])
  }

  /// All that a shrink gave up was kept in memory until its end: 74 MiB for a disk of 128 GiB with space in advance.
  @Test("a large end is given up in steps")
  func steps() throws {
    func barriers(_ megabytes: UInt64) throws -> Int {
      let store = PagedStore(name: "disk")
      let options = ["cluster_size": "512", "preallocation": "metadata"]
      try QCOW2.create(in: store, CreationRequest(byteCount: megabytes << 20, options: options))
      let counter = FaultyStore(store)
      let map = try QCOW2.open(counter, OpenContext(isWritable: true))
      let writer = try DiskWriter(DiskImage(layers: [DiskImage.Layer(name: "disk", map: map)]))
      try writer.resize(to: 512)
      let count = counter.counts.flushes
      try writer.close()
      let check = QCOW2Checker(store.bytes)
      #expect(check.damages == [] && check.leaks == 0)
      return count
    }
    #expect(try barriers(40) > barriers(1))
  }
}
