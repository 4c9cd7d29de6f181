import PlatterCodecs
import PlatterCore
import Synchronization

/// How a new image is filled.
struct UnitCopyOptions: Sendable {
  var workerCount: Int
  /// Zeros are left out; else every unit gets its place.
  var skipsZeros = true
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
  /// As large as pieces of a plain copy, or a unit.
  private static let blockByteCount: UInt64 = 256 << 10
  /// Zeros of this length inside a unit are left out where its space reads as zeros.
  private static let zeroByteCount = 4096

  private struct Turn {
    var number: UInt64 = 0
    var isOver = false
  }

  private let sources: [DiskImage]
  private let target: DiskImage
  private let map: any WritableMap
  /// What the target reads where it has nothing of its own; nil for zeros.
  private let backing: DiskImage?
  private let options: UnitCopyOptions
  private let unit: UInt64
  private let blockByteCount: UInt64
  private let plan: Mutex<UnitPlan>
  private let turn = Monitor(Turn())
  private let gate = Mutex(())

  init(_ sources: [DiskImage], _ target: DiskImage, _ map: any WritableMap, _ options: UnitCopyOptions) {
    self.sources = sources
    self.target = target
    self.map = map
    self.options = options
    let layers = Array(target.layers.dropFirst())
    backing = layers.isEmpty ? nil : DiskImage(layers: layers)
    let unit = max(map.allocationUnit ?? map.mapUnit, map.mapUnit)
    self.unit = unit
    // As large as the sources' units too, so that none is decoded twice.
    let decoded = sources.compactMap { $0.layers[0].map.allocationUnit }.filter { $0 <= 2 << 20 }.max() ?? 0
    blockByteCount = max(Self.blockByteCount.dividedRoundingUp(by: unit) * unit, unit, decoded)
    plan = Mutex(
      UnitPlan(
        sources, unit: unit, blockByteCount: blockByteCount, skipsZeros: options.skipsZeros, backing: backing))
  }

  func run(_ progress: ProgressCounter) throws(ImageError) {
    try map.prepareToWrite({})
    try Workers.run(options.workerCount) { [self] _, stop throws(ImageError) in
      do throws(ImageError) {
        try work(progress, stop)
      } catch {
        turn.withLock { $0.isOver = true }
        throw error
      }
    }
    try progress.add(plan.withLock { $0.rest() })
    try map.close({})
  }

  // MARK: One worker

  /// What one unit becomes.
  private enum Verdict {
    case nothing
    case zero
    case data
    /// Packed bytes in the worker's buffer.
    case packed(Range<Int>)
  }

  /// Bytes that have their place but are not written yet.
  private struct Write {
    var store: Int
    var offset: UInt64
    var isPacked: Bool
    var bytes: Range<Int>
    var isSparse: Bool
  }

  private func work(_ progress: ProgressCounter, _ stop: StopFlag) throws(ImageError) {
    let scratch = Scratch()
    var buffer = AlignedBuffer(byteCount: Int(blockByteCount))
    var below = AlignedBuffer(byteCount: backing == nil ? 0 : Int(blockByteCount))
    var packed = AlignedBuffer(byteCount: options.packing == nil ? 0 : Int(blockByteCount))
    let packer: UnitPacker? = if let packing = options.packing { try UnitPacker(packing) } else { nil }
    while !stop.isRaised, let block = try plan.withLock({ plan throws(ImageError) in try plan.next() }) {
      try fill(&buffer, block, scratch)
      if backing != nil { try readBelow(&below, block, scratch) }
      let verdicts = try judge(block, buffer.bytes, below.bytes, packer, &packed)
      guard waitForTurn(block.number) else { return }
      let writes = try place(block, verdicts, &buffer)
      if options.isOrdered { turn.withLock { $0.number += 1 } }
      for write in writes {
        if write.isPacked {
          try self.write(packed.bytes.extracting(write.bytes), write)
        } else {
          try self.write(buffer.bytes.extracting(write.bytes), write)
        }
      }
      try progress.add(block.progress)
    }
  }

  private func unitCount(_ block: UnitBlock) -> Int {
    Int((block.range.upperBound - block.range.lowerBound).dividedRoundingUp(by: unit))
  }

  /// Reads the block; what no run fills is zero, up to the end of its last unit.
  private func fill(_ buffer: inout AlignedBuffer, _ block: UnitBlock, _ scratch: Scratch) throws(ImageError) {
    let byteCount = unitCount(block) * Int(unit)
    try buffer.withMutableBytes { bytes throws(ImageError) in
      var done = 0
      for segment in block.segments {
        let start = Int(segment.offset - block.range.lowerBound)
        let end = start + Int(segment.run.extent.byteCount)
        bytes.zero(done..<start)
        var part = bytes._mutatingExtracting(start..<end)
        try RunReader(image: sources[segment.source]).read(segment.run, into: &part, scratch)
        done = end
      }
      bytes.zero(done..<byteCount)
    }
  }

  private func readBelow(_ buffer: inout AlignedBuffer, _ block: UnitBlock, _ scratch: Scratch) throws(ImageError) {
    guard let backing else { return }
    let byteCount = unitCount(block) * Int(unit)
    let end = min(block.range.upperBound, max(backing.byteCount, block.range.lowerBound))
    let present = Int(end - block.range.lowerBound)
    try buffer.withMutableBytes { bytes throws(ImageError) in
      if present > 0 {
        var part = bytes._mutatingExtracting(0..<present)
        try backing.read(into: &part, at: block.range.lowerBound, scratch)
      }
      bytes.zero(present..<byteCount)
    }
  }

  private func judge(
    _ block: UnitBlock, _ bytes: RawSpan, _ below: RawSpan, _ packer: UnitPacker?, _ packed: inout AlignedBuffer
  ) throws(ImageError) -> [Verdict] {
    var verdicts: [Verdict] = []
    var used = 0
    for index in 0..<unitCount(block) {
      let range = index * Int(unit)..<(index + 1) * Int(unit)
      let content = bytes.extracting(range)
      if backing != nil {
        if content.firstDifference(from: below.extracting(range)) == nil {
          verdicts.append(.nothing)
          continue
        }
        if options.skipsZeros, content.isAllZero {
          verdicts.append(.zero)
          continue
        }
      } else if options.skipsZeros, content.isAllZero {
        verdicts.append(.nothing)
        continue
      }
      guard let packer else {
        verdicts.append(.data)
        continue
      }
      // A unit that does not get smaller is stored as it is.
      let room = used..<used + Int(unit) - 1
      let count = packed.withMutableBytes { packed in packer.pack(content, into: &packed, room) }
      verdicts.append(count.map { .packed(used..<used + $0) } ?? .data)
      used += count ?? 0
    }
    return verdicts
  }

  // MARK: In order

  /// Waits until every block before this one has its places; false when the copy has failed.
  private func waitForTurn(_ number: UInt64) -> Bool {
    guard options.isOrdered else { return true }
    return turn.wait(until: { $0.number == number || $0.isOver }, then: { !$0.isOver })
  }

  /// Takes places for a block's units and links them.
  private func place(_ block: UnitBlock, _ verdicts: [Verdict], _ buffer: inout AlignedBuffer) throws(ImageError)
    -> [Write]
  {
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
        writes.append(
          Write(store: Int(place.store), offset: place.offset, isPacked: true, bytes: bytes, isSparse: false))
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
    guard write.isSparse else { return try put(bytes, write.store, write.offset) }
    // Neighbouring parts that are not zero go in one write.
    var start = 0
    while start < bytes.byteCount {
      var end = start
      while end < bytes.byteCount {
        let next = min(end + Self.zeroByteCount, bytes.byteCount)
        guard !bytes.extracting(end..<next).isAllZero else { break }
        end = next
      }
      if end > start { try put(bytes.extracting(start..<end), write.store, write.offset + UInt64(start)) }
      start = end + Self.zeroByteCount
    }
  }

  private func put(_ bytes: RawSpan, _ index: Int, _ offset: UInt64) throws(ImageError) {
    let store = map.stores[index]
    guard store.serializesWrites else { return try store.write(bytes, at: offset) }
    // As in a plain copy: waiting here costs less than spinning in the kernel.
    try gate.withLock { _ throws(ImageError) in try store.write(bytes, at: offset) }
  }
}

/// Packs units with one codec. Belongs to one worker.
final class UnitPacker {
  enum Effort: Sendable {
    case deflate(level: Int, window: DeflateEncoder.Window)
    case zstd(level: Int)
  }

  private let deflate: DeflateEncoder?
  private let zstd: ZstdEncoder?

  /// - Throws: `.unsupported` where this build was made without the codec.
  init(_ effort: Effort) throws(ImageError) {
    switch effort {
    case .deflate(let level, let window):
      deflate = DeflateEncoder(level: level, window: window)
      zstd = nil
    case .zstd(let level):
      try PackedCodec.zstd.requireSupport()
      deflate = nil
      zstd = ZstdEncoder(level: level)
    }
  }

  /// Bytes written to `room` of `target`; nil where they would not fit.
  func pack(_ bytes: RawSpan, into target: inout MutableRawSpan, _ room: Range<Int>) -> Int? {
    var part = target._mutatingExtracting(room)
    return deflate?.encode(bytes, into: &part) ?? zstd?.encode(bytes, into: &part)
  }
}
