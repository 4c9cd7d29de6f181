import PlatterCore
import Synchronization

/// How a new image is filled.
struct UnitCopyOptions: Sendable {
  var workerCount: Int
  /// Zeros are left out; else every unit gets its place.
  var skipsZeros = true
  /// Shortest gap that zeros among data leave; a unit where that is longer.
  var gapByteCount: UInt64 = 0
  /// Places follow the guest's order, so that the file is the same on every run.
  var isOrdered = true
  /// Pack units with this effort; nil for plain ones.
  var packing: UnitPacker.Effort?
}

/// Fills a new image that nobody else sees yet: workers read, decode, look for zeros and pack in parallel; places are taken
/// in guest order, in memory; data is written outside the order.
///
/// Since the file is not in use until it is complete, a place may be linked before its bytes are written: a failure throws
/// the whole file away. The tables thus come out in the same order as the data, whoever is faster.
final class UnitCopy: Sendable {
  /// Shortest zeros inside a unit that are left out where its space reads as zeros.
  private static let minimumZeroByteCount: UInt64 = 4096
  private let zeroByteCount: Int

  private let source: ConvertSource
  private let units: any UnitSource
  private let target: DiskImage
  private let map: any WritableMap
  /// What the target reads where it has nothing of its own; nil for zeros.
  private let backing: DiskImage?
  private let options: UnitCopyOptions
  private let unit: UInt64
  private let blockByteCount: UInt64
  private let turnstile = Turnstile()

  init(_ source: ConvertSource, _ target: DiskImage, _ map: any WritableMap, _ options: UnitCopyOptions) {
    self.source = source
    self.target = target
    self.map = map
    var options = options
    // A disk of unknown size has to grow, with nobody else at the map.
    if source.images.isEmpty { options.isOrdered = true }
    self.options = options
    zeroByteCount = max(Int(Self.minimumZeroByteCount), GapRule.step(ofGap: Int(options.gapByteCount)))
    backing = target.belowTop
    let unit = max(map.allocationUnit ?? map.mapUnit, map.mapUnit)
    self.unit = unit
    blockByteCount = source.images.blockByteCount(unit: unit)
    units = source.units(
      unit: unit, blockByteCount: blockByteCount, skipsZeros: options.skipsZeros, backing: backing)
  }

  func run(_ progress: ProgressCounter) throws(ImageError) {
    try map.prepareToWrite({})
    try turnstile.run(options.workerCount, sharing: units) { [self] stop throws(ImageError) in
      try work(progress, stop)
    }
    if case .pipe(let pipe) = source {
      try pipe.finish()
      if pipe.byteCount == nil { try map.resize(to: pipe.wholeByteCount, {}) }
    }
    try progress.add(units.rest())
    try map.close({})
  }

  // MARK: One worker

  /// Bytes that have their place but are not written yet.
  private struct Write {
    var store: Int
    var offset: UInt64
    var isPacked: Bool
    var bytes: Range<Int>
    var isSparse: Bool
  }

  private func work(_ progress: ProgressCounter, _ stop: StopFlag) throws(ImageError) {
    var reader = try UnitReader(
      units, unit: unit, blockByteCount: blockByteCount, backing: backing, skipsZeros: options.skipsZeros,
      gapByteCount: options.gapByteCount, packing: options.packing)
    while !stop.isRaised, var block = try units.next() {
      guard try reader.read(&block) else { return }
      let verdicts = reader.judge(block)
      guard waitForTurn(block.number) else { return }
      let writes = try place(block, verdicts, &reader.buffer)
      if options.isOrdered { turnstile.pass() }
      for write in writes {
        if write.isPacked {
          try self.write(reader.packed.bytes.extracting(write.bytes), write)
        } else {
          try self.write(reader.buffer.bytes.extracting(write.bytes), write)
        }
      }
      try progress.add(block.progress)
    }
  }

  // MARK: In order

  /// Waits until every block before this one has its places; false when the copy has failed.
  private func waitForTurn(_ number: UInt64) -> Bool {
    guard options.isOrdered else { return true }
    return turnstile.wait(for: number)
  }

  /// Takes places for a block's units and links them.
  private func place(_ block: UnitBlock, _ verdicts: [UnitVerdict], _ buffer: inout AlignedBuffer) throws(ImageError)
    -> [Write]
  {
    if block.range.upperBound > map.byteCount { try grow(toCover: block.range.upperBound) }
    var writes: [Write] = []
    var index = 0
    while index < verdicts.count {
      let start = block.range.lowerBound + UInt64(index) * unit
      switch verdicts[index] {
      case .nothing: index += 1
      case .zero:
        let end = min(start + unit, map.byteCount)
        if try map.release(start..<end, as: .zero) == .cannot {
          try placeData(start..<end, block, &buffer, &writes)
        }
        index += 1
      case .packed(let bytes):
        guard let place = try map.allocatePacked(unitStart: start, byteCount: bytes.count) else {
          throw ImageError(.unsupported, "the image takes no compressed clusters", file: target.name)
        }
        try map.link(place)
        append(
          Write(store: Int(place.store), offset: place.offset, isPacked: true, bytes: bytes, isSparse: false), &writes)
        index += 1
      case .data:
        var last = index
        while last + 1 < verdicts.count, case .data = verdicts[last + 1] { last += 1 }
        let end = min(block.range.lowerBound + UInt64(last + 1) * unit, map.byteCount)
        try placeData(start..<end, block, &buffer, &writes)
        index = last + 1
      }
    }
    if map.mustPublishSoon { try map.publish({}) }
    return writes
  }

  /// Packed units that lie one behind the other, in memory and in the file, go in one write.
  private func append(_ write: Write, _ writes: inout [Write]) {
    if let last = writes.last, last.isPacked, last.store == write.store,
      last.bytes.upperBound == write.bytes.lowerBound,
      last.offset + UInt64(last.bytes.count) == write.offset
    {
      writes[writes.count - 1].bytes = last.bytes.lowerBound..<write.bytes.upperBound
    } else {
      writes.append(write)
    }
  }

  /// A disk whose size is not known yet gets a larger one: twice as large, so that tables seldom move.
  private func grow(toCover end: UInt64) throws(ImageError) {
    let doubled = min(map.byteCount.multiplied(by: 2) ?? .max, UInt64(Int64.max))
    try map.resize(to: max(end, doubled), {})
  }

  private func placeData(
    _ range: Range<UInt64>, _ block: UnitBlock, _ buffer: inout AlignedBuffer, _ writes: inout [Write]
  ) throws(ImageError) {
    var position = range.lowerBound
    while position < range.upperBound {
      let place = try map.allocate(position..<range.upperBound)
      try map.link(place)
      let start = Int(position - block.range.lowerBound)
      let bytes = start..<start + Int(place.byteCount)
      if place.cipher > 0 {
        let cipher = map.ciphers[Int(place.cipher) - 1]
        try buffer.withMutableBytes { all throws(ImageError) in
          var part = all._mutatingExtracting(bytes)
          try cipher.encrypt(&part, guestOffset: place.start, hostOffset: place.offset)
        }
      }
      writes.append(
        Write(
          store: Int(place.store), offset: place.offset, isPacked: false, bytes: bytes,
          isSparse: options.skipsZeros && place.cipher == 0 && place.fill == .readsZero))
      position = place.range.upperBound
    }
  }

  // MARK: Writing

  private func write(_ bytes: RawSpan, _ write: Write) throws(ImageError) {
    let store = map.stores[write.store]
    guard write.isSparse else { return try store.write(bytes, at: write.offset) }
    // Neighbouring parts that are not zero go in one write.
    var start = 0
    while start < bytes.byteCount {
      var end = start
      while end < bytes.byteCount {
        let next = min(end + zeroByteCount, bytes.byteCount)
        guard !bytes.extracting(end..<next).isAllZero else { break }
        end = next
      }
      if end > start { try store.write(bytes.extracting(start..<end), at: write.offset + UInt64(start)) }
      start = end + zeroByteCount
    }
  }
}
