import PlatterCore

/// What all maps of one opened image share: header, files, caches of tables. Immutable but for the caches.
final class Volume: Sendable {
  let header: Header
  let extensions: HeaderExtensions
  let geometry: Geometry
  /// The image itself, then the external data file where there is one and it is open.
  let stores: [any ByteStore]
  /// Lengths at opening time, by store.
  let storeByteCounts: [UInt64]
  let preallocation: Preallocation
  /// The store that guest bytes lie in; nil where it is not open (facts only).
  let dataStore: UInt16?
  let encryption: Encryption
  let backing: BackingReference?
  let dataFileName: String?
  let snapshots: [SnapshotRecord]
  let bitmaps: [BitmapRecord]
  let warnings: [String]
  let tables: TableReader

  var file: any ByteStore { stores[0] }

  /// The tree of the present disk.
  var activeTree: Tree {
    Tree(
      name: "L1 table", offset: header.l1Offset, entryCount: UInt64(header.l1EntryCount),
      byteCount: header.virtualByteCount)
  }

  /// A top table and the size of the disk that it describes.
  struct Tree: Sendable {
    var name: String
    var offset: UInt64
    var entryCount: UInt64
    var byteCount: UInt64
  }

  init(opening store: any ByteStore, _ context: OpenContext) throws(ImageError) {
    let opening = try Opening(store, context)
    header = opening.header
    extensions = opening.extensions
    geometry = Geometry(opening.header)
    backing = opening.backing
    let dataFile = try opening.openDataFile(context)
    dataFileName = dataFile.name
    stores = dataFile.store.map { [store, $0] } ?? [store]
    dataStore = opening.header.hasDataFile ? (dataFile.store == nil ? nil : 1) : 0
    var byteCounts: [UInt64] = []
    for store in stores { byteCounts.append(try store.byteCount()) }
    storeByteCounts = byteCounts
    preallocation = Preallocation(store, opening.header, fileByteCount: byteCounts[0])
    // A check reads both itself, as far as they go.
    snapshots = context.isForCheck ? [] : try opening.snapshots()
    var warnings: [String] = []
    bitmaps =
      context.isForCheck ? [] : try opening.bitmaps(isWritable: context.isWritable, warnings: &warnings)
    for warning in warnings { context.warn(warning) }
    self.warnings = warnings
    encryption = try opening.encryption(context)
    tables = TableReader(store, geometry, fileByteCount: byteCounts[0])
  }
}
