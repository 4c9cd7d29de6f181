package import PlatterCore
import Synchronization

/// Writes what an overlay has into an image below it, and empties the overlay.
package struct Commit {
  /// Guest bytes that are moved at once.
  private static let stepByteCount = Piece.byteCount

  private let image: DiskImage
  /// The image of the chain that takes the bytes; 1 is the overlay's own backing image.
  package let depth: Int
  /// The overlay keeps what it has. So it does anyway where there are images between it and the target: they no longer
  /// show what they did.
  package var keepsOverlay = false
  package var cache = OpenOptions.CacheMode.writeback
  package var workerCount = min(Workers.processorCount, Workers.maximumCount)

  /// - Parameter image: opened with `isWritable` and with `writableDepth` equal to `depth`.
  /// - Throws: `.invalidArgument` where there is no such image below.
  package init(_ image: DiskImage, depth: Int = 1) throws(ImageError) {
    guard depth >= 1, depth < image.layers.count else {
      throw ImageError(.invalidArgument, "has no backing image to commit to", file: image.name)
    }
    self.image = image
    self.depth = depth
  }

  /// The depth at which the chain has a backing image of this name; nil where it has none.
  package static func depth(ofImageNamed name: String, in image: DiskImage) -> Int? {
    image.layers.indices.dropFirst().first { index in
      image.layers[index].name == name || image.layers[index - 1].map.backing?.displayName == name
    }
  }

  /// Moves everything. The target is on stable storage before the overlay gives anything up.
  package func run(progress: ProgressHandler? = nil) throws(ImageError) {
    let target = DiskImage(layers: Array(image.layers[depth...]))
    let writer = try DiskWriter(target, cache: cache, writesMuch: true)
    try writer.closing { () throws(ImageError) in
      if target.byteCount < image.byteCount { try writer.resize(to: image.byteCount) }
      try copy(to: writer, ProgressCounter(total: image.byteCount, progress))
      try writer.flush()
    }
    guard !keepsOverlay, depth == 1 else { return }
    let overlay = try DiskWriter(image, cache: cache)
    try overlay.closing { () throws(ImageError) in
      _ = try overlay.makeAbsent(0..<image.byteCount)
      try overlay.flush()
    }
  }

  private func copy(to writer: DiskWriter, _ progress: ProgressCounter) throws(ImageError) {
    let above = DiskImage(layers: Array(image.layers[..<depth]))
    // Behind the end of an image between, nothing of the target shows.
    let shown = image.layers[..<depth].map(\.map.byteCount).min() ?? 0
    let plan = Mutex(RunCursor(above, 0..<above.byteCount))
    try Workers.run(workerCount) { _, stop throws(ImageError) in
      var buffer = AlignedBuffer(byteCount: Int(Self.stepByteCount))
      let scratch = Scratch()
      while !stop.isRaised, let step = try plan.withLock({ cursor throws(ImageError) in try Self.next(&cursor, shown) })
      {
        let count = Int(truncatingIfNeeded: step.range.upperBound - step.range.lowerBound)
        switch step.kind {
        case .nothing: break
        case .zero: try writer.zero(step.range, mayUnmap: true)
        case .data:
          try buffer.withMutableBytes { bytes throws(ImageError) in
            var part = bytes._mutatingExtracting(0..<count)
            try above.read(into: &part, at: step.range.lowerBound, scratch)
          }
          try writer.write(buffer.bytes.extracting(0..<count), at: step.range.lowerBound)
        }
        try progress.add(step.range.upperBound - step.range.lowerBound)
      }
    }
  }

  /// What the target is told of some guest bytes.
  private struct Step {
    enum Kind { case nothing, zero, data }
    var range: Range<UInt64>
    var kind: Kind
  }

  /// What the images above the target say; where none of them says anything, the target has it already. Nil at the end.
  /// - Parameter shown: guest bytes that the target shows through; what is absent behind them is zero.
  private static func next(_ cursor: inout RunCursor, _ shown: UInt64) throws(ImageError) -> Step? {
    guard let run = try cursor.peek() else { return nil }
    let start = run.extent.start
    var end = run.extent.end
    if start < shown { end = min(end, shown) }
    let kind: Step.Kind =
      !run.readsZero ? .data : run.extent.kind == .absent && start < shown ? .nothing : .zero
    if kind == .data { end = min(end, (start / stepByteCount + 1) * stepByteCount) }
    cursor.advance(end - start)
    return Step(range: start..<end, kind: kind)
  }
}
