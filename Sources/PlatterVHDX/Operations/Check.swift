package import PlatterCore

extension VHDXMap {
  /// Looks at both copies of headers and region tables, at every BAT entry, and at who owns which MiB of the file.
  ///
  /// Cost: one reading of the BAT, and a bit of memory for each MiB of the file.
  package func check(workers: Int, progress: @escaping @Sendable (Double) -> Bool) throws(ImageError) -> CheckReport {
    try naming(store.name) { () throws(ImageError) in
      var audit = Audit(self)
      audit.checkCopies()
      try audit.checkEntries(progress)
      try audit.findLeaks()
      return audit.report
    }
  }

  /// What a BAT entry is for.
  enum EntryRole {
    case payload(block: UInt64)
    case bitmap(chunk: UInt64)
    /// Behind the last block of a differencing file's last chunk.
    case unused
  }

  func role(ofEntry index: UInt64) -> EntryRole {
    let (chunk, place) = index.quotientAndRemainder(dividingBy: geometry.chunkRatio + 1)
    guard place < geometry.chunkRatio else { return .bitmap(chunk: chunk) }
    let block = index - chunk
    return block < geometry.blockCount ? .payload(block: block) : .unused
  }
}

/// One check at work.
private struct Audit {
  let map: VHDXMap
  var report = CheckReport()
  /// A bit for each MiB of the file that a structure or a block owns.
  var owned: BitSet
  /// Place of the payload block seen before, to count jumps.
  private var previousEnd: UInt64?
  private var lowestBlock = UInt64.max
  private var chunkHasPartialBlocks = false
  private var hasReservedSpace = false

  init(_ map: VHDXMap) {
    self.map = map
    let known = min(map.fileByteCount, ReplayPlan.maximumFileByteCount)
    owned = BitSet(count: Int(known.dividedRoundingUp(by: Header.megabyte)))
    owned.insert(0..<min(1, owned.count))
    for range in map.reservedRanges { owned.insert(megabytes(range.lowerBound, range.upperBound - range.lowerBound)) }
    report.totalClusters = map.geometry.blockCount
    report.allocatedClusters = 0
    report.fragmentedClusters = 0
    report.compressedClusters = 0
    report.imageEndOffset = map.reservedRanges.last?.upperBound
  }

  private mutating func corrupt(_ message: String) {
    report.corruptions += 1
    report.say(message)
  }

  mutating func checkCopies() {
    for fault in map.headers.faults + map.regions.faults {
      if let fault { corrupt(fault) }
    }
    for range in map.reservedRanges where range.upperBound > map.fileByteCount {
      corrupt(
        "the log or a region (\(range.lowerBound.hex)..<\(range.upperBound.hex)) lies past the end of the file "
          + "(\(map.fileByteCount.hex))")
    }
  }

  mutating func checkEntries(_ progress: (Double) -> Bool) throws(ImageError) {
    let count = map.geometry.entryCount
    var first: UInt64 = 0
    while first < count {
      let slice = try map.tableSlice(first / VHDXMap.entriesPerSlice)
      for (place, rawValue) in slice.enumerated() { check(BlockEntry(rawValue: rawValue), at: first + UInt64(place)) }
      first += UInt64(slice.count)
      guard progress(Double(first) / Double(count)) else { throw ImageError(.cancelled, "the check was cancelled") }
    }
  }

  private mutating func check(_ entry: BlockEntry, at index: UInt64) {
    switch map.role(ofEntry: index) {
    case .payload(let block):
      if index % (map.geometry.chunkRatio + 1) == 0 { chunkHasPartialBlocks = false }
      checkPayload(entry, block: block, at: index)
    case .bitmap(let chunk):
      checkBitmap(entry, chunk: chunk, at: index)
    case .unused:
      if entry.rawValue != 0 { corrupt("BAT entry \(index) is \(entry.rawValue.hex), but belongs to no block") }
    }
  }

  private mutating func checkPayload(_ entry: BlockEntry, block: UInt64, at index: UInt64) {
    do throws(ImageError) {
      switch try map.state(of: entry, block: block) {
      case .zero where entry.offset != 0:
        corrupt("BAT entry \(index) (block \(block)) is zero, but has place \(entry.offset.hex)")
      case .notPresent, .zero: break
      case .undefined, .unmapped, .unmappedOld:
        if entry.offset != 0 { hasReservedSpace = true }
      case .fullyPresent: try take(entry, block: block)
      case .partiallyPresent:
        chunkHasPartialBlocks = true
        try take(entry, block: block)
      }
    } catch {
      corrupt(error.message)
    }
  }

  private mutating func take(_ entry: BlockEntry, block: UInt64) throws(ImageError) {
    let offset = try map.payloadOffset(of: entry, block: block)
    own(offset, map.geometry.blockByteCount, "block \(block)")
    report.allocatedClusters? += 1
    if let previousEnd, previousEnd != offset { report.fragmentedClusters? += 1 }
    previousEnd = offset + map.geometry.blockByteCount
    lowestBlock = min(lowestBlock, offset)
  }

  private mutating func checkBitmap(_ entry: BlockEntry, chunk: UInt64, at index: UInt64) {
    let name = "BAT entry \(index) (sector bitmap \(chunk))"
    guard entry.rawValue & 7 == 6 else {
      if entry.rawValue & 7 != 0 || entry.hasReservedBits {
        corrupt("\(name) is \(entry.rawValue.hex), which has a reserved state or reserved bits")
      } else if chunkHasPartialBlocks {
        corrupt("\(name) is not present, but blocks of the chunk are partially present")
      }
      return
    }
    guard map.metadata.hasParent else { return corrupt("\(name) is present, but the file has no parent") }
    do throws(ImageError) {
      let offset = try map.bitmapOffset(of: entry, chunk: chunk)
      own(offset, BlockGeometry.bitmapBlockByteCount, "sector bitmap \(chunk)")
      if !chunkHasPartialBlocks { report.say("\(name) is present, but no block of the chunk needs it") }
    } catch {
      corrupt(error.message)
    }
  }

  /// Notes that a block owns a part of the file, which nobody else may.
  private mutating func own(_ offset: UInt64, _ byteCount: UInt64, _ name: String) {
    let range = megabytes(offset, byteCount)
    if let taken = owned.firstMember(in: range) {
      corrupt("\(name) at \(offset.hex) shares the MiB at \((UInt64(taken) << 20).hex) with another block")
    }
    owned.insert(range)
    report.imageEndOffset = max(report.imageEndOffset ?? 0, offset + byteCount)
  }

  /// The MiB that a range covers, as far as the file goes.
  private func megabytes(_ offset: UInt64, _ byteCount: UInt64) -> Range<Int> {
    let end = (offset.adding(byteCount) ?? .max).dividedRoundingUp(by: Header.megabyte)
    let count = UInt64(owned.count)
    return Int(min(offset / Header.megabyte, count))..<Int(min(end, count))
  }

  /// Finds room for whole blocks, behind the first block, that nobody owns. Gaps before it are how files are laid out.
  mutating func findLeaks() throws(ImageError) {
    guard lowestBlock != .max else { return }
    if hasReservedSpace { try ownReservedSpace() }
    let blockMegabytes = Int(map.geometry.blockByteCount / Header.megabyte)
    var position = Int(lowestBlock / Header.megabyte)
    while let start = owned.firstNonMember(in: position..<owned.count) {
      let end = owned.firstMember(in: start..<owned.count) ?? owned.count
      let blocks = (end - start) / blockMegabytes
      if blocks > 0 {
        report.leaks += blocks
        report.say("\(end - start) MiB at \((UInt64(start) << 20).hex) belong to nothing")
      }
      position = end
    }
  }

  /// Blocks that read as zeros may keep their place; it is theirs, though not worth a complaint when it is not.
  private mutating func ownReservedSpace() throws(ImageError) {
    var index: UInt64 = 0
    while index < map.geometry.entryCount {
      let slice = try map.tableSlice(index / VHDXMap.entriesPerSlice)
      for rawValue in slice {
        let entry = BlockEntry(rawValue: rawValue)
        if [.undefined, .unmapped, .unmappedOld].contains(entry.state) {
          owned.insert(megabytes(entry.offset, map.geometry.blockByteCount))
        }
      }
      index += UInt64(slice.count)
    }
  }
}

/// Small whole numbers, a bit each.
private struct BitSet {
  let count: Int
  private var words: [UInt64]

  init(count: Int) {
    self.count = count
    words = [UInt64](repeating: 0, count: (count + 63) / 64)
  }

  mutating func insert(_ range: Range<Int>) {
    for index in range { words[index / 64] |= 1 << UInt64(index % 64) }
  }

  func firstMember(in range: Range<Int>) -> Int? { first(in: range, flip: 0) }
  func firstNonMember(in range: Range<Int>) -> Int? { first(in: range, flip: .max) }

  private func first(in range: Range<Int>, flip: UInt64) -> Int? {
    var index = range.lowerBound
    while index < range.upperBound {
      let bits = (words[index / 64] ^ flip) >> UInt64(index % 64)
      if bits != 0 {
        let found = index + bits.trailingZeroBitCount
        return found < range.upperBound ? found : nil
      }
      index = (index / 64 + 1) * 64
    }
    return nil
  }
}
