import PlatterCore
import PlatterDMG

/// The bytes are a whole file; a trailer is put behind it where it has none, so that the tables are reached.
///
/// Promises: no trap; runs are in order and without gaps or overlaps, and their bytes lie in the store; two passes with
/// different limits say the same; a check ends.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzDMG(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  fuzz(bytes)
  fuzz(bytes + trailer(listByteCount: bytes.count))
  return 0
}

private func fuzz(_ bytes: [UInt8]) {
  let store = MemoryStore(bytes, isWritable: false)
  guard let map = try? DMG.open(store, OpenContext()), map.byteCount > 0 else { return }
  let runs = walk(map, limit: 1000)
  precondition(joined(walk(map, limit: 1)) == runs, "two passes differ")
  for run in runs where run.kind == .data || run.kind == .packed {
    let length = run.kind == .data ? run.byteCount : run.packedByteCount
    precondition(run.offset <= UInt64(bytes.count) && length <= UInt64(bytes.count) - run.offset)
  }
  // A chunk may be said to hold 512 MiB; decoding those would only slow the search down.
  guard let checkable = map as? any CheckableMap, map.byteCount <= 1 << 20 else { return }
  _ = try? checkable.check(workers: 1) { _ in true }
}

private func walk(_ map: any ImageMap, limit: Int) -> [Extent] {
  var extents: [Extent] = []
  var position: UInt64 = 0
  while position < map.byteCount {
    let before = extents.count
    guard let end = try? map.map(position..<map.byteCount, limit: limit, into: &extents) else { return extents }
    precondition(end > position && end <= map.byteCount && extents.count <= before + limit)
    position = end
  }
  var next: UInt64 = 0
  for extent in extents {
    precondition(extent.start == next && extent.byteCount > 0)
    next = extent.end
  }
  precondition(next == map.byteCount)
  return extents
}

private func joined(_ extents: [Extent]) -> [Extent] {
  var joined: [Extent] = []
  for extent in extents { joined.appendJoining(extent) }
  return joined
}

/// A trailer that takes everything before it for data fork and property list alike.
private func trailer(listByteCount: Int) -> [UInt8] {
  var bytes = [UInt8](repeating: 0, count: 512)
  let count = UInt64(listByteCount)
  bytes.withMutableRawBytes { span in
    span.storeBigEndian(0x6B6F_6C79 as UInt32, at: 0)
    span.storeBigEndian(4 as UInt32, at: 4)
    span.storeBigEndian(512 as UInt32, at: 8)
    span.storeBigEndian(count, at: 32)
    span.storeBigEndian(count, at: 224)
    span.storeBigEndian(16 as UInt64, at: 492)
  }
  return bytes
}
