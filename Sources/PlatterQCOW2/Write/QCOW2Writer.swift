package import PlatterCore
import Synchronization

/// A qcow2 image that is written in place. `WriterCore` has the state and the order in which it reaches the disk.
package final class QCOW2Writer: WritableMap {
  let reader: QCOW2Map
  let core: Mutex<WriterCore>
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

  /// Runs `body` on the state under its lock, and names the file in its errors.
  func locked<R>(_ body: (inout WriterCore) throws(ImageError) -> R) throws(ImageError) -> R {
    do throws(ImageError) {
      return try core.withLock { core throws(ImageError) in
        defer {
          isLarge.store(core.isLarge, ordering: .relaxed)
          isRecording.store(core.liveBitmaps.contains(where: \.isRecording), ordering: .relaxed)
        }
        return try body(&core)
      }
    } catch {
      throw error.named(reader.volume.file.name)
    }
  }

  package func map(_ range: Range<UInt64>, limit: Int, into extents: inout [Extent]) throws(ImageError) -> UInt64 {
    var found: [Extent] = []
    let reached = try locked { core throws(ImageError) in
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
    core.withLock { $0.abandon(allocation) }
  }

  package func changed(_ range: Range<UInt64>) throws(ImageError) {
    // The image has no bitmaps in nearly all cases.
    guard isRecording.load(ordering: .relaxed) else { return }
    try locked { core throws(ImageError) in try core.record(range) }
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
    try locked { core throws(ImageError) in try core.publish(barrier) }
  }

  package func close(_ barrier: Barrier) throws(ImageError) {
    try locked { core throws(ImageError) in try core.close(barrier) }
  }

  package func checkResize(to byteCount: UInt64) throws(ImageError) {
    try locked { core throws(ImageError) in try core.checkResize(to: byteCount) }
  }

  package func resize(to byteCount: UInt64, _ barrier: Barrier) throws(ImageError) {
    try locked { core throws(ImageError) in try core.resize(to: byteCount, barrier) }
  }
}
