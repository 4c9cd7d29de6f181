import PlatterCore
import PlatterVHDX
import TestSupport
import Testing

/// Opens a file as a reader does.
func open(_ store: any ByteStore, isWritable: Bool = false) throws(ImageError) -> VHDXMap {
  var context = OpenContext()
  context.isWritable = isWritable
  guard let map = try VHDX.open(store, context) as? VHDXMap else {
    throw ImageError(.unsupported, "the format opened another format's map")
  }
  return map
}

/// Reads guest bytes through maps, one run at a time, and holds every answer to the contract: no gaps, no overlaps,
/// no more runs than allowed, neighbours joined.
func readGuest(_ chain: [VHDXMap], _ range: Range<UInt64>? = nil, limit: Int = 7) throws -> [UInt8] {
  guard let map = chain.first else { return [] }
  let range = range ?? 0..<map.byteCount
  var result: [UInt8] = []
  var position = range.lowerBound
  while position < range.upperBound {
    var runs: [Extent] = []
    let end = try map.map(position..<range.upperBound, limit: limit, into: &runs)
    #expect(runs.count <= limit && !runs.isEmpty)
    for run in runs {
      #expect(run.start == position && run.byteCount > 0)
      position = run.end
      result += try content(of: run, chain)
    }
    #expect(position == end && end <= range.upperBound)
    for (one, next) in zip(runs, runs.dropFirst()) { #expect(!one.isContinued(by: next)) }
  }
  return result
}

private func content(of run: Extent, _ chain: [VHDXMap]) throws -> [UInt8] {
  let zeros = [UInt8](repeating: 0, count: Int(run.byteCount))
  switch run.kind {
  case .data:
    return try chain[0].stores[Int(run.store)].readFully("data", at: run.offset, count: Int(run.byteCount))
  case .zero:
    return zeros
  case .absent:
    let parents = Array(chain.dropFirst())
    guard let parent = parents.first, run.start < parent.byteCount else { return zeros }
    let inside = try readGuest(parents, run.start..<min(run.end, parent.byteCount))
    return inside + zeros.dropFirst(inside.count)
  case .packed:
    Issue.record("VHDX packs nothing")
    return zeros
  }
}

/// The sentence that opening gives.
func sentenceOfRefusal(_ builder: VHDXBuilder) -> ImageError? {
  do throws(ImageError) {
    _ = try open(builder.store())
    return nil
  } catch {
    return error
  }
}

/// A built file on disk, grown with a hole.
func sparseFile(_ builder: VHDXBuilder, byteCount: UInt64, in folder: ScratchDirectory) throws -> FileStore {
  let path = try folder.write(builder.build(), to: "disk.vhdx")
  let store = try FileStore(path, FileStore.Options(isWritable: true))
  try store.resize(to: byteCount)
  return store
}
