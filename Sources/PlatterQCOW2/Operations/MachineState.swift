package import PlatterCore

// A machine's state lies where a larger disk's bytes would: at the guest offset that the first L1 entry behind the disk
// covers, reached through the same L1 table.

extension Geometry {
  func machineStateOffset(diskByteCount: UInt64) -> UInt64 {
    diskByteCount.dividedRoundingUp(by: l1EntryCoverage) * l1EntryCoverage
  }

  /// As far as the largest L1 table reaches.
  var maximumReach: UInt64 { l1EntryCoverage * UInt64(Header.maximumL1EntryCount) }  // at most 2^61
}

extension QCOW2Map: MachineStateMap {
  package var machineStateOffset: UInt64 { volume.geometry.machineStateOffset(diskByteCount: byteCount) }

  package func machineState() throws(ImageError) -> any ImageMap {
    var tree = tree
    tree.byteCount = volume.geometry.maximumReach
    return QCOW2Map(volume, tree)
  }
}

extension QCOW2Writer: MachineStateMap {
  package var machineStateOffset: UInt64 { reader.volume.geometry.machineStateOffset(diskByteCount: byteCount) }
  package func machineState() throws(ImageError) -> any ImageMap { MachineStateArea(self) }
}

/// The room for a machine's state in an image that is written. The L1 table grows where it must.
private final class MachineStateArea: WritableMap {
  private let writer: QCOW2Writer

  init(_ writer: QCOW2Writer) { self.writer = writer }

  var formatName: String { writer.formatName }
  var byteCount: UInt64 { writer.reader.volume.geometry.maximumReach }
  var stores: [any ByteStore] { writer.stores }
  var ciphers: [any SectorCipher] { writer.ciphers }
  var allocationUnit: UInt64? { writer.allocationUnit }
  var isEncrypted: Bool { writer.isEncrypted }
  var mapUnit: UInt64 { writer.mapUnit }
  var mustPublishSoon: Bool { writer.mustPublishSoon }

  func map(_ range: Range<UInt64>, limit: Int, into extents: inout [Extent]) throws(ImageError) -> UInt64 {
    var found: [Extent] = []
    let reached = try writer.reading { core throws(ImageError) in
      try core.map(range, limit: limit, writer.reader.volume, end: byteCount, into: &found)
    }
    for extent in found { extents.appendJoining(extent) }
    return reached
  }

  func prepareToWrite(_ barrier: Barrier) throws(ImageError) { try writer.prepareToWrite(barrier) }

  func allocate(_ range: Range<UInt64>) throws(ImageError) -> Allocation {
    let stores = writer.stores
    return try writer.locked { core throws(ImageError) in
      try core.growL1(toCover: range.upperBound) { () throws(ImageError) in
        for store in stores where store.isWritable { try store.flush() }
      }
      return try core.allocate(range)
    }
  }

  func link(_ allocation: Allocation) throws(ImageError) { try writer.link(allocation) }
  func abandon(_ allocation: Allocation) { writer.abandon(allocation) }
  func allocatePacked(unitStart: UInt64, byteCount: Int) throws(ImageError) -> Allocation? { nil }
  func changed(_ range: Range<UInt64>) throws(ImageError) {}
  func release(_ range: Range<UInt64>, as result: Release) throws(ImageError) -> ReleaseAnswer { .cannot }
  func publish(_ barrier: Barrier) throws(ImageError) { try writer.publish(barrier) }
  func close(_ barrier: Barrier) throws(ImageError) { try writer.publish(barrier) }

  func resize(to byteCount: UInt64, _ barrier: Barrier) throws(ImageError) {
    throw .unsupported("the room for a machine's state has no size")
  }
}
