import PlatterCore

/// Opens one extent file: its header and the places of its directories are checked against the file's length.
struct ExtentOpener {
  let store: any ByteStore
  let index: UInt16
  let context: OpenContext

  /// A file that is shorter than its line says is read as far as it goes; it is not written.
  func flat(offset: UInt64, sectorCount: UInt64) throws(ImageError) -> FlatExtent {
    let length = try store.byteCount()
    // Both are below 2^54, so neither sum nor product can overflow.
    let start = offset * sectorByteCount
    let count = sectorCount * sectorByteCount
    let present = min(count, length.subtracting(start) ?? 0)
    let fault =
      "the flat extent (\(sectorCount) sectors from sector \(offset)) lies past the end of the file (\(length.hex))"
    guard present == count || (!context.isWritable && start + count <= UInt64(Int64.max)) else {
      throw .truncated(fault)
    }
    return FlatExtent(
      store: index, offset: start, presentByteCount: present, fault: present == count ? nil : fault)
  }

  func sparse(_ header: SparseHeader, sectorCount: UInt64) throws(ImageError) -> SparseExtent {
    try requireCapacity(header.capacity, sectorCount)
    if context.isWritable, header.version == 3, !header.isCompressed {
      throw .unsupported("a version 3 extent is not written: its change tracking would become stale")
    }
    let length = try store.byteCount()
    let directories = try directories(header, length)
    let layout = SparseExtent.Layout(
      grainByteCount: header.grainSectorCount * sectorByteCount, entryCount: UInt64(SparseHeader.tableEntryCount),
      byteCount: sectorCount * sectorByteCount, hasZeroedGrains: header.flags.contains(.zeroedGrains),
      isCompressed: header.isCompressed, hasMarkers: header.flags.contains(.markers), isUnclean: header.isUnclean,
      overheadByteCount: header.overhead.multiplied(by: sectorByteCount) ?? .max,
      capacityByteCount: header.capacity * sectorByteCount, directoryFault: directories.fault)
    return SparseExtent(
      store: store, index: index, fileByteCount: length, layout: layout, directory: directories.first,
      redundantDirectory: directories.second, warn: context.warn)
  }

  /// The grain directory and its copy. Where the first lies outside the file the copy takes its place, with a warning.
  private func directories(_ header: SparseHeader, _ length: UInt64) throws(ImageError)
    -> (first: PagedTable, second: PagedTable?, fault: String?)
  {
    var redundant: PagedTable?
    if header.flags.contains(.redundantDirectory), header.redundantDirectorySector != 0 {
      redundant = try? directory(
        header.redundantDirectorySector, header.tableCount, length, "redundant grain directory")
    }
    do throws(ImageError) {
      return (try directory(header.directorySector, header.tableCount, length, "grain directory"), redundant, nil)
    } catch {
      guard let redundant else { throw error }
      context.warn("\(store.name): \(error.message); the redundant grain directory is used instead")
      return (redundant, nil, error.message)
    }
  }

  private func directory(_ sector: UInt64, _ tableCount: UInt64, _ length: UInt64, _ what: String) throws(ImageError)
    -> PagedTable
  {
    guard sector > 0, let offset = sector.multiplied(by: sectorByteCount) else {
      throw .corrupt("the \(what) is at sector \(sector), which is no place for it")
    }
    return try PagedTable(store, at: offset, byteCount: tableCount * 4, fileByteCount: length, what: what)
  }

  /// - Parameter sectorCount: what the descriptor says; nil for an extent opened on its own.
  func vmfsSparse(sectorCount: UInt64?) throws(ImageError) -> (extent: SparseExtent, sectorCount: UInt64) {
    let head = try store.readPrefix(count: COWDHeader.byteCount)
    let header = try COWDHeader(parsing: head.rawBytes)
    let sectors = sectorCount ?? header.capacity
    try requireCapacity(header.capacity, sectors)
    let length = try store.byteCount()
    let layout = SparseExtent.Layout(
      grainByteCount: header.grainSectorCount * sectorByteCount, entryCount: COWDHeader.tableEntryCount,
      byteCount: sectors * sectorByteCount, isUnclean: header.isUnclean,
      overheadByteCount: UInt64(COWDHeader.byteCount),
      capacityByteCount: header.capacity * sectorByteCount)
    let extent = SparseExtent(
      store: store, index: index, fileByteCount: length, layout: layout,
      directory: try directory(header.directorySector, header.tableCount, length, "grain directory"),
      redundantDirectory: nil, warn: context.warn)
    return (extent, sectors)
  }

  func seSparse(sectorCount: UInt64) throws(ImageError) -> SESparseExtent {
    let extent = try SESparseExtent(store: store, index: index, fileByteCount: try store.byteCount())
    try requireCapacity(extent.header.capacity, sectorCount)
    return extent
  }

  private func requireCapacity(_ capacity: UInt64, _ sectorCount: UInt64) throws(ImageError) {
    guard capacity >= sectorCount else {
      throw .corrupt("the header's capacity is \(capacity) sectors, fewer than the descriptor's \(sectorCount)")
    }
  }
}
