import PlatterCore
import Synchronization

/// SPARSE and VMFSSPARSE: a directory of grain tables with entries of 32 bits.
final class SparseExtent: DiskExtent {
  /// Bytes that the cached grain tables of an extent may take.
  private static let maximumCachedByteCount: UInt64 = 4 << 20
  /// Entries looked at in one call before it returns what it has, so that no call is long.
  private static let maximumEntriesPerCall = 1 << 16

  let store: any ByteStore
  let storeIndex: UInt16
  let fileByteCount: UInt64
  let layout: Layout
  let directory: PagedTable
  /// The second copy; nil where there is none, or where it stands in for the first.
  let redundantDirectory: PagedTable?
  let warn: @Sendable (String) -> Void
  private let hasWarned = Atomic(false)
  private let tables: TableCache<UInt64, [UInt8]>

  /// What the kinds of headers have in common.
  struct Layout: Sendable {
    var grainByteCount: UInt64
    /// Entries of a grain table.
    var entryCount: UInt64
    /// Bytes of the extent that the disk uses.
    var byteCount: UInt64
    var hasZeroedGrains = false
    var isCompressed = false
    /// Compressed grains stand behind markers.
    var hasMarkers = false
    var isUnclean = false
    /// First byte that a grain may have; for the check.
    var overheadByteCount: UInt64 = 0
    /// Bytes that the header promises; for the check.
    var capacityByteCount: UInt64 = 0
    /// What is wrong with the first directory, where the redundant one stands in for it; for the check.
    var directoryFault: String?

    var tableByteCount: UInt64 { entryCount * 4 }
    /// Guest bytes that a grain table maps.
    var tableSpan: UInt64 { entryCount * grainByteCount }
  }

  /// What a directory entry says.
  enum TablePlace: Equatable {
    case none
    case zero
    case at(UInt64)
  }

  init(
    store: any ByteStore, index: UInt16, fileByteCount: UInt64, layout: Layout, directory: PagedTable,
    redundantDirectory: PagedTable?, warn: @escaping @Sendable (String) -> Void
  ) {
    self.store = store
    storeIndex = index
    self.fileByteCount = fileByteCount
    self.layout = layout
    self.directory = directory
    self.redundantDirectory = redundantDirectory
    self.warn = warn
    tables = TableCache(capacity: Int(Self.maximumCachedByteCount / layout.tableByteCount))
  }

  var grainByteCount: UInt64? { layout.grainByteCount }
  var isCompressed: Bool { layout.isCompressed }
  var isUnclean: Bool { layout.isUnclean }

  func map(_ range: Range<UInt64>, base: UInt64, _ run: inout RunAppender, _ list: inout [Extent]) throws(ImageError)
    -> UInt64
  {
    try naming(store.name) { () throws(ImageError) in
      var position = range.lowerBound
      var entriesLeft = Self.maximumEntriesPerCall
      while position < range.upperBound, entriesLeft > 0, !run.isFull {
        let index = position / layout.tableSpan
        let end = min((index + 1) * layout.tableSpan, range.upperBound)
        let place = try tablePlace(index)
        if case .at(let table) = place {
          position = try mapTable(at: table, index: index, position..<end, base: base, &run, &list)
          entriesLeft -= Int(layout.entryCount)
        } else {
          let whole =
            place == .zero
            ? Extent.zero(start: base + position, byteCount: end - position)
            : Extent.absent(start: base + position, byteCount: end - position)
          guard run.append(whole, to: &list) else { break }
          position = end
          entriesLeft -= 1
        }
      }
      return position
    }
  }

  /// Where a grain table lies: the redundant directory is asked where the first one's entry is damaged.
  func tablePlace(_ index: UInt64) throws(ImageError) -> TablePlace {
    let entry = try directory.entry32(index)
    if let place = checkedPlace(entry) { return place }
    if let redundantDirectory, let place = checkedPlace(try redundantDirectory.entry32(index)) {
      if hasWarned.compareExchange(expected: false, desired: true, ordering: .relaxed).exchanged {
        warn("\(store.name): \(fault(index, entry)); the redundant grain directory is used instead")
      }
      return place
    }
    throw .truncated(fault(index, entry))
  }

  /// Nil for an entry that points outside the file.
  func checkedPlace(_ entry: UInt32) -> TablePlace? {
    if entry == 0 { return TablePlace.none }
    if entry == 1, layout.hasZeroedGrains { return .zero }
    let offset = UInt64(entry) * sectorByteCount
    return offset + layout.tableByteCount <= fileByteCount ? .at(offset) : nil
  }

  func fault(_ index: UInt64, _ entry: UInt32) -> String {
    "grain directory entry \(index) points to sector \(entry), where no grain table fits before the end of the file "
      + "(\(fileByteCount.hex))"
  }

  func table(at offset: UInt64) throws(ImageError) -> [UInt8] {
    try tables.value(for: offset) { () throws(ImageError) in
      try store.readFully("a grain table", at: offset, count: Int(layout.tableByteCount))
    }
  }

  private func mapTable(
    at offset: UInt64, index: UInt64, _ range: Range<UInt64>, base: UInt64, _ run: inout RunAppender,
    _ list: inout [Extent]
  ) throws(ImageError) -> UInt64 {
    let table = try table(at: offset)
    var position = range.lowerBound
    while position < range.upperBound {
      let inGrain = position & (layout.grainByteCount - 1)
      let count = min(layout.grainByteCount - inGrain, range.upperBound - position)
      let grain = position / layout.grainByteCount
      let entryIndex = grain % layout.entryCount
      let entry: UInt32 = table.rawBytes.littleEndian(at: Int(entryIndex) * 4) ?? 0
      let isDone: Bool
      if entry == 0 {
        isDone = run.append(.absent(start: base + position, byteCount: count), to: &list)
      } else if entry == 1, layout.hasZeroedGrains {
        isDone = run.append(.zero(start: base + position, byteCount: count), to: &list)
      } else {
        let place = try grainOffset(entry, table: index, entry: entryIndex)
        if layout.isCompressed {
          guard run.count < run.limit else { return position }
          let packed = try packedGrain(grain, at: place, base: base)
          isDone = run.append(packed.clipped(to: base + position..<base + position + count), to: &list)
        } else {
          isDone = run.appendData(
            start: base + position, byteCount: count, store: storeIndex, offset: place + inGrain,
            storeByteCount: fileByteCount, to: &list)
        }
      }
      // A cut grain may have found room for its data alone: the next call starts at its zeros.
      if run.end > base + position { position = run.end - base }
      guard isDone else { break }
    }
    return position
  }

  /// Where a grain lies. The last grain of a file may be cut, but must start inside it.
  func grainOffset(_ entry: UInt32, table: UInt64, entry index: UInt64) throws(ImageError) -> UInt64 {
    let offset = UInt64(entry) * sectorByteCount
    guard entry != 1 else {
      throw .corrupt("entry \(index) of grain table \(table) is 1, and the header does not allow zeroed grains")
    }
    guard offset < fileByteCount else {
      throw .truncated(
        "entry \(index) of grain table \(table) points to sector \(entry), past the end of the file "
          + "(\(fileByteCount.hex))")
    }
    return offset
  }

  /// The whole of a compressed grain.
  ///
  /// Its last part may lie past the extent's end: then the unit is what lies before it.
  private func packedGrain(_ grain: UInt64, at place: UInt64, base: UInt64) throws(ImageError) -> Extent {
    let start = grain * layout.grainByteCount
    let unit = min(layout.grainByteCount, layout.byteCount - start)
    // A stream may be longer than what it holds, though not much.
    let most = 2 * layout.grainByteCount + 4096
    var offset = place
    var count = min(most, fileByteCount - place)
    if layout.hasMarkers {
      let size = try markedByteCount(grain, at: place)
      offset = place + UInt64(Marker.grainByteCount)
      guard size <= most else {
        throw .corrupt("the marker of grain \(grain) gives it \(size) packed bytes, more than any can have (\(most))")
      }
      guard size <= fileByteCount - offset else {
        throw .truncated(
          "grain \(grain) (\(size) packed bytes at \(offset.hex)) lies past the end of the file (\(fileByteCount.hex))")
      }
      count = size
    }
    return .packed(
      start: base + start, byteCount: unit, codec: .zlib, store: storeIndex, offset: offset, packedByteCount: count,
      unitStart: base + start, unitByteCount: unit)
  }

  /// Reads the marker before a grain's stream, which must be that grain's.
  func markedByteCount(_ grain: UInt64, at place: UInt64) throws(ImageError) -> UInt64 {
    // Once per grain: so without asking for the file's length, as the checked read does.
    var bytes = [UInt8](repeating: 0, count: Marker.grainByteCount)
    let got = try bytes.withMutableRawBytes { bytes throws(ImageError) in try store.read(into: &bytes, at: place) }
    guard got == bytes.count else {
      throw .truncated(
        "the marker of grain \(grain) at \(place.hex) lies past the end of the file (\(fileByteCount.hex))")
    }
    let marker = try Marker(parsing: bytes.rawBytes)
    let sector = grain * (layout.grainByteCount / sectorByteCount)
    guard marker.value == sector else {
      throw .corrupt("the marker at \(place.hex) is for sector \(marker.value), and the table expects sector \(sector)")
    }
    guard marker.size > 0 else { throw .corrupt("the marker at \(place.hex) is of metadata, not of a grain") }
    return UInt64(marker.size)
  }
}
