package import PlatterCore

/// An extent of one image of the chain, after the chain was asked: where guest bytes really come from.
///
/// `absent` means that no image has the bytes, and they read as zeros; `depth` is then the image that was asked last.
package struct Run: Sendable, BitwiseCopyable, Equatable {
  package var extent: Extent
  /// Index of the image in the chain; 0 is the top.
  package var depth: UInt16

  package init(_ extent: Extent, depth: UInt16) {
    self.extent = extent
    self.depth = depth
  }

  /// Whether the bytes read as zeros without looking.
  @inlinable package var readsZero: Bool { extent.kind == .zero || extent.kind == .absent }
}

extension Array where Element == Run {
  mutating func appendJoining(_ run: Run) {
    if let last = indices.last, self[last].depth == run.depth, self[last].extent.isContinued(by: run.extent) {
      self[last].extent.byteCount += run.extent.byteCount
    } else {
      append(run)
    }
  }
}

/// Turns the maps of a chain into runs. A value for one walk: it remembers the last hole query of a store.
struct ChainWalk {
  let layers: [DiskImage.Layer]
  /// Whether data runs that may hold holes are split at the store's holes.
  var refinesHoles = true
  /// What happens where a map cannot be read; nil throws.
  private let salvage: Salvage?
  private var lastSegment: (depth: Int, store: UInt16, range: Range<UInt64>, isHole: Bool)?

  init(_ layers: [DiskImage.Layer], refinesHoles: Bool = true, salvage: Salvage? = nil) {
    self.layers = layers
    self.refinesHoles = refinesHoles
    self.salvage = salvage
  }

  /// Appends runs that cover `range` from its start without a gap; about `limit` at most.
  /// - Returns: the guest offset behind the last run.
  mutating func runs(_ range: Range<UInt64>, limit: Int, into runs: inout [Run]) throws(ImageError) -> UInt64 {
    guard let salvage else { return try descend(0, range, limit: runs.count + limit, into: &runs) }
    let present = runs.count
    // What is lost is found step by step: a failed answer does not tell where it failed.
    let step = layers[0].map.allocationUnit ?? Salvage.stepByteCount
    let first = range.lowerBound..<min(range.upperBound, (range.lowerBound / step + 1) * step)
    for part in [range, first] {
      do throws(ImageError) {
        return try descend(0, part, limit: present + limit, into: &runs)
      } catch {
        // What came before the failure is told first.
        if runs.count > present { return runs[runs.count - 1].extent.end }
        if part == first { salvage.note(first, error, isMap: true) }
      }
    }
    runs.append(Run(.zero(start: first.lowerBound, byteCount: first.upperBound - first.lowerBound), depth: 0))
    return first.upperBound
  }

  private mutating func descend(
    _ depth: Int, _ range: Range<UInt64>, limit: Int, into runs: inout [Run]
  ) throws(ImageError) -> UInt64 {
    let layer = layers[depth]
    var extents: [Extent] = []
    let reached = try naming(layer.name) { () throws(ImageError) in
      try layer.map.map(range, limit: max(1, limit - runs.count), into: &extents)
    }
    precondition(reached > range.lowerBound && reached <= range.upperBound)
    for extent in extents {
      if extent.kind == .absent, depth + 1 < layers.count {
        let below = layers[depth + 1].map.byteCount
        if extent.start < below {
          var from = extent.start
          let end = min(extent.end, below)
          while from < end {
            from = try descend(depth + 1, from..<end, limit: limit, into: &runs)
            if runs.count >= limit, from < end || end < extent.end { return from }
          }
        }
        // A backing image that is shorter reads as zeros past its end.
        if extent.end > below {
          let part = extent.clipped(to: max(extent.start, below)..<extent.end)
          runs.appendJoining(Run(part, depth: UInt16(depth)))
        }
      } else if extent.kind == .data, extent.isSparse, refinesHoles {
        let stop = try splitAtHoles(extent, depth, limit: limit, into: &runs)
        if stop < extent.end { return stop }
      } else {
        runs.appendJoining(Run(extent, depth: UInt16(depth)))
      }
      if runs.count >= limit { return extent.end }
    }
    return reached
  }

  /// Appends the data of a run as data and its holes as zeros that own their place.
  private mutating func splitAtHoles(
    _ extent: Extent, _ depth: Int, limit: Int, into runs: inout [Run]
  ) throws(ImageError) -> UInt64 {
    let store = layers[depth].map.stores[Int(extent.store)]
    var done: UInt64 = 0
    while done < extent.byteCount {
      if runs.count >= limit { return extent.start + done }
      let segment = try segment(store, depth, extent.store, at: extent.offset + done, limit: extent.byteCount - done)
      let count = min(segment.byteCount, extent.byteCount - done)
      var part = extent.clipped(to: extent.start + done..<extent.start + done + count)
      part.isSparse = true
      if segment.isHole, part.cipher == 0 { part.kind = .zero }
      runs.appendJoining(Run(part, depth: UInt16(depth)))
      done += count
    }
    return extent.end
  }

  private mutating func segment(
    _ store: any ByteStore, _ depth: Int, _ index: UInt16, at offset: UInt64, limit: UInt64
  ) throws(ImageError) -> StoreSegment {
    if let last = lastSegment, last.depth == depth, last.store == index, last.range.contains(offset) {
      return StoreSegment(isHole: last.isHole, byteCount: last.range.upperBound - offset)
    }
    // Asked as far as the store goes: the next run is likely to be in the same segment.
    let segment = try store.segment(at: offset, limit: max(limit, 1 << 40))
    guard segment.byteCount > 0 else { return StoreSegment(isHole: true, byteCount: limit) }
    lastSegment = (depth, index, offset..<offset + segment.byteCount, segment.isHole)
    return segment
  }
}
