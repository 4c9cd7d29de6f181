import PlatterCore

/// The first 64 KiB of the metadata region: what items there are, and where [MS-VHDX 2.6.1].
package struct MetadataTable: Sendable {
  static let byteCount = 64 << 10
  static let maximumEntryCount = 2047  // the specification's, like the next two
  static let maximumSystemEntryCount = 1023
  static let maximumUserEntryCount = 1024
  static let maximumItemByteCount: UInt32 = 1 << 20  // the specification's
  static let maximumKindByteCount: UInt64 = 40 << 20  // Microsoft's, for all items of the user or of the system

  package struct Entry: Sendable, Equatable {
    package var guid: GUID
    /// Bytes 16..<20, from the region's start; 0 where the item is empty.
    package var offset: UInt32
    /// Bytes 20..<24.
    package var byteCount: UInt32
    /// Flag 1: made by a user, else by the system.
    package var isUser: Bool
    /// Flag 4: a reader that does not know the item must refuse the file.
    package var isRequired: Bool
  }

  package var entries: [Entry]

  /// - Parameter regionByteCount: the metadata region's length; items lie inside it.
  init(parsing bytes: RawSpan, regionByteCount: UInt32) throws(ImageError) {
    guard bytes.hasSignature("metadata") else {
      throw .corrupt("the metadata table does not begin with \"metadata\"")
    }
    let count: UInt16 = try bytes.number(at: 10)
    guard count <= Self.maximumEntryCount else {
      throw .corrupt("the metadata table has \(count) entries; at most \(Self.maximumEntryCount) are allowed")
    }
    entries = []
    for index in 0..<Int(count) {
      entries.append(try Entry(parsing: bytes, index: index, regionByteCount: regionByteCount))
    }
    try checkKinds()
    try checkOverlaps()
  }

  /// The system item with this GUID.
  func item(_ guid: GUID) -> Entry? { entries.first { $0.guid == guid && !$0.isUser } }

  private func checkKinds() throws(ImageError) {
    struct Kind: Hashable {
      var guid: GUID
      var isUser: Bool
    }
    var seen: Set<Kind> = []
    var counts = (system: 0, user: 0)
    var byteCounts: (system: UInt64, user: UInt64) = (0, 0)
    for entry in entries {
      guard seen.insert(Kind(guid: entry.guid, isUser: entry.isUser)).inserted else {
        throw .corrupt("metadata item \(entry.guid) is listed twice")
      }
      if entry.isUser {
        counts.user += 1
        byteCounts.user += UInt64(entry.byteCount)
      } else {
        counts.system += 1
        byteCounts.system += UInt64(entry.byteCount)
      }
    }
    guard counts.system <= Self.maximumSystemEntryCount, counts.user <= Self.maximumUserEntryCount else {
      throw .corrupt("the metadata table has \(counts.system) items of the system and \(counts.user) of the user")
    }
    guard max(byteCounts.system, byteCounts.user) <= Self.maximumKindByteCount else {
      throw .corrupt(
        "the metadata items of one kind have \(max(byteCounts.system, byteCounts.user)) bytes; at most "
          + "\(Self.maximumKindByteCount) are allowed")
    }
  }

  private func checkOverlaps() throws(ImageError) {
    let placed = entries.filter { $0.byteCount > 0 }.sorted { $0.offset < $1.offset }
    for (before, after) in zip(placed, placed.dropFirst())
    where UInt64(before.offset) + UInt64(before.byteCount) > UInt64(after.offset) {
      throw .corrupt("metadata items \(before.guid) and \(after.guid) overlap at \(UInt64(after.offset).hex)")
    }
  }
}

extension MetadataTable.Entry {
  fileprivate init(parsing bytes: RawSpan, index: Int, regionByteCount: UInt32) throws(ImageError) {
    let start = 32 + index * 32
    guid = try GUID(parsing: bytes, at: start)
    offset = try bytes.number(at: start + 16)
    byteCount = try bytes.number(at: start + 20)
    let flags: UInt32 = try bytes.number(at: start + 24)
    let reserved: UInt32 = try bytes.number(at: start + 28)
    guard flags & ~7 == 0, reserved == 0 else {
      throw .corrupt(
        "metadata item \(guid) has reserved bits (flags \(UInt64(flags).hex), reserved \(UInt64(reserved).hex))")
    }
    isUser = flags & 1 != 0
    isRequired = flags & 4 != 0
    guard !isUser || !isRequired else { throw .corrupt("metadata item \(guid) is the user's, and required") }
    guard byteCount <= MetadataTable.maximumItemByteCount else {
      throw .corrupt(
        "metadata item \(guid) has \(byteCount) bytes; at most \(MetadataTable.maximumItemByteCount) are allowed")
    }
    guard (offset == 0) == (byteCount == 0) else {
      throw .corrupt("metadata item \(guid) has \(byteCount) bytes at \(UInt64(offset).hex)")
    }
    guard byteCount == 0 || offset >= MetadataTable.byteCount,
      UInt64(offset) + UInt64(byteCount) <= UInt64(regionByteCount)
    else {
      throw .corrupt(
        "metadata item \(guid) (\(byteCount) bytes at \(UInt64(offset).hex)) leaves the items' part of its region "
          + "(\(UInt64(MetadataTable.byteCount).hex)..<\(UInt64(regionByteCount).hex))")
    }
  }
}
