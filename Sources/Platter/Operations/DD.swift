package import PlatterCore
package import SystemPackage

/// Copies a range of a disk, counted in blocks, into a new image: `dd`.
package struct DD {
  private static let stepByteCount: UInt64 = 2 << 20
  /// `bs` where nobody says another.
  package static let defaultBlockByteCount: UInt64 = 512

  package let source: DiskImage
  package var target: FilePath
  package var format: any CreatableFormat.Type
  package var blockByteCount = DD.defaultBlockByteCount
  /// Blocks of the source up to which is copied, those that are skipped included (observed: qemu-img 7.2); nil for all.
  package var count: UInt64?
  /// Blocks of the source that are left out at the start.
  package var skip: UInt64 = 0

  package init(_ source: DiskImage, to target: FilePath, format: any CreatableFormat.Type) {
    self.source = source
    self.target = target
    self.format = format
  }

  /// The bytes of the source that are copied; empty where more is skipped than there is.
  package var range: Range<UInt64> {
    var end = source.byteCount
    if let count, let wanted = count.multiplied(by: blockByteCount) { end = min(end, wanted) }
    guard let start = skip.multiplied(by: blockByteCount), start <= end else { return end..<end }
    return start..<end
  }

  /// Whether more is skipped than there is.
  package var skipsPastEnd: Bool {
    guard let start = skip.multiplied(by: blockByteCount) else { return true }
    return start > range.upperBound
  }

  /// Makes the target, and copies. It takes its name when it is complete. Nothing of the source is changed.
  package func run() throws(ImageError) {
    let range = range
    let byteCount = range.upperBound - range.lowerBound
    let create = Create(target, format: format, byteCount: byteCount)
    try create.make(try create.prepare()) { files throws(ImageError) in try copy(range, to: files.store) }
  }

  private func copy(_ range: Range<UInt64>, to store: FileStore) throws(ImageError) {
    guard !range.isEmpty else { return }
    let image = try DiskImage.open(
      made: store, at: target, format: format.name, backing: nil, OpenOptions(format: format.name, references: .none))
    let writer = try DiskWriter(image)
    var cursor = RunCursor(source, range)
    var buffer = [UInt8](repeating: 0, count: Int(min(Self.stepByteCount, range.upperBound - range.lowerBound)))
    while let run = try cursor.peek() {
      let start = run.extent.start
      // A new image reads as zeros already.
      guard !run.readsZero else {
        cursor.advance(run.extent.byteCount)
        continue
      }
      let count = Int(min(run.extent.byteCount, UInt64(buffer.count)))
      try buffer.withMutableRawBytes { bytes throws(ImageError) in
        var part = bytes._mutatingExtracting(0..<count)
        try source.read(into: &part, at: start)
      }
      try writer.write(buffer.rawBytes.extracting(0..<count), at: start - range.lowerBound)
      cursor.advance(UInt64(count))
    }
    try writer.flush()
    try writer.close()
  }
}
