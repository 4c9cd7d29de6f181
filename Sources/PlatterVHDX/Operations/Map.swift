package import PlatterCore

/// A VHDX file at work. Everything but the two caches is fixed once it is open.
package final class VHDXMap: CheckableMap {
  /// BAT entries, and bytes of a sector bitmap, that are read and kept together.
  static let entriesPerSlice: UInt64 = 8192
  static let bitmapSliceByteCount: UInt64 = 64 << 10
  /// Slices kept: at most 2 MiB each for BAT and bitmaps.
  private static let cachedSliceCount = 32

  package let formatName = VHDX.name
  package let stores: [any ByteStore]
  package let geometry: BlockGeometry
  package let metadata: Metadata
  package let headers: HeaderPair
  package let regions: RegionTablePair
  package let identifier: FileIdentifier
  package let replayedEntryCount: Int
  package let isReplayedInMemory: Bool
  package let backing: BackingReference?

  /// Bytes of the file, grown by the log where it was replayed.
  let fileByteCount: UInt64
  let tableOffset: UInt64
  /// Log and regions, sorted: no block lies in them.
  let reservedRanges: [Range<UInt64>]
  /// The file has holes, so that any block may have some.
  private let isSparse: Bool
  private let tableSlices = TableCache<UInt64, [UInt64]>(capacity: cachedSliceCount)
  private let bitmapSlices = TableCache<UInt64, [UInt8]>(capacity: cachedSliceCount)

  init(_ opened: OpenedFile, _ geometry: BlockGeometry, fileByteCount: UInt64) throws(ImageError) {
    stores = [opened.store]
    self.geometry = geometry
    metadata = opened.metadata
    headers = opened.headers
    regions = opened.regions
    identifier = opened.identifier
    replayedEntryCount = opened.replayedEntryCount
    isReplayedInMemory = opened.isReplayedInMemory
    backing = opened.metadata.parentLocator.map { $0.backingReference }
    self.fileByteCount = fileByteCount
    tableOffset = try opened.regions.table.region(RegionTable.blockAllocationTable, name: "BAT").offset
    reservedRanges = (opened.regions.table.entries.map(\.range) + [opened.headers.current.logRange].compactMap { $0 })
      .sorted { $0.lowerBound < $1.lowerBound }
    isSparse = try opened.store.allocatedByteCount() < fileByteCount
  }

  package var byteCount: UInt64 { geometry.diskByteCount }
  package var allocationUnit: UInt64? { geometry.blockByteCount }
  var store: any ByteStore { stores[0] }

  package func map(_ range: Range<UInt64>, limit: Int, into extents: inout [Extent]) throws(ImageError) -> UInt64 {
    try naming(store.name) { () throws(ImageError) in
      var runs = RunList(appendingTo: extents, limit: limit)
      extents = []
      defer { extents = runs.extents }
      return try mapBlocks(range, into: &runs)
    }
  }

  /// Maps block by block up to the end of a BAT slice, so that one call's work is bounded.
  private func mapBlocks(_ range: Range<UInt64>, into runs: inout RunList) throws(ImageError) -> UInt64 {
    var position = range.lowerBound
    let sliceIndex = geometry.entryIndex(ofBlock: position / geometry.blockByteCount) / Self.entriesPerSlice
    let slice = try tableSlice(sliceIndex)
    while position < range.upperBound {
      let block = position / geometry.blockByteCount
      let index = geometry.entryIndex(ofBlock: block)
      guard index / Self.entriesPerSlice == sliceIndex else { break }
      let entry = BlockEntry(rawValue: slice[Int(index % Self.entriesPerSlice)])
      let part = position..<min((block + 1) * geometry.blockByteCount, range.upperBound)
      let done = try map(part, ofBlock: block, entry, into: &runs)
      position = done
      guard done == part.upperBound else { break }
    }
    return position
  }

  /// Maps a part of one block. Returns the end of what was appended.
  private func map(_ part: Range<UInt64>, ofBlock block: UInt64, _ entry: BlockEntry, into runs: inout RunList)
    throws(ImageError) -> UInt64
  {
    let start = part.lowerBound
    var byteCount = part.upperBound - start
    let run: Extent
    switch try state(of: entry, block: block) {
    case .notPresent:
      run = .absent(start: start, byteCount: byteCount)
    case .undefined, .zero, .unmapped, .unmappedOld:
      run = .zero(start: start, byteCount: byteCount)
    case .fullyPresent:
      let skip = start % geometry.blockByteCount
      byteCount = try presentByteCount(of: entry, block: block, from: skip, wanted: byteCount)
      let offset = entry.offset + skip
      run = .data(start: start, byteCount: byteCount, store: 0, offset: offset, isSparse: isSparse)
    case .partiallyPresent:
      let offset = try payloadOffset(of: entry, block: block)
      return try mapPartial(part, payloadOffset: offset, into: &runs)
    }
    return runs.append(run) ? start + byteCount : start
  }

  /// How much of a payload block's bytes the file has. A file that was cut inside a block has its first sectors, and only
  /// asking for the others is an error.
  private func presentByteCount(of entry: BlockEntry, block: UInt64, from skip: UInt64, wanted: UInt64)
    throws(ImageError) -> UInt64
  {
    let sector = geometry.sectorByteCount
    let present = fileByteCount.subtracting(entry.offset)?.roundedDown(toMultipleOf: sector) ?? 0
    let needed = min(geometry.blockByteCount, geometry.diskByteCount - block * geometry.blockByteCount)
    let isCut = present < needed && present > skip
    try checkPlace(
      entry.offset, whole: geometry.blockByteCount, needed: isCut ? present : needed, entryName(block))
    return isCut ? min(wanted, present - skip) : wanted
  }

  /// Maps a part of a partially present block by its sector bitmap: a set bit is a sector that is here.
  private func mapPartial(_ part: Range<UInt64>, payloadOffset: UInt64, into runs: inout RunList)
    throws(ImageError) -> UInt64
  {
    let sector = geometry.sectorByteCount
    let chunk = part.lowerBound / geometry.chunkByteCount
    let chunkStart = chunk * geometry.chunkByteCount
    let blockStart = part.lowerBound.roundedDown(toMultipleOf: geometry.blockByteCount)
    let bitmap = try entry(at: geometry.entryIndex(ofBitmap: chunk))
    let bitmapOffset = try bitmapOffset(of: bitmap, chunk: chunk)
    let bitsPerSlice = Self.bitmapSliceByteCount * 8
    var position = part.lowerBound
    while position < part.upperBound {
      let bit = (position - chunkStart) / sector
      let sliceStart = bit.roundedDown(toMultipleOf: bitsPerSlice)
      let lastBit = min((part.upperBound - chunkStart).dividedRoundingUp(by: sector), sliceStart + bitsPerSlice)
      let slice = try bitmapSlice(at: bitmapOffset + sliceStart / 8)
      let run = SectorBitmap.run(in: slice, from: Int(bit - sliceStart), to: Int(lastBit - sliceStart))
      let end = min(chunkStart + (sliceStart + UInt64(run.end)) * sector, part.upperBound)
      let extent: Extent =
        run.isSet
        ? .data(
          start: position, byteCount: end - position, store: 0, offset: payloadOffset + (position - blockStart),
          isSparse: isSparse)
        : .absent(start: position, byteCount: end - position)
      guard runs.append(extent) else { return position }
      position = end
    }
    return position
  }

  /// The state of a payload block's entry, which must make sense.
  func state(of entry: BlockEntry, block: UInt64) throws(ImageError) -> BlockEntry.State {
    guard let state = entry.state, !entry.hasReservedBits else {
      throw .corrupt("\(entryName(block)) is \(entry.rawValue.hex), which has a reserved state or reserved bits")
    }
    guard state != .partiallyPresent || metadata.hasParent else {
      throw .corrupt("\(entryName(block)) says \"partially present\", but the file has no parent")
    }
    return state
  }

  /// The place of a present payload block, which must lie inside the file and outside all other structures.
  ///
  /// A block past the disk's end needs only the bytes that the disk has.
  func payloadOffset(of entry: BlockEntry, block: UInt64) throws(ImageError) -> UInt64 {
    let needed = min(geometry.blockByteCount, geometry.diskByteCount - block * geometry.blockByteCount)
    try checkPlace(entry.offset, whole: geometry.blockByteCount, needed: needed, entryName(block))
    return entry.offset
  }

  /// The place of a chunk's sector bitmap block.
  func bitmapOffset(of entry: BlockEntry, chunk: UInt64) throws(ImageError) -> UInt64 {
    let name = "BAT entry \(geometry.entryIndex(ofBitmap: chunk)) (sector bitmap \(chunk))"
    guard entry.state == .fullyPresent, !entry.hasReservedBits else {
      throw .corrupt("\(name) is \(entry.rawValue.hex), but blocks of the chunk are partially present")
    }
    let size = BlockGeometry.bitmapBlockByteCount
    try checkPlace(entry.offset, whole: size, needed: size, name)
    return entry.offset
  }

  private func checkPlace(_ offset: UInt64, whole: UInt64, needed: UInt64, _ name: String) throws(ImageError) {
    guard offset <= fileByteCount, needed <= fileByteCount - offset else {
      throw .truncated("\(name) points to byte \(offset.hex), past the end of the file (\(fileByteCount.hex))")
    }
    guard offset >= Header.megabyte else { throw .corrupt("\(name) points to byte \(offset.hex), inside the headers") }
    let next = reservedRanges.partitionIndex { $0.upperBound > offset }
    guard next == reservedRanges.count || reservedRanges[next].lowerBound >= offset + whole else {
      throw .corrupt(
        "\(name) points to byte \(offset.hex), inside the log or a region at \(reservedRanges[next].lowerBound.hex)")
    }
  }

  private func entryName(_ block: UInt64) -> String {
    "BAT entry \(geometry.entryIndex(ofBlock: block)) (block \(block))"
  }

  func entry(at index: UInt64) throws(ImageError) -> BlockEntry {
    let slice = try tableSlice(index / Self.entriesPerSlice)
    return BlockEntry(rawValue: slice[Int(index % Self.entriesPerSlice)])
  }

  /// The BAT entries from `index * entriesPerSlice` on.
  func tableSlice(_ index: UInt64) throws(ImageError) -> [UInt64] {
    try tableSlices.value(for: index) { () throws(ImageError) in
      let first = index * Self.entriesPerSlice
      let count = Int(min(Self.entriesPerSlice, geometry.entryCount - first))
      let bytes = try store.readFully("the BAT", at: tableOffset + first * 8, count: count * 8)
      var entries: [UInt64] = []
      entries.reserveCapacity(count)
      for entry in 0..<count { entries.append(try bytes.rawBytes.number(at: entry * 8)) }
      return entries
    }
  }

  private func bitmapSlice(at offset: UInt64) throws(ImageError) -> [UInt8] {
    try bitmapSlices.value(for: offset) { () throws(ImageError) in
      try store.readFully("a sector bitmap", at: offset, count: Int(Self.bitmapSliceByteCount))
    }
  }
}

/// Runs being appended to a caller's list, no more than allowed.
private struct RunList {
  private(set) var extents: [Extent]
  private let maximumCount: Int

  init(appendingTo extents: [Extent], limit: Int) {
    self.extents = extents
    maximumCount = extents.count.adding(limit) ?? .max
  }

  /// Appends a run, joined where it continues the last; false where there is no room for it.
  mutating func append(_ extent: Extent) -> Bool {
    guard extents.count < maximumCount || extents.last?.isContinued(by: extent) == true else { return false }
    extents.appendJoining(extent)
    return true
  }
}
