import PlatterCore

/// Where the large structures lie; two copies, at 192 KiB and 256 KiB [MS-VHDX 2.2.3].
package struct RegionTable: Sendable, Equatable {
  static let byteCount = 64 << 10
  static let copyOffsets: [UInt64] = [192 << 10, 256 << 10]
  static let maximumEntryCount = 2047  // the specification's
  static let maximumTableByteCount: UInt32 = 513 << 20  // Microsoft's, for the BAT
  static let maximumMetadataByteCount: UInt32 = 128 << 20  // Microsoft's

  static let blockAllocationTable = GUID(0x2dc2_7766_f623_4200, 0x9d64_115e_9bfd_4a08)
  static let metadata = GUID(0x8b7c_a206_4790_4b9a, 0xb8fe_575f_050f_886e)

  package struct Entry: Sendable, Equatable {
    package var guid: GUID
    /// Bytes 16..<24.
    package var offset: UInt64
    /// Bytes 24..<28.
    package var byteCount: UInt32
    /// Bytes 28..<32, bit 0: a reader that does not know the region must refuse the file.
    package var isRequired: Bool
    package var range: Range<UInt64> { offset..<offset + UInt64(byteCount) }
  }

  package var entries: [Entry]

  /// Checks signature, checksum and count: what makes a copy usable. `check` looks at the entries.
  init(parsing bytes: RawSpan) throws(ImageError) {
    guard bytes.hasSignature("regi") else { throw .corrupt("does not begin with \"regi\"") }
    let stored: UInt32 = try bytes.number(at: 4)
    let actual = Checksum.ofStructure(bytes)
    guard stored == actual else {
      throw .corrupt("has checksum \(UInt64(stored).hex), its bytes give \(UInt64(actual).hex)")
    }
    let count: UInt32 = try bytes.number(at: 8)
    guard count <= Self.maximumEntryCount else {
      throw .corrupt("has \(count) entries; at most \(Self.maximumEntryCount) are allowed")
    }
    entries = []
    for index in 0..<Int(count) { entries.append(try Entry(parsing: bytes, index: index)) }
  }

  /// The entry of a region that every file has.
  func region(_ guid: GUID, name: String) throws(ImageError) -> Entry {
    guard let entry = entries.first(where: { $0.guid == guid }) else {
      throw .corrupt("the region table has no entry for the \(name)")
    }
    return entry
  }

  /// Checks the entries against each other and the log, and that no region is required and unknown.
  func check(log: Range<UInt64>?) throws(ImageError) {
    var seen: Set<GUID> = []
    for entry in entries {
      guard seen.insert(entry.guid).inserted else { throw .corrupt("region \(entry.guid) is listed twice") }
      let isKnown = entry.guid == Self.blockAllocationTable || entry.guid == Self.metadata
      guard isKnown || !entry.isRequired else {
        throw .unsupported("region \(entry.guid) is required, and unknown to this reader")
      }
    }
    var ranges = entries.map { (name: "region \($0.guid)", range: $0.range) }
    if let log { ranges.append(("the log", log)) }
    ranges.sort { $0.range.lowerBound < $1.range.lowerBound }
    for (before, after) in zip(ranges, ranges.dropFirst()) where before.range.upperBound > after.range.lowerBound {
      throw .corrupt(
        "\(before.name) ends at \(before.range.upperBound.hex), inside \(after.name) at "
          + after.range.lowerBound.hex)
    }
    try requireByteCount(Self.blockAllocationTable, "BAT", atMost: Self.maximumTableByteCount)
    try requireByteCount(Self.metadata, "metadata", atMost: Self.maximumMetadataByteCount)
  }

  private func requireByteCount(_ guid: GUID, _ name: String, atMost limit: UInt32) throws(ImageError) {
    let entry = try region(guid, name: "\(name) region")
    guard entry.byteCount <= limit else {
      throw .corrupt("the \(name) region has \(entry.byteCount) bytes; at most \(limit) are allowed")
    }
  }
}

extension RegionTable.Entry {
  fileprivate init(parsing bytes: RawSpan, index: Int) throws(ImageError) {
    let start = 16 + index * 32
    guid = try GUID(parsing: bytes, at: start)
    offset = try bytes.number(at: start + 16)
    byteCount = try bytes.number(at: start + 24)
    let flags: UInt32 = try bytes.number(at: start + 28)
    guard flags & ~1 == 0 else { throw .corrupt("entry \(index) has reserved flags \(UInt64(flags).hex)") }
    isRequired = flags & 1 != 0
    guard offset >= Header.megabyte, offset % Header.megabyte == 0, offset < 1 << 62, byteCount > 0,
      UInt64(byteCount) % Header.megabyte == 0
    else {
      throw .corrupt(
        "entry \(index) (\(UInt64(byteCount).hex) bytes at \(offset.hex)) does not lie on whole MiB behind the first")
    }
  }
}

/// Both copies of the region table as found, and the one that counts.
package struct RegionTablePair: Sendable {
  package var table: RegionTable
  /// What is wrong with a copy; nil where it is usable.
  package var faults: [String?]

  /// Reads both copies; the first usable one counts.
  init(reading store: any ByteStore, log: Range<UInt64>?) throws(ImageError) {
    var tables: [RegionTable] = []
    var faults: [String?] = [nil, nil]
    var firstError: ImageError?
    for (copy, offset) in RegionTable.copyOffsets.enumerated() {
      do throws(ImageError) {
        let bytes = try store.readFully("the table", at: offset, count: RegionTable.byteCount)
        tables.append(try RegionTable(parsing: bytes.rawBytes))
      } catch {
        guard error.code != .io else { throw error }
        faults[copy] = "region table \(copy + 1) \(error.message)"
        firstError = firstError ?? error
      }
    }
    guard let table = tables.first else {
      throw ImageError(
        firstError?.code ?? .corrupt, "no region table is valid: \(faults.compactMap { $0 }.joined(separator: "; "))")
    }
    try table.check(log: log)
    if tables.count == 2, tables[1] != table { faults[1] = "region table 2 differs from region table 1" }
    self.table = table
    self.faults = faults
  }
}
