import PlatterCore
import Synchronization

/// Sends a new image in order to somebody who cannot seek, without a temporary file.
///
/// Its tables come first, so everything must be known of what follows: a first pass over the sources finds out what becomes
/// of each unit, and packs those that are to be packed, only to see how small they get. A second pass does it again and
/// sends. Memory: the record of the first pass, and a block or two for each worker.
final class UnitStream: Sendable {
  private let sources: [DiskImage]
  private let backing: DiskImage?
  private let image: any StreamedImage
  private let options: UnitCopyOptions
  private let unit: UInt64
  private let blockByteCount: UInt64

  init(_ sources: [DiskImage], _ image: any StreamedImage, backing: DiskImage?, _ options: UnitCopyOptions) {
    self.sources = sources
    self.image = image
    var options = options
    // Units that are all there have no room to say "as the image below".
    self.backing = image.takesAll ? nil : backing
    if image.takesAll { options.skipsZeros = false }
    self.options = options
    unit = image.unitByteCount
    blockByteCount = sources.blockByteCount(unit: unit)
  }

  /// - Parameter progress: told of all bytes twice.
  func run(to stream: OutputStream, _ progress: ProgressCounter) throws(ImageError) {
    let units = try UnitSurvey(
      sources, image, backing: backing, options, unit: unit, blockByteCount: blockByteCount
    ).run(progress)
    let layout = try image.layOut(units)
    try layout.sendHead { bytes throws(ImageError) in try stream.write(bytes) }
    try sendPacked(units, layout, to: stream, progress)
    try sendPlain(units, layout, to: stream, progress)
    try progress.add(progress.rest)
  }

  private func reader(_ units: RecordedUnits, packing: UnitPacker.Effort?) throws(ImageError) -> UnitReader {
    try UnitReader(
      units, unit: unit, blockByteCount: blockByteCount, backing: nil, skipsZeros: false, packing: packing)
  }

  private func sendPacked(
    _ units: UnitRecord, _ layout: any StreamedLayout, to stream: OutputStream, _ progress: ProgressCounter
  ) throws(ImageError) {
    let source = RecordedUnits(units, .packed, sources, unit: unit, blockByteCount: blockByteCount)
    let turnstile = Turnstile()
    let places = Mutex(layout.places)
    try turnstile.run(options.workerCount) { [self] _, stop throws(ImageError) in
      var reader = try reader(source, packing: options.packing)
      while !stop.isRaised, var block = try source.next() {
        _ = try reader.read(&block)
        let ends = try pack(block, &reader)
        guard turnstile.wait(for: block.number) else { return }
        try places.withLock { places throws(ImageError) in
          try send(reader.packed.bytes, ends, &places, to: stream)
        }
        turnstile.pass()
        try progress.add(block.progress)
      }
    }
    let end = places.withLock { $0.end }
    try stream.writeZeros(layout.plainOffset - end)
  }

  /// Packs the units of a block as in the first pass.
  /// - Returns: where each ends in the reader's buffer.
  /// - Throws: `.io` where one has another size now.
  private func pack(_ block: UnitBlock, _ reader: inout UnitReader) throws(ImageError) -> [Int] {
    var ends: [Int] = []
    var used = 0
    for (index, expected) in block.packedByteCounts.enumerated() {
      let count = reader.pack(index * Int(unit)..<(index + 1) * Int(unit), at: used)
      guard count == expected else {
        let start = block.range.lowerBound + UInt64(index) * unit
        throw ImageError(
          .io,
          "the source changed while it was read: the unit at guest byte \(start) has \(count ?? Int(unit)) packed bytes, "
            + "\(expected) before")
      }
      used += expected
      ends.append(used)
    }
    return ends
  }

  /// Sends packed units, with the gaps that their places ask for.
  private func send(
    _ bytes: RawSpan, _ ends: [Int], _ places: inout PackedPlaces, to stream: OutputStream
  ) throws(ImageError) {
    var start = 0
    var sent = 0
    for end in ends {
      let position = places.end
      let gap = places.next(byteCount: end - start) - position
      if gap > 0 {
        try stream.write(bytes.extracting(sent..<start))
        try stream.writeZeros(gap)
        sent = start
      }
      start = end
    }
    try stream.write(bytes.extracting(sent..<start))
  }

  private func sendPlain(
    _ units: UnitRecord, _ layout: any StreamedLayout, to stream: OutputStream, _ progress: ProgressCounter
  ) throws(ImageError) {
    let source = RecordedUnits(units, .plain, sources, unit: unit, blockByteCount: blockByteCount)
    let turnstile = Turnstile()
    try turnstile.run(options.workerCount) { [self] _, stop throws(ImageError) in
      var reader = try reader(source, packing: nil)
      while !stop.isRaised, var block = try source.next() {
        _ = try reader.read(&block)
        let count = reader.unitCount(block) * Int(unit)
        if let cipher = image.cipher {
          let host = layout.plainOffset + block.ordinal * unit
          try reader.buffer.withMutableBytes { bytes throws(ImageError) in
            var part = bytes._mutatingExtracting(0..<count)
            try cipher.encrypt(&part, guestOffset: block.range.lowerBound, hostOffset: host)
          }
        }
        guard turnstile.wait(for: block.number) else { return }
        try stream.write(reader.buffer.bytes.extracting(0..<count))
        turnstile.pass()
        try progress.add(block.progress)
      }
    }
  }
}

/// The first pass: what becomes of every unit.
private final class UnitSurvey: Sendable {
  private let source: DiskUnits
  private let image: any StreamedImage
  private let backing: DiskImage?
  private let options: UnitCopyOptions
  private let unit: UInt64
  private let blockByteCount: UInt64
  private let unitCount: UInt64
  private let turnstile = Turnstile()
  private let record = Mutex(UnitRecord())

  init(
    _ sources: [DiskImage], _ image: any StreamedImage, backing: DiskImage?, _ options: UnitCopyOptions, unit: UInt64,
    blockByteCount: UInt64
  ) {
    self.image = image
    self.backing = backing
    self.options = options
    self.unit = unit
    self.blockByteCount = blockByteCount
    source = DiskUnits(
      sources, unit: unit, blockByteCount: blockByteCount, skipsZeros: options.skipsZeros, backing: backing)
    unitCount = sources.totalByteCount.dividedRoundingUp(by: unit)
  }

  func run(_ progress: ProgressCounter) throws(ImageError) -> UnitRecord {
    try turnstile.run(options.workerCount) { [self] _, stop throws(ImageError) in try work(progress, stop) }
    try progress.add(source.rest())
    return record.withLock { record in
      record.append(.absent, count: unitCount - record.unitCount)
      return record
    }
  }

  private func work(_ progress: ProgressCounter, _ stop: StopFlag) throws(ImageError) {
    var reader = try UnitReader(
      source, unit: unit, blockByteCount: blockByteCount, backing: backing, skipsZeros: options.skipsZeros,
      gapByteCount: options.gapByteCount, packing: options.packing)
    while !stop.isRaised, var block = try source.next() {
      let verdicts: [UnitVerdict]
      if isKnown(block) {
        verdicts = [UnitVerdict](repeating: .data, count: reader.unitCount(block))
      } else {
        _ = try reader.read(&block)
        verdicts = reader.judge(block)
      }
      guard turnstile.wait(for: block.number) else { return }
      note(block, verdicts)
      turnstile.pass()
      try progress.add(block.progress)
    }
  }

  /// Whether nothing is learnt by reading: where units keep their size, one that somebody has packed is hardly zero.
  private func isKnown(_ block: UnitBlock) -> Bool {
    guard options.packing == nil, backing == nil else { return false }
    if !options.skipsZeros { return true }
    var packed: UInt64 = 0
    for segment in block.segments where segment.run.extent.kind == .packed { packed += segment.run.extent.byteCount }
    return packed == block.range.upperBound - block.range.lowerBound
  }

  private func note(_ block: UnitBlock, _ verdicts: [UnitVerdict]) {
    let first = block.range.lowerBound / unit
    record.withLock { record in
      if record.unitCount < first { record.append(.absent, count: first - record.unitCount) }
      for verdict in verdicts {
        switch verdict {
        case .nothing: record.append(.absent)
        case .zero: record.append(image.saysZero ? .zero : .plain)
        case .data: record.append(.plain)
        case .packed(let bytes): record.appendPacked(byteCount: bytes.count)
        }
      }
    }
  }
}

/// The units of one kind that a record names, for the second pass.
private final class RecordedUnits: UnitSource {
  private struct State {
    var cursor: UnitRecord.Cursor
    var run: UnitRecord.Run?
    var number: UInt64 = 0
    var ordinal: UInt64 = 0
  }

  private let kind: UnitRecord.Kind
  private let sources: [DiskImage]
  private let unit: UInt64
  private let blockUnitCount: UInt64
  private let total: UInt64
  private let state: Mutex<State>

  init(
    _ record: UnitRecord, _ kind: UnitRecord.Kind, _ sources: [DiskImage], unit: UInt64, blockByteCount: UInt64
  ) {
    self.kind = kind
    self.sources = sources
    self.unit = unit
    blockUnitCount = blockByteCount / unit
    total = sources.totalByteCount
    state = Mutex(State(cursor: record.cursor()))
  }

  func next() throws(ImageError) -> UnitBlock? {
    state.withLock { state in
      guard let first = run(&state) else { return nil }
      var block = UnitBlock(number: state.number)
      block.ordinal = state.ordinal
      let end = (first.first / blockUnitCount + 1) * blockUnitCount
      var position = first.first
      while position < end, let next = run(&state), next.first == position {
        let count = min(next.count, end - position)
        if kind == .packed { block.packedByteCounts.append(next.byteCount) }
        position += count
        state.run = count < next.count ? UnitRecord.Run(kind: kind, first: position, count: next.count - count) : nil
      }
      block.range = first.first * unit..<min(position * unit, total)
      block.progress = block.range.upperBound - block.range.lowerBound
      state.number += 1
      state.ordinal += position - first.first
      return block
    }
  }

  /// The run of this kind that is next.
  private func run(_ state: inout State) -> UnitRecord.Run? {
    while state.run == nil, let next = state.cursor.next() {
      if next.kind == kind { state.run = next }
    }
    return state.run
  }

  func read(_ block: inout UnitBlock, into bytes: inout MutableRawSpan, _ scratch: Scratch) throws(ImageError) -> Bool {
    var start: UInt64 = 0
    let range = block.range
    for source in sources {
      let end = start + source.byteCount
      let from = max(start, range.lowerBound)
      let to = min(end, range.upperBound)
      if from < to {
        var part = bytes._mutatingExtracting(Int(from - range.lowerBound)..<Int(to - range.lowerBound))
        try source.read(into: &part, at: from - start, scratch)
      }
      start = end
    }
    bytes.zero(Int(range.upperBound - range.lowerBound)..<bytes.byteCount)
    return true
  }
}
