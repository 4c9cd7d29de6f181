package import PlatterCore
import SystemPackage

extension QED {
  package static func open(_ store: any ByteStore, _ context: OpenContext) throws(ImageError) -> any ImageMap {
    try naming(store.name) { () throws(ImageError) in
      let length = try store.byteCount()
      let head = try store.readPrefix(count: Header.byteCount)
      let header = try Header(parsing: head.rawBytes, fileByteCount: length)
      var backing: BackingReference?
      if let range = header.backingName {
        backing = try backingReference(store, range, isRaw: header.features.contains(.rawBacking))
      }
      let image = QEDImage(store: store, header: header, fileByteCount: length, backing: backing)
      for warning in image.facts.warnings { context.warn("\(store.name): \(warning)") }
      return image
    }
  }

  private static func backingReference(_ store: any ByteStore, _ range: Range<UInt64>, isRaw: Bool)
    throws(ImageError) -> BackingReference
  {
    let count = Int(range.upperBound - range.lowerBound)
    let bytes = try store.readFully("the backing file's name", at: range.lowerBound, count: count)
    guard let name = FilePath(bytes: bytes) else { throw .corrupt("the backing file's name holds a zero byte") }
    return BackingReference(
      names: [name], formatName: isRaw ? "raw" : nil, displayName: String(decoding: bytes, as: UTF8.self))
  }
}

/// An opened QED image.
package final class QEDImage: ImageMap {
  package let formatName = QED.name
  package let stores: [any ByteStore]
  package let backing: BackingReference?
  package let header: Header
  /// Length of the file when it was opened.
  let fileByteCount: UInt64
  /// Pages of L1 and L2 tables by their place in the file.
  private let pages: TableCache<UInt64, TablePage>

  init(store: any ByteStore, header: Header, fileByteCount: UInt64, backing: BackingReference?) {
    stores = [store]
    self.header = header
    self.fileByteCount = fileByteCount
    self.backing = backing
    let page = TablePage.byteCount(tableByteCount: header.tableByteCount)
    pages = TableCache(capacity: Int(TablePage.maximumCachedByteCount / page))
  }

  package var byteCount: UInt64 { header.virtualByteCount }
  package var allocationUnit: UInt64? { header.clusterByteCount }

  package var facts: ImageFacts {
    var facts = ImageFacts()
    facts.hasDirtyFlag = true
    facts.isDirty = header.features.contains(.needsCheck)
    if facts.isDirty {
      facts.warnings.append("the image was not closed cleanly: its tables need a check before it is written")
    }
    return facts
  }

  var store: any ByteStore { stores[0] }

  /// The page of a table at a place that was checked to be no larger than a file can be; of a page that the file's end
  /// cuts, the entries that are there.
  func page(at offset: UInt64) throws(ImageError) -> TablePage {
    let whole = TablePage.byteCount(tableByteCount: header.tableByteCount)
    let present = min(whole, fileByteCount.subtracting(offset) ?? 0).roundedDown(toMultipleOf: 8)
    return try pages.value(for: offset) { () throws(ImageError) in
      TablePage(bytes: try store.readFully("a table", at: offset, count: Int(present)))
    }
  }

  /// Why an L1 entry names no whole L2 table, or nil where it does.
  func fault(inTableOffset offset: UInt64) -> String? {
    if let fault = fault(inPlace: offset) { return fault }
    guard let end = offset.adding(header.tableByteCount), end <= fileByteCount else {
      return "past the end of the file (\(fileByteCount.hex))"
    }
    return nil
  }

  /// Why an entry names no data cluster, and no table at all, or nil where it does. What is named may be cut by the
  /// file's end.
  func fault(inClusterOffset offset: UInt64) -> String? {
    if let fault = fault(inPlace: offset) { return fault }
    guard offset < fileByteCount else { return "past the end of the file (\(fileByteCount.hex))" }
    return nil
  }

  private func fault(inPlace offset: UInt64) -> String? {
    guard offset & (header.clusterByteCount - 1) == 0 else { return "which is no multiple of the cluster size" }
    guard offset >= header.headerByteCount else { return "inside the header clusters" }
    return nil
  }
}
