import PlatterCore
import TestSupport

/// Builds VHDX files byte by byte from the specification [MS-VHDX], knowing nothing of the reader under test.
struct VHDXBuilder {
  static let megabyte = 1 << 20

  /// What the BAT says of a payload block.
  enum Block {
    /// An entry as it stands.
    case entry(UInt64)
    /// Fully present, with these bytes.
    case present([UInt8])
    /// Partially present: sectors by their number in the block.
    case partial([Int: [UInt8]])
  }

  struct Region {
    var guid: String
    var offset: UInt64
    var byteCount: UInt32
    var flags: UInt32
  }

  struct Item {
    var guid: String
    var content: [UInt8]
    var flags: UInt32
    /// Instead of the next free place.
    var offset: UInt32?
    var reserved: UInt32 = 0
    /// Instead of the content's length.
    var byteCount: UInt32?
  }

  struct Header {
    var sequenceNumber: UInt64
    var fileWriteGUID = "11111111-1111-1111-1111-111111111111"
    var dataWriteGUID = "22222222-2222-2222-2222-222222222222"
    var logGUID = "00000000-0000-0000-0000-000000000000"
    var logVersion: UInt16 = 0
    var version: UInt16 = 1
    var logByteCount: UInt32 = 1 << 20
    var logOffset: UInt64 = 1 << 20
  }

  static let batGUID = "2dc27766-f623-4200-9d64-115e9bfd4a08"
  static let metadataGUID = "8b7ca206-4790-4b9a-b8fe-575f050f886e"
  static let fileParameters = "caa16737-fa36-4d43-b3b6-33f0aa44e76b"
  static let diskSize = "2fa54224-cd1b-4876-b211-5dbed83bf4b8"
  static let page83 = "beca12ab-b2e6-4523-93ef-c309e000c746"
  static let logicalSectorSize = "8141bf1d-a96f-4709-ba47-f233a8faab5f"
  static let physicalSectorSize = "cda348c7-445d-4471-9cc9-e9885251c556"
  static let parentLocator = "a8d35f2d-b30b-454d-abf7-d3d84834ab0c"
  static let locatorType = "b04aefb7-d19e-4a81-b789-25b8e9445913"
  static let logGUID = "33333333-3333-3333-3333-333333333333"

  var diskByteCount: UInt64 = 4 << 20
  var blockByteCount: UInt32 = 1 << 20
  var logicalSectorByteCount: UInt32 = 512
  var physicalSectorByteCount: UInt32 = 4096
  /// 1 leave allocated, 2 has parent.
  var fileFlags: UInt32 = 0
  var creator = Array("test builder".utf16)
  var blocks: [Int: Block] = [:]
  /// BAT entries that stand as given, whatever the blocks say.
  var batEntries: [Int: UInt64] = [:]
  var parent: [(String, String)]?
  var headers = [Header(sequenceNumber: 1), Header(sequenceNumber: 2)]
  /// What is in the log, already encoded, and the ring's sector it begins at.
  var log: [(sector: Int, bytes: [UInt8])] = []
  var batRegionByteCount: UInt32?
  var editRegions: (inout [Region]) -> Void = { _ in }
  var editItems: (inout [Item]) -> Void = { _ in }
  /// Changes a header's bytes before its checksum is made.
  var editHeader: (_ slot: Int, inout [UInt8]) -> Void = { _, _ in }
  /// Changes a region table's bytes before its checksum is made.
  var editRegionTable: (_ copy: Int, inout [UInt8]) -> Void = { _, _ in }
  var editMetadataTable: (inout [UInt8]) -> Void = { _ in }

  // Where things lie: log, metadata, BAT, then blocks in the order of their numbers.
  static let metadataOffset = 2 * megabyte
  static let batOffset = 3 * megabyte
  var firstBlockOffset: Int { Self.batOffset + batByteCount }

  var chunkRatio: Int { (1 << 23) * Int(logicalSectorByteCount) / Int(blockByteCount) }
  var blockCount: Int {
    let (quotient, remainder) = diskByteCount.quotientAndRemainder(dividingBy: UInt64(blockByteCount))
    return Int(quotient) + (remainder == 0 ? 0 : 1)
  }
  var entryCount: Int {
    guard fileFlags & 2 != 0 else { return blockCount + (blockCount - 1) / chunkRatio }
    return (blockCount + chunkRatio - 1) / chunkRatio * (chunkRatio + 1)
  }
  var batByteCount: Int { (entryCount * 8 + Self.megabyte - 1) / Self.megabyte * Self.megabyte }

  func entryIndex(ofBlock block: Int) -> Int { block + block / chunkRatio }
  func entryIndex(ofBitmap chunk: Int) -> Int { chunk * (chunkRatio + 1) + chunkRatio }

  func build() -> [UInt8] {
    var file = [UInt8](repeating: 0, count: firstBlockOffset)
    file.put("vhdxfile", at: 0)
    for (index, unit) in creator.enumerated() { file.put(unit, at: 8 + index * 2) }
    for (slot, header) in headers.enumerated() { put(header, slot, in: &file) }
    putLog(in: &file)
    putRegions(in: &file)
    putMetadata(in: &file)
    putBlocks(in: &file)
    return file
  }

  /// The ring lies where the headers say; the file grows for it.
  private func putLog(in file: inout [UInt8]) {
    let start = Int(headers[0].logOffset)
    for (sector, bytes) in log {
      for (index, byte) in bytes.enumerated() {
        let place = start + (sector * 4096 + index) % Int(headers[0].logByteCount)
        if place >= file.count { file += [UInt8](repeating: 0, count: place + 1 - file.count) }
        file[place] = byte
      }
    }
  }

  func store() -> MemoryStore { MemoryStore(build(), name: "disk.vhdx") }

  private func put(_ header: Header, _ slot: Int, in file: inout [UInt8]) {
    var bytes = [UInt8](repeating: 0, count: 4096)
    bytes.put("head", at: 0)
    bytes.put(header.sequenceNumber, at: 8)
    bytes.put(guid: header.fileWriteGUID, at: 16)
    bytes.put(guid: header.dataWriteGUID, at: 32)
    bytes.put(guid: header.logGUID, at: 48)
    bytes.put(header.logVersion, at: 64)
    bytes.put(header.version, at: 66)
    bytes.put(header.logByteCount, at: 68)
    bytes.put(header.logOffset, at: 72)
    editHeader(slot, &bytes)
    bytes.put(ReferenceCRC.checksum(bytes), at: 4)
    file.replaceSubrange((64 << 10) * (slot + 1)..<(64 << 10) * (slot + 1) + 4096, with: bytes)
  }

  private func putRegions(in file: inout [UInt8]) {
    var regions = [
      Region(
        guid: Self.batGUID, offset: UInt64(Self.batOffset), byteCount: batRegionByteCount ?? UInt32(batByteCount),
        flags: 1),
      Region(guid: Self.metadataGUID, offset: UInt64(Self.metadataOffset), byteCount: 1 << 20, flags: 1),
    ]
    editRegions(&regions)
    for copy in 0..<2 {
      var bytes = [UInt8](repeating: 0, count: 64 << 10)
      bytes.put("regi", at: 0)
      bytes.put(UInt32(regions.count), at: 8)
      for (index, region) in regions.enumerated() {
        let start = 16 + index * 32
        bytes.put(guid: region.guid, at: start)
        bytes.put(region.offset, at: start + 16)
        bytes.put(region.byteCount, at: start + 24)
        bytes.put(region.flags, at: start + 28)
      }
      editRegionTable(copy, &bytes)
      bytes.put(ReferenceCRC.checksum(bytes), at: 4)
      file.replaceSubrange((192 + 64 * copy) << 10..<(256 + 64 * copy) << 10, with: bytes)
    }
  }

  private var items: [Item] {
    var items = [
      Item(guid: Self.fileParameters, content: blockByteCount.bytes + fileFlags.bytes, flags: 4),
      Item(guid: Self.diskSize, content: diskByteCount.bytes, flags: 6),
      Item(guid: Self.logicalSectorSize, content: logicalSectorByteCount.bytes, flags: 6),
      Item(guid: Self.physicalSectorSize, content: physicalSectorByteCount.bytes, flags: 6),
      Item(guid: Self.page83, content: Array(1...16), flags: 6),
    ]
    if let parent { items.append(Item(guid: Self.parentLocator, content: Self.locator(parent), flags: 4)) }
    return items
  }

  /// A parent locator: a table of places, then the texts.
  static func locator(_ pairs: [(String, String)], type: String = locatorType) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 20 + pairs.count * 12)
    bytes.put(guid: type, at: 0)
    bytes.put(UInt16(pairs.count), at: 18)
    for (index, (key, value)) in pairs.enumerated() {
      let key = key.utf16.flatMap(\.bytes)
      let value = value.utf16.flatMap(\.bytes)
      let start = 20 + index * 12
      bytes.put(UInt32(bytes.count), at: start)
      bytes.put(UInt32(bytes.count + key.count), at: start + 4)
      bytes.put(UInt16(key.count), at: start + 8)
      bytes.put(UInt16(value.count), at: start + 10)
      bytes += key + value
    }
    return bytes
  }

  private func putMetadata(in file: inout [UInt8]) {
    var items = items
    editItems(&items)
    let region = Self.metadataOffset
    var table = [UInt8](repeating: 0, count: 64 << 10)
    table.put("metadata", at: 0)
    table.put(UInt16(items.count), at: 10)
    var next = 64 << 10
    for (index, item) in items.enumerated() {
      let place = item.offset.map(Int.init) ?? (item.content.isEmpty ? 0 : next)
      let start = 32 + index * 32
      table.put(guid: item.guid, at: start)
      table.put(UInt32(place), at: start + 16)
      table.put(item.byteCount ?? UInt32(item.content.count), at: start + 20)
      table.put(item.flags, at: start + 24)
      table.put(item.reserved, at: start + 28)
      if place + item.content.count <= Self.megabyte {
        file.replaceSubrange(region + place..<region + place + item.content.count, with: item.content)
      }
      if item.offset == nil { next += item.content.count }
    }
    editMetadataTable(&table)
    file.replaceSubrange(region..<region + table.count, with: table)
  }

  private func putBlocks(in file: inout [UInt8]) {
    var bitmaps: [Int: [UInt8]] = [:]
    for (number, block) in blocks.sorted(by: { $0.key < $1.key }) {
      let entry = Self.batOffset + entryIndex(ofBlock: number) * 8
      let place = file.count
      switch block {
      case .entry(let value):
        file.put(value, at: entry)
      case .present(let bytes):
        file.put(UInt64(place) | 6, at: entry)
        file += bytes + [UInt8](repeating: 0, count: Int(blockByteCount) - bytes.count)
      case .partial(let sectors):
        file.put(UInt64(place) | 7, at: entry)
        // Bytes of sectors that the bitmap does not claim must never be seen.
        file += [UInt8](repeating: 0xee, count: Int(blockByteCount))
        for (sector, bytes) in sectors {
          let size = Int(logicalSectorByteCount)
          file.replaceSubrange(place + sector * size..<place + (sector + 1) * size, with: bytes)
          let bit = number % chunkRatio * (Int(blockByteCount) / size) + sector
          bitmaps[number / chunkRatio, default: [UInt8](repeating: 0, count: Self.megabyte)][bit / 8] |=
            1 << UInt8(bit % 8)
        }
      }
    }
    for (chunk, bitmap) in bitmaps.sorted(by: { $0.key < $1.key }) {
      file.put(UInt64(file.count) | 6, at: Self.batOffset + entryIndex(ofBitmap: chunk) * 8)
      file += bitmap
    }
    for (index, value) in batEntries { file.put(value, at: Self.batOffset + index * 8) }
  }
}

/// One entry of a log, as bytes for the ring.
struct VHDXLogEntry {
  enum Change {
    case page(at: UInt64, [UInt8])
    case zero(at: UInt64, UInt64)
  }

  var sequenceNumber: UInt64
  /// Byte offset in the log.
  var tail: UInt32
  var flushed: UInt64 = 0
  var last: UInt64 = 0
  var guid = VHDXBuilder.logGUID
  var changes: [Change] = []

  var headSectorCount: Int { (64 + changes.count * 32 + 4095) / 4096 }
  var sectorCount: Int {
    headSectorCount + changes.count { if case .page = $0 { true } else { false } }
  }

  func encoded() -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: headSectorCount * 4096)
    bytes.put("loge", at: 0)
    bytes.put(UInt32(sectorCount * 4096), at: 8)
    bytes.put(tail, at: 12)
    bytes.put(sequenceNumber, at: 16)
    bytes.put(UInt32(changes.count), at: 24)
    bytes.put(guid: guid, at: 32)
    bytes.put(flushed, at: 48)
    bytes.put(last, at: 56)
    for (index, change) in changes.enumerated() {
      let start = 64 + index * 32
      switch change {
      case .page(let target, let page):
        bytes.put("desc", at: start)
        bytes.replaceSubrange(start + 4..<start + 8, with: page[4092...])
        bytes.replaceSubrange(start + 8..<start + 16, with: page[..<8])
        bytes.put(target, at: start + 16)
        var sector = [UInt8](repeating: 0, count: 4096)
        sector.put("data", at: 0)
        sector.put(UInt32(sequenceNumber >> 32), at: 4)
        sector.replaceSubrange(8..<4092, with: page[8..<4092])
        sector.put(UInt32(truncatingIfNeeded: sequenceNumber), at: 4092)
        bytes += sector
      case .zero(let target, let byteCount):
        bytes.put("zero", at: start)
        bytes.put(byteCount, at: start + 8)
        bytes.put(target, at: start + 16)
      }
      bytes.put(sequenceNumber, at: start + 24)
    }
    bytes.put(ReferenceCRC.checksum(bytes), at: 4)
    return bytes
  }
}

/// CRC-32C bit by bit from its definition, tabled for speed.
enum ReferenceCRC {
  private static let table: [UInt32] = (0..<256).map { index in
    var value = UInt32(index)
    for _ in 0..<8 { value = (value >> 1) ^ (value & 1 == 1 ? 0x82f6_3b78 : 0) }
    return value
  }

  static func checksum(_ bytes: [UInt8]) -> UInt32 {
    var value: UInt32 = 0xffff_ffff
    let table = table
    for byte in bytes { value = (value >> 8) ^ table[Int(UInt8(truncatingIfNeeded: value) ^ byte)] }
    return value ^ 0xffff_ffff
  }
}

extension FixedWidthInteger {
  /// Little-endian bytes.
  var bytes: [UInt8] { (0..<bitWidth / 8).map { UInt8(truncatingIfNeeded: self >> ($0 * 8)) } }
}

extension Array where Element == UInt8 {
  mutating func put(_ text: String, at offset: Int) {
    replaceSubrange(offset..<offset + text.utf8.count, with: text.utf8)
  }

  /// Three fields little-endian, then eight bytes as written.
  mutating func put(guid text: String, at offset: Int) {
    let digits = text.filter { $0 != "-" }.compactMap(\.hexDigitValue)
    let bytes = stride(from: 0, to: 32, by: 2).map { UInt8(digits[$0] * 16 + digits[$0 + 1]) }
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]
    for (place, index) in order.enumerated() { self[offset + place] = bytes[index] }
  }

  /// `count` bytes that differ from place to place and from seed to seed.
  static func pattern(_ seed: UInt64, count: Int) -> [UInt8] {
    var state = seed &* 0x9e37_79b9_7f4a_7c15 | 1
    return (0..<count).map { _ in
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      return UInt8(truncatingIfNeeded: state >> 24) | 1
    }
  }
}
