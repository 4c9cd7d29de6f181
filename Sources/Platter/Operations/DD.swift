package import PlatterCore

/// Copies a part of a disk to the start of another one, as `dd` does with files.
package struct DD {
  /// Guest bytes that are moved at once.
  private static let stepByteCount: UInt64 = 2 << 20

  private let source: DiskImage
  private let target: DiskImage
  private let range: Range<UInt64>

  /// - Parameters:
  ///   - range: of the source's bytes; inside both disks, the target's taken from 0 on.
  ///   - target: opened for writing; reads as zeros.
  package init(_ source: DiskImage, _ range: Range<UInt64>, to target: DiskImage) throws(ImageError) {
    guard range.upperBound <= source.byteCount, range.upperBound - range.lowerBound <= target.byteCount else {
      throw ImageError(.invalidArgument, "the part to be copied is larger than the disk", file: target.name)
    }
    self.source = source
    self.target = target
    self.range = range
  }

  /// Copies; on stable storage when it returns.
  package func run(progress: ProgressHandler? = nil) throws(ImageError) {
    let writer = try DiskWriter(target)
    let counter = ProgressCounter(total: range.upperBound - range.lowerBound, progress)
    var cursor = RunCursor(source, range)
    while let run = try cursor.peek() {
      let start = run.extent.start
      var end = run.extent.end
      if !run.readsZero {
        end = min(end, start + Self.stepByteCount)
        let bytes = try source.read(Int(end - start), at: start)
        let piece = bytes.rawBytes
        if !piece.isAllZero { try writer.write(piece, at: start - range.lowerBound) }
      }
      cursor.advance(end - start)
      try counter.add(end - start)
    }
    try writer.flush()
    try writer.close()
  }
}
