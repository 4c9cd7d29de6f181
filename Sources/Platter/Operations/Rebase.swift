package import PlatterCore

/// Gives an overlay another backing image.
package struct Rebase {
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
  package var cache = OpenOptions.CacheMode.writeback
  /// What must become the overlay's own is stored compressed, where that is smaller.
  package var isCompressed = false
  /// Zeros that must become the overlay's own are written as bytes, as qemu-img 7.2 does; else they take no space.
  package var writesZeros = false
  /// The overlay's allocation unit.
  private let unit: UInt64
  /// Guest bytes that are compared at once: whole units, and two such buffers fit a processor's cache.
  private let stepByteCount: UInt64

  /// - Parameters:
  ///   - image: the overlay, opened for writing; with its chain, unless only the name is to change.
  ///   - backing: nil for none.
  package init(_ image: DiskImage, onto backing: Backing?) {
    self.image = image
    self.backing = backing
    unit = image.layers[0].map.allocationUnit ?? 65536
    stepByteCount = Piece.byteCount.dividedRoundingUp(by: unit) * unit
  }

  /// Changes only what the overlay names; the caller knows that both have the same content.
  package func renameOnly() throws(ImageError) {
    let writer = try DiskWriter(image, cache: cache)
    try writer.closing { () throws(ImageError) in try rename(writer) }
  }

  private func rename(_ writer: DiskWriter) throws(ImageError) {
    try writer.setBacking(backing?.name, format: backing?.format)
  }

  /// Copies into the overlay what would read differently over the new backing image, then changes the name.
  /// - Parameter newBase: the new backing image with its chain; nil for none.
  package func run(newBase: DiskImage?, progress: ProgressHandler? = nil) throws(ImageError) {
    let writer = try DiskWriter(image, cache: cache, writesMuch: true)
    guard !isCompressed || writer.packedUnitByteCount != nil else {
      throw .invalidArgument("Compression not supported for this file format").named(image.name)
    }
    try writer.closing { () throws(ImageError) in
      try keep(newBase, writer, ProgressCounter(total: image.byteCount, progress))
      try writer.flush()
      try rename(writer)
    }
  }

  /// Makes the overlay's own what differs.
  private func keep(_ newBase: DiskImage?, _ writer: DiskWriter, _ counter: ProgressCounter) throws(ImageError) {
    var buffers = Buffers(byteCount: Int(stepByteCount))
    // The overlay alone: absent is what its backing image shows through.
    var own = RunCursor(DiskImage(layers: [image.layers[0]]), 0..<image.byteCount)
    while let run = try own.peek() {
      let range = run.extent.start..<run.extent.end
      if run.extent.kind == .absent { try keep(range, newBase, writer, &buffers) }
      own.advance(range.upperBound - range.lowerBound)
      try counter.add(range.upperBound - range.lowerBound)
    }
  }

  /// Makes the overlay's own what differs in a range that it does not have.
  private func keep(
    _ range: Range<UInt64>, _ newBase: DiskImage?, _ writer: DiskWriter, _ buffers: inout Buffers
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
        let isInsideOld = image.layers.count > 1 && position < image.layers[1].map.byteCount
        let isOldZero = run.readsZero && !(writesZeros && isInsideOld)
        end = min(end, (position / stepByteCount + 1) * stepByteCount)
        if isCompressed, let whole = wholeUnit(at: position, in: range) {
          // A packed unit is written once, so it is looked at whole.
          end = whole.upperBound
          try keepDifference(whole, false, newBase, writer, &buffers)
        } else {
          try keepDifference(position..<end, isOldZero, isNewZero ? nil : newBase, writer, &buffers)
        }
      }
      try old.advance(to: end)
      try new?.advance(to: end)
      position = end
    }
  }

  /// The unit that holds `position`, where the overlay has nothing of it.
  private func wholeUnit(at position: UInt64, in range: Range<UInt64>) -> Range<UInt64>? {
    let start = position / unit * unit
    let end = min(start + unit, image.byteCount)
    return start >= range.lowerBound && end <= range.upperBound ? start..<end : nil
  }

  private struct Buffers: ~Copyable {
    var old: AlignedBuffer
    var new: AlignedBuffer
    let scratch = Scratch()

    init(byteCount: Int) {
      old = AlignedBuffer(byteCount: byteCount)
      new = AlignedBuffer(byteCount: byteCount)
    }
  }

  /// Compares unit by unit, and writes what differs, neighbours in one write.
  private func keepDifference(
    _ range: Range<UInt64>, _ isOldZero: Bool, _ newBase: DiskImage?, _ writer: DiskWriter, _ buffers: inout Buffers
  ) throws(ImageError) {
    guard !isOldZero else { return try writer.ownZeros(range) }
    let count = Int(range.upperBound - range.lowerBound)
    try Self.fill(&buffers.old, image, range, buffers.scratch)
    if let newBase { try Self.fill(&buffers.new, newBase, range, buffers.scratch) }
    let old = buffers.old.bytes
    let new = buffers.new.bytes
    var differing = 0..<0
    var start = 0
    while start < count {
      // Up to the next border of a unit of the overlay.
      let end = min(count, start + Int(unit - (range.lowerBound + UInt64(start)) % unit))
      let part = old.extracting(start..<end)
      let isSame = newBase == nil ? part.isAllZero : part.firstDifference(from: new.extracting(start..<end)) == nil
      if !isSame {
        if differing.upperBound < start || differing.isEmpty {
          try write(old, differing, range.lowerBound, writer)
          differing = start..<end
        } else {
          differing = differing.lowerBound..<end
        }
      }
      start = end
    }
    try write(old, differing, range.lowerBound, writer)
  }

  private func write(
    _ bytes: RawSpan, _ part: Range<Int>, _ offset: UInt64, _ writer: DiskWriter
  ) throws(ImageError) {
    guard !part.isEmpty else { return }
    let start = offset + UInt64(part.lowerBound)
    let bytes = bytes.extracting(part)
    // Compressed ones come unit by unit.
    let isWhole = start % unit == 0 && (UInt64(part.count) == unit || start + UInt64(part.count) == image.byteCount)
    guard isCompressed, isWhole else { return try writer.write(bytes, at: start) }
    if bytes.isAllZero {
      try writer.ownZeros(start..<start + UInt64(part.count))
    } else {
      try writer.writeCompressed(bytes, at: start)
    }
  }

  private static func fill(
    _ buffer: inout AlignedBuffer, _ image: DiskImage, _ range: Range<UInt64>, _ scratch: Scratch
  ) throws(ImageError) {
    let count = Int(range.upperBound - range.lowerBound)
    // Behind its end an image below reads as zeros.
    let present = Int(min(image.byteCount, range.upperBound) - min(image.byteCount, range.lowerBound))
    try buffer.withMutableBytes { bytes throws(ImageError) in
      bytes.zero(present..<count)
      var part = bytes._mutatingExtracting(0..<present)
      try image.read(into: &part, at: range.lowerBound, scratch)
    }
  }
}
