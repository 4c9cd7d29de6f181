import PlatterCore

/// The items that every file has, and the parent locator of a differencing one [MS-VHDX 2.6.2].
package struct Metadata: Sendable {
  enum Item {
    static let fileParameters = GUID(0xcaa1_6737_fa36_4d43, 0xb3b6_33f0_aa44_e76b)
    static let diskByteCount = GUID(0x2fa5_4224_cd1b_4876, 0xb211_5dbe_d83b_f4b8)
    static let page83 = GUID(0xbeca_12ab_b2e6_4523, 0x93ef_c309_e000_c746)
    static let logicalSector = GUID(0x8141_bf1d_a96f_4709, 0xba47_f233_a8fa_ab5f)
    static let physicalSector = GUID(0xcda3_48c7_445d_4471, 0x9cc9_e988_5251_c556)
    static let parentLocator = GUID(0xa8d3_5f2d_b30b_454d, 0xabf7_d3d8_4834_ab0c)
    static let known: Set<GUID> = [
      fileParameters, diskByteCount, page83, logicalSector, physicalSector, parentLocator,
    ]
  }

  static let blockByteCounts: ClosedRange<UInt32> = 1 << 20...256 << 20  // the specification's
  static let maximumDiskByteCount: UInt64 = 64 << 40  // the specification's

  package var blockByteCount: UInt64
  /// Blocks stay allocated: the file is fixed.
  package var isFixed: Bool
  package var hasParent: Bool
  package var diskByteCount: UInt64
  package var page83: GUID
  package var logicalSectorByteCount: UInt64
  package var physicalSectorByteCount: UInt64
  package var parentLocator: ParentLocator?

  /// Reads the metadata region. Cost: one read of 64 KiB and one per item.
  init(reading store: any ByteStore, region: RegionTable.Entry) throws(ImageError) {
    let bytes = try store.readFully("the metadata table", at: region.offset, count: MetadataTable.byteCount)
    let table = try MetadataTable(parsing: bytes.rawBytes, regionByteCount: region.byteCount)
    for entry in table.entries where entry.isRequired && !Item.known.contains(entry.guid) {
      throw .unsupported("metadata item \(entry.guid) is required, and unknown to this reader")
    }
    let items = ItemReader(store: store, regionOffset: region.offset, table: table)
    (blockByteCount, isFixed, hasParent) = try Self.fileParameters(items)
    diskByteCount = try items.number(Item.diskByteCount, "virtual disk size")
    let page83Bytes = try items.bytes(Item.page83, "page 83 data", count: GUID.byteCount)
    page83 = try GUID(parsing: page83Bytes.rawBytes, at: 0)
    logicalSectorByteCount = try Self.sectorByteCount(items, Item.logicalSector, "logical sector size")
    physicalSectorByteCount = try Self.sectorByteCount(items, Item.physicalSector, "physical sector size")
    parentLocator = try Self.parentLocator(items, hasParent: hasParent)
    guard diskByteCount > 0, diskByteCount <= Self.maximumDiskByteCount else {
      throw .corrupt(
        "the virtual disk size is \(diskByteCount) bytes; 1 to \(Self.maximumDiskByteCount) are allowed")
    }
    guard diskByteCount % logicalSectorByteCount == 0 else {
      throw .corrupt(
        "the virtual disk size of \(diskByteCount) bytes is not a whole number of sectors of "
          + "\(logicalSectorByteCount) bytes")
    }
  }

  private static func fileParameters(_ items: ItemReader) throws(ImageError) -> (UInt64, Bool, Bool) {
    let bytes = try items.bytes(Item.fileParameters, "file parameters", count: 8)
    let blockByteCount: UInt32 = try bytes.rawBytes.number(at: 0)
    let flags: UInt32 = try bytes.rawBytes.number(at: 4)
    guard blockByteCounts.contains(blockByteCount), blockByteCount.nonzeroBitCount == 1 else {
      throw .corrupt(
        "the block size is \(blockByteCount) bytes; it must be a power of two from 1 MiB to 256 MiB")
    }
    guard flags & ~3 == 0 else { throw .corrupt("the file parameters have reserved flags \(UInt64(flags).hex)") }
    return (UInt64(blockByteCount), flags & 1 != 0, flags & 2 != 0)
  }

  private static func sectorByteCount(_ items: ItemReader, _ guid: GUID, _ name: String) throws(ImageError) -> UInt64 {
    let value: UInt32 = try items.number(guid, name)
    guard value == 512 || value == 4096 else { throw .corrupt("the \(name) is \(value); 512 and 4096 are allowed") }
    return UInt64(value)
  }

  private static func parentLocator(_ items: ItemReader, hasParent: Bool) throws(ImageError) -> ParentLocator? {
    guard let entry = items.table.item(Item.parentLocator) else {
      guard !hasParent else { throw .corrupt("the file has a parent, but no parent locator") }
      return nil
    }
    guard hasParent else { throw .corrupt("the file has no parent, but a parent locator") }
    let bytes = try items.bytes(Item.parentLocator, "parent locator", count: Int(entry.byteCount))
    return try ParentLocator(parsing: bytes.rawBytes)
  }
}

/// Reads items by GUID.
private struct ItemReader {
  let store: any ByteStore
  let regionOffset: UInt64
  let table: MetadataTable

  /// The bytes of an item, which must be there with this length.
  func bytes(_ guid: GUID, _ name: String, count: Int) throws(ImageError) -> [UInt8] {
    guard let entry = table.item(guid) else { throw .corrupt("the metadata item \"\(name)\" is missing") }
    guard Int(entry.byteCount) == count else {
      throw .corrupt("the metadata item \"\(name)\" has \(entry.byteCount) bytes, not \(count)")
    }
    return try store.readFully(
      "the metadata item \"\(name)\"", at: regionOffset + UInt64(entry.offset), count: count)
  }

  func number<T: FixedWidthInteger & BitwiseCopyable>(_ guid: GUID, _ name: String) throws(ImageError) -> T {
    let bytes = try bytes(guid, name, count: MemoryLayout<T>.size)
    return try bytes.rawBytes.number(at: 0)
  }
}
