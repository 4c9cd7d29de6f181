package import PlatterCore

/// A file's structures, read and checked, its log replayed.
struct OpenedFile {
  /// The file as it is to be read: itself, or with its log laid over it.
  var store: any ByteStore
  var identifier: FileIdentifier
  var headers: HeaderPair
  var regions: RegionTablePair
  var metadata: Metadata
  /// Log entries that were replayed to get here, in memory or into the file.
  var replayedEntryCount: Int
  /// Whether the entries still stand in the file's log.
  var isReplayedInMemory: Bool

  /// - Parameter mayWrite: the log is replayed into the file, else in memory.
  init(reading file: any ByteStore, mayWrite: Bool) throws(ImageError) {
    let head = try file.readFully("the file identifier", at: 0, count: FileIdentifier.byteCount)
    identifier = try FileIdentifier(parsing: head.rawBytes)
    headers = try HeaderPair(reading: file)
    store = file
    replayedEntryCount = 0
    isReplayedInMemory = false
    if headers.current.needsReplay {
      let plan = try ReplayPlan(reading: file, header: headers.current)
      replayedEntryCount = plan.entryCount
      if mayWrite {
        try plan.apply(to: file)
        try headers.update(file) { header in
          header.fileWriteGUID = .random()
          header.logGUID = .zero
        }
      } else {
        store = LogOverlayStore(over: file, plan)
        isReplayedInMemory = true
      }
    }
    regions = try RegionTablePair(reading: store, log: headers.current.logRange)
    let region = try regions.table.region(RegionTable.metadata, name: "metadata region")
    metadata = try Metadata(reading: store, region: region)
  }
}

extension VHDXMap {
  /// Reads headers, log, region tables and metadata. The BAT is read when it is asked for.
  ///
  /// Cost: some reads of 64 KiB; with entries in the log, one reading of it.
  package convenience init(reading file: any ByteStore, _ context: OpenContext) throws(ImageError) {
    let opened = try OpenedFile(reading: file, mayWrite: context.isWritable && file.isWritable)
    let geometry = BlockGeometry(opened.metadata)
    let table = try opened.regions.table.region(RegionTable.blockAllocationTable, name: "BAT")
    guard geometry.entryCount * 8 <= UInt64(table.byteCount) else {
      throw .corrupt(
        "the BAT region has \(table.byteCount) bytes; a disk of \(geometry.diskByteCount) bytes in blocks of "
          + "\(geometry.blockByteCount) needs \(geometry.entryCount) entries of 8 bytes")
    }
    let length = try opened.store.byteCount()
    guard table.offset <= length, geometry.entryCount * 8 <= length - table.offset else {
      throw .truncated(
        "the BAT (\(geometry.entryCount * 8) bytes at \(table.offset.hex)) lies past the end of the file "
          + "(\(length.hex))")
    }
    for fault in opened.headers.faults + opened.regions.faults {
      if let fault { context.warn("\(fault); the other copy is used") }
    }
    try self.init(opened, geometry, fileByteCount: length)
  }
}
