import PlatterCore

/// SESPARSE: a directory of grain tables with entries of 64 bits that say what kind of grain it is.
final class SESparseExtent: DiskExtent {
  private static let maximumCachedByteCount: UInt64 = 4 << 20
  private static let maximumEntriesPerCall = 1 << 16
  static let grainBytes = SESparseHeader.grainSectorCount * sectorByteCount
  static let tableByteCount = SESparseHeader.tableSectorCount * sectorByteCount
  static let tableSpan = SESparseHeader.tableEntryCount * grainBytes
  /// Upper half of every directory entry that names a table.
  private static let directoryMark: UInt64 = 0x1000_0000

  let store: any ByteStore
  let storeIndex: UInt16
  let fileByteCount: UInt64
  let header: SESparseHeader
  let directory: PagedTable
  private let tables: TableCache<UInt64, [UInt8]>

  /// What an entry of a grain table says.
  enum Grain: Equatable {
    case absent
    case zero
    /// Sector of the file.
    case at(UInt64)
  }

  init(store: any ByteStore, index: UInt16, fileByteCount: UInt64) throws(ImageError) {
    self.store = store
    storeIndex = index
    self.fileByteCount = fileByteCount
    let head = try store.readPrefix(count: SESparseHeader.byteCount)
    header = try SESparseHeader(parsing: head.rawBytes)
    guard let volatileOffset = header.volatileHeader.sector.multiplied(by: sectorByteCount) else {
      throw .truncated("the volatile header at sector \(header.volatileHeader.sector) lies past the end of the file")
    }
    let volatileBytes = try store.readFully("the volatile header", at: volatileOffset, count: SESparseHeader.byteCount)
    try SESparseHeader.checkVolatile(volatileBytes.rawBytes)
    guard let offset = header.directory.sector.multiplied(by: sectorByteCount) else {
      throw .truncated("the grain directory at sector \(header.directory.sector) lies past the end of the file")
    }
    directory = try PagedTable(
      store, at: offset, byteCount: header.tableCount * 8, fileByteCount: fileByteCount, what: "grain directory")
    tables = TableCache(capacity: Int(Self.maximumCachedByteCount / Self.tableByteCount))
  }

  var grainByteCount: UInt64? { Self.grainBytes }

  func map(_ range: Range<UInt64>, base: UInt64, _ run: inout RunAppender, _ list: inout [Extent]) throws(ImageError)
    -> UInt64
  {
    try naming(store.name) { () throws(ImageError) in
      var position = range.lowerBound
      var entriesLeft = Self.maximumEntriesPerCall
      while position < range.upperBound, entriesLeft > 0, !run.isFull {
        let index = position / Self.tableSpan
        let end = min((index + 1) * Self.tableSpan, range.upperBound)
        guard let table = try tableOffset(index) else {
          guard run.append(.absent(start: base + position, byteCount: end - position), to: &list) else { break }
          position = end
          entriesLeft -= 1
          continue
        }
        position = try mapTable(at: table, index: index, position..<end, base: base, &run, &list)
        entriesLeft -= Int(SESparseHeader.tableEntryCount)
      }
      return position
    }
  }

  /// Where a grain table lies, or nil where there is none.
  func tableOffset(_ index: UInt64) throws(ImageError) -> UInt64? {
    let entry = try directory.entry64(index)
    guard entry != 0 else { return nil }
    guard entry >> 32 == Self.directoryMark else {
      throw .corrupt("grain directory entry \(index) is \(entry.hex), which names no grain table")
    }
    let number = entry & 0xffff_ffff
    let sectors = number * SESparseHeader.tableSectorCount
    guard sectors + SESparseHeader.tableSectorCount <= header.tables.sectorCount,
      let sector = header.tables.sector.adding(sectors), let offset = sector.multiplied(by: sectorByteCount),
      let end = offset.adding(Self.tableByteCount), end <= fileByteCount
    else {
      throw .truncated("grain directory entry \(index) names grain table \(number), which lies outside the file")
    }
    return offset
  }

  func table(at offset: UInt64) throws(ImageError) -> [UInt8] {
    try tables.value(for: offset) { () throws(ImageError) in
      try store.readFully("a grain table", at: offset, count: Int(Self.tableByteCount))
    }
  }

  private func mapTable(
    at offset: UInt64, index: UInt64, _ range: Range<UInt64>, base: UInt64, _ run: inout RunAppender,
    _ list: inout [Extent]
  ) throws(ImageError) -> UInt64 {
    let table = try table(at: offset)
    var position = range.lowerBound
    while position < range.upperBound {
      let inGrain = position % Self.grainBytes
      let count = min(Self.grainBytes - inGrain, range.upperBound - position)
      let entryIndex = position / Self.grainBytes % SESparseHeader.tableEntryCount
      let entry: UInt64 = table.rawBytes.littleEndian(at: Int(entryIndex) * 8) ?? 0
      let isDone: Bool
      switch try grain(entry, table: index, entry: entryIndex) {
      case .absent: isDone = run.append(.absent(start: base + position, byteCount: count), to: &list)
      case .zero: isDone = run.append(.zero(start: base + position, byteCount: count), to: &list)
      case .at(let place):
        isDone = run.appendData(
          start: base + position, byteCount: count, store: storeIndex, offset: place + inGrain,
          storeByteCount: fileByteCount, to: &list)
      }
      if run.end > base + position { position = run.end - base }
      guard isDone else { break }
    }
    return position
  }

  /// Reads an entry: its kind in the top four bits, and the grain's number in two parts.
  func grain(_ entry: UInt64, table: UInt64, entry index: UInt64) throws(ImageError) -> Grain {
    switch entry >> 60 {
    case 0: return .absent
    case 1, 2: return .zero
    case 3:
      let number = (entry >> 48 & 0xfff) | (entry & 0xffff_ffff_ffff) << 12
      guard let sectors = number.multiplied(by: SESparseHeader.grainSectorCount),
        let sector = header.grains.sector.adding(sectors), let offset = sector.multiplied(by: sectorByteCount),
        offset < fileByteCount
      else {
        throw .truncated(
          "entry \(index) of grain table \(table) names grain \(number), past the end of the file "
            + "(\(fileByteCount.hex))")
      }
      return .at(offset)
    default:
      throw .corrupt("entry \(index) of grain table \(table) is \(entry.hex), of an unknown kind")
    }
  }
}
