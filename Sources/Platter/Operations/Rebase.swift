package import PlatterCore

/// Gives an overlay another backing image.
package struct Rebase {
  private static let stepByteCount: UInt64 = 1 << 20

  /// What the overlay shall name.
  package struct Backing: Sendable {
    package var name: [UInt8]
    package var format: String?
    package init(name: [UInt8], format: String?) {
      self.name = name
      self.format = format
    }
  }

  private let image: DiskImage
  private let backing: Backing?

  /// - Parameters:
  ///   - image: the overlay, opened for writing; with its chain, unless only the name is to change.
  ///   - backing: nil for none.
  package init(_ image: DiskImage, onto backing: Backing?) {
    self.image = image
    self.backing = backing
  }

  /// Changes only what the overlay names; the caller knows that both have the same content.
  package func renameOnly() throws(ImageError) {
    let writer = try DiskWriter(image)
    try writer.setBacking(backing?.name, format: backing?.format)
    try writer.close()
  }

  /// Copies into the overlay what would read differently over the new backing image, then changes the name.
  /// - Parameter newBase: the new backing image with its chain; nil for none.
  package func run(newBase: DiskImage?, progress: ProgressHandler? = nil) throws(ImageError) {
    let writer = try DiskWriter(image)
    let counter = ProgressCounter(total: image.byteCount, progress)
    // The overlay alone: absent is what its backing image shows through.
    var own = RunCursor(DiskImage(layers: [image.layers[0]]), 0..<image.byteCount)
    while let run = try own.peek() {
      let range = run.extent.start..<run.extent.end
      if run.extent.kind == .absent { try keep(range, newBase, writer) }
      own.advance(range.upperBound - range.lowerBound)
      try counter.add(range.upperBound - range.lowerBound)
    }
    try writer.flush()
    try writer.setBacking(backing?.name, format: backing?.format)
    try writer.close()
  }

  /// Makes the overlay's own what differs in a range that it does not have.
  private func keep(
    _ range: Range<UInt64>, _ newBase: DiskImage?, _ writer: DiskWriter
  ) throws(ImageError) {
    let newEnd = min(range.upperBound, max(range.lowerBound, newBase?.byteCount ?? 0))
    var old = RunCursor(image, range)
    var new = newBase.map { RunCursor($0, range.lowerBound..<newEnd) }
    var position = range.lowerBound
    while let run = try old.peek() {
      let other = try new?.peek()
      var end = min(run.extent.end, other?.extent.end ?? range.upperBound)
      let isNewZero = other?.readsZero ?? true
      if !(run.readsZero && isNewZero) {
        end = min(end, (position / Self.stepByteCount + 1) * Self.stepByteCount)
        try keepDifference(position..<end, run.readsZero, isNewZero ? nil : newBase, writer)
      }
      old.advance(end - position)
      if other != nil { new?.advance(end - position) }
      position = end
    }
  }

  /// Compares unit by unit, and writes what differs.
  private func keepDifference(
    _ range: Range<UInt64>, _ isOldZero: Bool, _ newBase: DiskImage?, _ writer: DiskWriter
  ) throws(ImageError) {
    guard !isOldZero else { return try writer.ownZeros(range) }
    let count = Int(range.upperBound - range.lowerBound)
    let old = try image.read(count, at: range.lowerBound)
    let new = try newBase.map { base throws(ImageError) in try base.read(count, at: range.lowerBound) }
    let unit = Int(image.layers[0].map.allocationUnit ?? 65536)
    var start = 0
    while start < count {
      // Up to the next border of a unit of the overlay.
      let end = min(count, start + unit - (Int(range.lowerBound) + start) % unit)
      let part = old.rawBytes.extracting(start..<end)
      let isSame: Bool
      if let new {
        let theirs = new.rawBytes.extracting(start..<end)
        isSame = part.firstDifference(from: theirs) == nil
      } else {
        isSame = part.isAllZero
      }
      if !isSame { try writer.write(part, at: range.lowerBound + UInt64(start)) }
      start = end
    }
  }
}
