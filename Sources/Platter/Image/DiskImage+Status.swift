package import PlatterCore

/// What `map` tells of a run of guest bytes.
package struct BlockStatus: Sendable, BitwiseCopyable, Equatable {
  package var start: UInt64
  package var byteCount: UInt64
  /// The image of the chain that decided; 0 is the top.
  package var depth: UInt16
  /// An image of the chain has the bytes; false where they read as zeros because none has.
  package var isPresent: Bool
  package var isZero: Bool
  package var isData: Bool
  package var isCompressed: Bool
  /// Whether `offset` and `store` name the place of the first byte: plain bytes in a file.
  package var hasOffset: Bool
  package var store: UInt16
  package var offset: UInt64

  package var end: UInt64 { start + byteCount }

  /// - Parameter map: of the image that decided. An encrypted one has plain bytes nowhere, and no place is told for space
  ///   that was never written either.
  init(_ run: Run, in map: any ImageMap) {
    let extent = run.extent
    let isRaw = map.formatName == "raw"
    start = extent.start
    byteCount = extent.byteCount
    depth = run.depth
    isPresent = extent.kind != .absent
    isZero = run.readsZero
    // A hole of the file under a data cluster is both: the cluster is data, and it reads as zeros. A raw file is its holes.
    isData = extent.kind == .data || extent.kind == .packed || (extent.kind == .zero && extent.isSparse && !isRaw)
    isCompressed = extent.kind == .packed
    hasOffset = extent.hasOffset && extent.kind != .packed && map.ciphers.isEmpty
    store = hasOffset ? extent.store : 0
    offset = hasOffset ? extent.offset : 0
  }

  func isContinued(by next: BlockStatus) -> Bool {
    end == next.start && depth == next.depth && isPresent == next.isPresent && isZero == next.isZero
      && isData == next.isData && isCompressed == next.isCompressed && hasOffset == next.hasOffset
      && (!hasOffset || (store == next.store && offset + byteCount == next.offset))
  }
}

extension DiskImage {
  /// Appends the status of `range` from its start on, neighbours of one kind joined.
  ///
  /// - Parameters:
  ///   - range: inside the disk, not empty.
  ///   - limit: about how many entries to append at most.
  /// - Returns: the guest offset behind the last entry.
  /// - Throws: `.corrupt`, `.truncated`, `.io` from the tables.
  package func status(_ range: Range<UInt64>, limit: Int, into entries: inout [BlockStatus]) throws(ImageError)
    -> UInt64
  {
    var walk = ChainWalk(layers)
    var runs: [Run] = []
    let reached = try walk.runs(range, limit: limit, into: &runs)
    for run in runs {
      let next = BlockStatus(run, in: layers[Int(run.depth)].map)
      if let last = entries.indices.last, entries[last].isContinued(by: next) {
        entries[last].byteCount += next.byteCount
      } else {
        entries.append(next)
      }
    }
    return reached
  }
}
