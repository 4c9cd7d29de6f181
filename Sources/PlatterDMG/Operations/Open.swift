package import PlatterCore
import PlatterCrypto

extension DMG {
  package static func open(_ store: any ByteStore, _ context: OpenContext) throws(ImageError) -> any ImageMap {
    try naming(store.name) { () throws(ImageError) in
      if try EncryptedDMG.isEncrypted(store) { return try openEncrypted(store, context) }
      guard let trailer = try readTrailer(store) else {
        throw .corrupt("no trailer (\"koly\") was found: not a disk image of Apple's, or cut short")
      }
      return try openChunks([store], store, trailer, nil, context)
    }
  }

  /// The trailer of a file with everything it names checked against the file; nil where there is none.
  static func readTrailer(_ store: any ByteStore) throws(ImageError) -> Trailer? {
    guard let offset = try Trailer.find(in: store, tailByteCount: Trailer.maximumTailByteCount) else { return nil }
    let bytes = try store.readFully("the trailer", at: offset, count: Trailer.byteCount)
    let trailer = try Trailer(parsing: bytes.rawBytes)
    try trailer.checkRanges(fileByteCount: try store.byteCount())
    return trailer
  }

  /// Opens an image by its trailer.
  ///
  /// - Parameters:
  ///   - stores: element 0 is the file, the last the store that its bytes are read from.
  ///   - payload: that last store.
  ///   - decryption: what decrypted it, and decrypts the other segments; nil where nothing is encrypted.
  static func openChunks(
    _ stores: [any ByteStore], _ payload: any ByteStore, _ trailer: Trailer, _ decryption: Decryption?,
    _ context: OpenContext
  ) throws(ImageError) -> DMGImage {
    var stores = stores
    var segments = [Segment(store: payload, trailer: trailer)]
    var dataStoreByteCount = try payload.byteCount()
    if trailer.isSegmented {
      if context.isForFactsOnly {
        // Facts are told without opening what the image names, so that nothing is known of the others' lengths.
        dataStoreByteCount = .max
      } else {
        segments = try openSegments(first: segments[0], decryption, context)
        let dataFork = SegmentedStore(segments)
        dataStoreByteCount = try dataFork.byteCount()
        stores.append(dataFork)
      }
    }
    var table = RunTable(
      dataForkOffset: trailer.isSegmented ? 0 : trailer.dataFork.offset, storeByteCount: dataStoreByteCount)
    try addTables(from: segments, to: &table)
    guard !table.partitions.isEmpty || (trailer.isSegmented && context.isForFactsOnly) else {
      throw .corrupt("there is no block table, neither in a property list nor in a resource fork")
    }
    let sectorCount = segments.map(\.trailer.sectorCount).max() ?? 0
    guard sectorCount <= maximumSectorCount else {
      throw .unsupported("the trailer counts \(sectorCount) sectors, more than \(maximumSectorCount)")
    }
    let tableEnd = table.endSector
    try table.finish(sectorCount: sectorCount)
    let warnings = warnings(table, tableEnd: tableEnd, sectorCount: sectorCount)
    for warning in warnings { context.warn("\(stores[0].name): \(warning)") }
    let encryption = decryption == nil ? nil : try EncryptedDMG.facts(stores[0])
    return DMGImage(
      byteCount: table.endSector * sectorByteCount, stores: stores,
      content: .chunks(table, segments.map(\.trailer)), isEncrypted: decryption != nil, encryption: encryption,
      warnings: warnings,
      references: trailer.isSegmented ? segmentNames(trailer.segmentCount, context) : [])
  }

  /// The block tables stand in the property list or, in old images, in the resource fork. Where both are there, the
  /// property list rules. Of several segments the first that has tables is taken.
  private static func addTables(from segments: [Segment], to table: inout RunTable) throws(ImageError) {
    for segment in segments {
      do { try addTables(from: segment, to: &table) } catch { throw error.named(segment.store.name) }
      if !table.partitions.isEmpty { return }
    }
  }

  private static func addTables(from segment: Segment, to table: inout RunTable) throws(ImageError) {
    let trailer = segment.trailer
    func add(_ resource: BlockTableResource) throws(ImageError) { try table.add(resource) }
    if trailer.propertyList.byteCount > 0 {
      try PropertyListParser.forEachBlockTable(in: segment.store, trailer.propertyList, add)
    }
    if table.partitions.isEmpty, trailer.resourceFork.byteCount > 0 {
      try ResourceFork.forEachBlockTable(in: segment.store, trailer.resourceFork, add)
    }
  }

  private static func warnings(_ table: RunTable, tableEnd: UInt64, sectorCount: UInt64) -> [String] {
    var warnings: [String] = []
    if tableEnd != sectorCount {
      warnings.append("the trailer counts \(sectorCount) sectors, the block tables end at sector \(tableEnd)")
    }
    if table.gapSectorCount > 0 {
      warnings.append("\(table.gapSectorCount) sectors are in no chunk and read as zeros")
    }
    return warnings
  }
}
