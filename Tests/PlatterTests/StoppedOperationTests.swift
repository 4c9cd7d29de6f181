import Platter
import PlatterCore
import PlatterQCOW2
import TestSupport
import Testing
import WriterProof

/// An operation that changes an image and is stopped in the middle, by the caller or by a disk that it reads, leaves the
/// image as one that was closed: its bitmaps are saved and miss nothing, and no cluster is lost.
///
/// `convert -n`, `commit` and `rebase` just went away when they failed. Every bitmap of the image was marked as not saved
/// from then on, and could only be removed: the next backup had to be a full one.
@Suite("Operations that are stopped") struct StoppedOperationTests {
  private static let cluster = 4096
  private static let count = 1024

  /// An image with a bitmap that records, and a cluster of its own.
  private static func image(over backing: String? = nil) throws -> PagedStore {
    var image = QCOW2Builder(byteCount: UInt64(count * cluster), clusterBits: 12)
    if let backing { image.backingName = Array(backing.utf8) }
    image.entries[3] = .data([UInt8](repeating: 3, count: cluster))
    let store = PagedStore(PagedBytes(image.build().bytes), name: "image")
    let writer = try DiskWriter(DiskImage(layers: [layer(store, isWritable: true)]))
    try writer.restructure { (map, _) throws(ImageError) in
      try (map as? any BitmapMap)?.addBitmap(named: "b", granularity: UInt64(cluster), isEnabled: true)
    }
    try writer.close()
    return store
  }

  private static func layer(_ store: any ByteStore, isWritable: Bool = false) throws(ImageError) -> DiskImage.Layer {
    DiskImage.Layer(name: store.name, map: try QCOW2.open(store, OpenContext(isWritable: isWritable)))
  }

  /// A full disk below or beside it, whose nth read fails.
  private static func failing(nth: Int) throws(ImageError) -> DiskImage.Layer {
    var image = QCOW2Builder(byteCount: UInt64(count * cluster), clusterBits: 12)
    for index in 0..<count { image.entries[index] = .data([UInt8](repeating: UInt8(index % 255 + 1), count: cluster)) }
    let store = PagedStore(PagedBytes(image.build().bytes), name: "failing")
    return try layer(FaultyStore(store, .failRead(nth: nth)))
  }

  /// Runs an operation on a new image, the nth read of the other disk failing, until it meets no failure.
  private func expectClosed(
    over backing: String? = nil, _ operation: (PagedStore, _ nth: Int) throws(ImageError) -> Void
  ) throws {
    var counts: Set<Int> = []
    for nth in 1... {
      let store = try Self.image(over: backing)
      let before = try content(store)
      do throws(ImageError) {
        try operation(store, nth)
        return #expect(counts.count > 2, "\(counts)")
      } catch {
        counts.insert(try expectClosed(store, before: before))
      }
    }
  }

  /// Opens what is left: every byte that is another one than before is in the bitmap, and nothing leaks.
  /// - Returns: the clusters that are others than before.
  @discardableResult
  private func expectClosed(_ store: PagedStore, before: [UInt8]) throws -> Int {
    let check = QCOW2Checker(store.bytes)
    #expect(check.damages == [] && check.leaks == 0)
    let map = try QCOW2.open(store, OpenContext())
    let disk = DiskImage(layers: [DiskImage.Layer(name: "image", map: map)])
    let source = try #require(map as? any BitmapSource)
    #expect(source.bitmaps.map(\.isInconsistent) == [false])
    guard source.bitmaps.allSatisfy({ !$0.isInconsistent }) else { return 0 }
    var dirty: Set<Int> = []
    try source.dirtyRanges(ofBitmapNamed: "b") { range in
      dirty.formUnion(Int(range.lowerBound) / Self.cluster..<Int(range.upperBound - 1) / Self.cluster + 1)
    }
    let after = try disk.read(before.count, at: 0)
    let changed = Set(
      (0..<Self.count).filter { !before.isEqual(after, $0 * Self.cluster..<($0 + 1) * Self.cluster) })
    #expect(changed.isSubset(of: dirty))
    return changed.count
  }

  private func content(_ store: PagedStore) throws -> [UInt8] {
    try DiskImage(layers: [Self.layer(store)]).read(Self.count * Self.cluster, at: 0)
  }

  @Test("convert -n")
  func convert() throws {
    try expectClosed { store, nth throws(ImageError) in
      let target = DiskImage(layers: [try Self.layer(store, isWritable: true)])
      var options = Convert.Options()
      options.workerCount = 1
      let source = DiskImage(layers: [try Self.failing(nth: nth)])
      try Convert(sources: [source], target: .image(target, isZero: false), options: options).run()
    }
  }

  @Test("convert -n that its caller stops")
  func stoppedConvert() throws {
    let store = try Self.image()
    let before = try content(store)
    let bytes = PagedStore(PagedBytes(randomBytes(Self.count * Self.cluster, from: 1)), name: "source")
    let source = DiskImage(layers: [
      DiskImage.Layer(name: "source", map: try Formats.named("raw").open(bytes, OpenContext()))
    ])
    let target = DiskImage(layers: [try Self.layer(store, isWritable: true)])
    #expect(throws: ImageError.self) {
      try Convert(sources: [source], target: .image(target, isZero: false)).run { done, _ in done == 0 }
    }
    #expect(try expectClosed(store, before: before) > 0)
  }

  @Test("commit")
  func commit() throws {
    try expectClosed { store, nth throws(ImageError) in
      let chain = DiskImage(layers: [try Self.failing(nth: nth), try Self.layer(store, isWritable: true)])
      var commit = try Commit(chain)
      commit.keepsOverlay = true
      commit.workerCount = 1
      try commit.run()
    }
  }

  @Test("rebase")
  func rebase() throws {
    try expectClosed(over: "failing") { store, nth throws(ImageError) in
      let chain = DiskImage(layers: [try Self.layer(store, isWritable: true), try Self.failing(nth: nth)])
      try Rebase(chain, onto: nil).run(newBase: nil)
    }
  }
}
