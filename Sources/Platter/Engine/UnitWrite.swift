import PlatterCore
import PlatterQCOW2

/// Copies into an image that is there, packing units on all workers. What is there already is replaced.
final class UnitWrite: Sendable {
  private let source: ConvertSource
  private let units: any UnitSource
  private let writer: DiskWriter
  /// The image reads as zeros where nothing was written.
  private let isZero: Bool
  private let options: UnitCopyOptions
  private let unit: UInt64
  private let blockByteCount: UInt64
  private let turnstile = Turnstile()

  /// - Throws: `.invalidArgument` where the image has no packed units.
  init(_ source: ConvertSource, _ writer: DiskWriter, isZero: Bool, _ options: UnitCopyOptions) throws(ImageError) {
    guard let unit = writer.packedUnitByteCount, let codec = writer.map.packedCodec else {
      throw ImageError(.invalidArgument, "Compression not supported for this file format", file: writer.image.name)
    }
    self.source = source
    self.writer = writer
    self.isZero = isZero
    self.unit = unit
    var options = options
    options.packing = UnitPacker.Effort(CompressionEffort(codec == .zstd ? .zstd : .deflate))
    self.options = options
    blockByteCount = source.images.blockByteCount(unit: unit)
    units = source.units(unit: unit, blockByteCount: blockByteCount, skipsZeros: options.skipsZeros, backing: nil)
  }

  func run(_ progress: ProgressCounter) throws(ImageError) {
    if options.skipsZeros, !isZero { try zeroHoles() }
    try turnstile.run(options.workerCount, sharing: units) { [self] stop throws(ImageError) in
      try work(progress, stop)
    }
    if case .pipe(let pipe) = source { try pipe.finish() }
    try progress.add(units.rest())
  }

  /// What the sources' maps say is zero makes no blocks.
  private func zeroHoles() throws(ImageError) {
    var start: UInt64 = 0
    for disk in source.images {
      var cursor = RunCursor(disk, 0..<disk.byteCount)
      while let run = try cursor.peek() {
        let extent = run.extent
        if run.readsZero { try writer.zero(start + extent.start..<start + extent.end, mayUnmap: true) }
        cursor.advance(extent.byteCount)
      }
      start += disk.byteCount
    }
  }

  private func work(_ progress: ProgressCounter, _ stop: StopFlag) throws(ImageError) {
    var reader = try UnitReader(
      units, unit: unit, blockByteCount: blockByteCount, backing: nil, skipsZeros: options.skipsZeros,
      packing: options.packing)
    while !stop.isRaised, var block = try units.next() {
      guard try reader.read(&block) else { return }
      guard block.range.upperBound <= writer.image.byteCount else {
        throw ImageError(
          .invalidArgument, "the target has \(writer.image.byteCount) bytes, but more are to be written",
          file: writer.image.name)
      }
      let verdicts = reader.judge(block)
      if options.isOrdered { guard turnstile.wait(for: block.number) else { return } }
      for (index, verdict) in verdicts.enumerated() {
        try write(verdict, index, of: block, reader.buffer.bytes, reader.packed.bytes)
      }
      if options.isOrdered { turnstile.pass() }
      try progress.add(block.progress)
    }
  }

  private func write(
    _ verdict: UnitVerdict, _ index: Int, of block: UnitBlock, _ plain: RawSpan, _ packed: RawSpan
  ) throws(ImageError) {
    let start = block.range.lowerBound + UInt64(index) * unit
    let end = min(start + unit, block.range.upperBound)
    switch verdict {
    case .nothing, .zero:
      if !isZero { try writer.zero(start..<end, mayUnmap: true) }
    case .packed(let bytes) where end == start + unit || end == writer.image.byteCount:
      guard try writer.writePacked(packed.extracting(bytes), unitStart: start) else {
        throw ImageError(.unsupported, "the image takes no compressed clusters", file: writer.image.name)
      }
    case .packed, .data:
      // What the image has behind the last byte of a source stays.
      let from = index * Int(unit)
      try writer.write(plain.extracting(from..<from + Int(end - start)), at: start)
    }
  }
}

extension UnitPacker.Effort {
  init(_ effort: CompressionEffort) {
    self =
      effort.codec == .zstd
      ? .zstd(level: effort.level) : .deflate(level: effort.level ?? Self.usualDeflateLevel, window: effort.window)
  }
}
