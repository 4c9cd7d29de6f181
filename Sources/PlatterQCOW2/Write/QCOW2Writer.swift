package import PlatterCore
import Synchronization

/// A qcow2 image that is written in place. `WriterCore` has the state, `Publisher` the order in which it reaches the disk.
///
/// Two locks: `changes`, taken first, is held by whoever changes what is published, from its start to its end; `core` by
/// whoever touches the state, for as long as it does. A publish holds `changes` throughout and `core` for moments only, so
/// nobody who looks something up, or writes where there is space already, waits until it has written and flushed.
package final class QCOW2Writer: WritableMap {
  let reader: QCOW2Map
  let core: Mutex<WriterCore>
  private let changes = Mutex(())
  private let isLarge = Atomic<Bool>(false)
  private let isRecording = Atomic<Bool>(false)

  package var formatName: String { QCOW2.name }
  package var byteCount: UInt64 { core.withLock { $0.header.virtualByteCount } }
  package var stores: [any ByteStore] { reader.stores }
  package var ciphers: [any SectorCipher] { reader.ciphers }
  package var allocationUnit: UInt64? { reader.allocationUnit }
  package var backing: BackingReference? { reader.backing }
  package var facts: ImageFacts { reader.facts }
  package var isEncrypted: Bool { reader.isEncrypted }
  package var mapUnit: UInt64 { reader.volume.geometry.mapUnit }
  package var mustPublishSoon: Bool { isLarge.load(ordering: .relaxed) }

  init(_ reader: QCOW2Map) throws(ImageError) {
    self.reader = reader
    core = Mutex(try WriterCore(reader.volume))
  }

  package func snapshot(named name: String) throws(ImageError) -> any ImageMap { try reader.snapshot(named: name) }
  package func accept(parent: any ImageMap) throws(ImageError) { try reader.accept(parent: parent) }

  /// Runs `body`, which changes the state, under both locks, and names the file in its errors.
  func locked<R>(_ body: (inout WriterCore) throws(ImageError) -> R) throws(ImageError) -> R {
    try changing { () throws(ImageError) in try reading(body) }
  }

  /// Runs `body` on the state, and names the file in its errors. A publish may be under way: `body` changes nothing that one
  /// publishes.
  func reading<R>(_ body: (inout WriterCore) throws(ImageError) -> R) throws(ImageError) -> R {
    do throws(ImageError) {
      return try core.withLock { core throws(ImageError) in try body(&core) }
    } catch {
      throw error.named(reader.volume.file.name)
    }
  }

  private func changing<R>(_ body: () throws(ImageError) -> R) throws(ImageError) -> R {
    try changes.withLock { _ throws(ImageError) in
      defer {
        let marks = core.withLock { ($0.isLarge, $0.liveBitmaps.contains(where: \.isRecording)) }
        isLarge.store(marks.0, ordering: .relaxed)
        isRecording.store(marks.1, ordering: .relaxed)
      }
      return try body()
    }
  }

  package func map(_ range: Range<UInt64>, limit: Int, into extents: inout [Extent]) throws(ImageError) -> UInt64 {
    var found: [Extent] = []
    let reached = try reading { core throws(ImageError) in
      try core.map(range, limit: limit, reader.volume, into: &found)
    }
    for extent in found { extents.appendJoining(extent) }
    return reached
  }

  package func prepareToWrite(_ barrier: Barrier) throws(ImageError) {
    try locked { core throws(ImageError) in try core.prepareToWrite(barrier) }
  }

  package func allocate(_ range: Range<UInt64>) throws(ImageError) -> Allocation {
    try locked { core throws(ImageError) in try core.allocate(range) }
  }

  package func allocatePacked(unitStart: UInt64, byteCount: Int) throws(ImageError) -> Allocation? {
    try locked { core throws(ImageError) in try core.allocatePacked(unitStart: unitStart, byteCount: UInt64(byteCount))
    }
  }

  package func link(_ allocation: Allocation) throws(ImageError) {
    try locked { core throws(ImageError) in try core.link(allocation) }
  }

  package func abandon(_ allocation: Allocation) {
    changes.withLock { _ in core.withLock { $0.abandon(allocation) } }
  }

  package func changed(_ range: Range<UInt64>) throws(ImageError) {
    // The image has no bitmaps in nearly all cases.
    guard isRecording.load(ordering: .relaxed) else { return }
    guard try reading({ core in core.record(range) }) else { return }
    try locked { core throws(ImageError) in try core.storeBits() }
  }

  package var packedCodec: PackedCodec? {
    let header = reader.volume.header
    guard !header.hasDataFile, header.encryption == .none else { return nil }
    return header.compression == .zstd ? .zstd : .deflate
  }

  package func release(_ range: Range<UInt64>, as result: Release) throws(ImageError) -> ReleaseAnswer {
    try locked { core throws(ImageError) in try core.release(range, as: result) }
  }

  package func publish(_ barrier: Barrier) throws(ImageError) {
    try changing { () throws(ImageError) in
      // Who finds space in place has nothing to wait for.
      isLarge.store(false, ordering: .relaxed)
      var shared = SharedCore(writer: self)
      do throws(ImageError) {
        try shared.publish(barrier)
      } catch {
        throw error.named(reader.volume.file.name)
      }
    }
  }

  package func close(_ barrier: Barrier) throws(ImageError) {
    try locked { core throws(ImageError) in try core.close(barrier) }
  }

  package func checkResize(to byteCount: UInt64) throws(ImageError) {
    try reading { core throws(ImageError) in try core.checkResize(to: byteCount) }
  }

  package func resize(to byteCount: UInt64, _ barrier: Barrier) throws(ImageError) {
    try locked { core throws(ImageError) in try core.resize(to: byteCount, barrier) }
  }
}

/// The state of a writer, where others may look things up between two moments of a publish.
private struct SharedCore: Publisher {
  let writer: QCOW2Writer
  var store: any ByteStore { writer.reader.volume.file }

  func withCore<R>(_ body: (inout WriterCore) throws(ImageError) -> R) throws(ImageError) -> R {
    try writer.core.withLock { core throws(ImageError) in try body(&core) }
  }
}
