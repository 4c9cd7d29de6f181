import PlatterCodecs
import PlatterCore
import TestSupport

/// Builds disk images from the format's description, sound ones and broken ones. Independent of the reader.
struct DMGBuilder {
  struct Chunk {
    var type: UInt32
    var firstSector: UInt64 = 0
    var sectorCount: UInt64
    /// The bytes in the file.
    var payload: [UInt8] = []
    /// What it decodes to; nil for zeros.
    var content: [UInt8]?
    /// Said instead of the truth.
    var offset: UInt64?
    var byteCount: UInt64?
    var hasSectorOfItsOwn = true
  }

  struct Partition {
    var name: String
    var firstSector: UInt64
    var sectorCount: UInt64
    var chunks: [Chunk]
    /// Added to the offset of all chunks, which are made smaller by it.
    var dataOffset: UInt64 = 0
    var checksum: Checksum = .crc32
    /// Said instead of the true count of chunks.
    var chunkCount: UInt32?
    var signature = "mish"
    var version: UInt32 = 1
  }

  enum Checksum { case none, crc32, wrong, stored(type: UInt32, bitCount: UInt32, value: [UInt8]) }
  enum TrailerPlace { case end, front }
  enum TableStore { case propertyList, resourceFork, both }

  var partitions: [Partition] = []
  /// Bytes of the file before the data fork.
  var lead: [UInt8] = []
  /// Bytes behind the trailer.
  var tail: [UInt8] = []
  var trailerPlace = TrailerPlace.end
  var tables = TableStore.propertyList
  /// Instead of the one that is built.
  var propertyList: [UInt8]?
  var sectorCount: UInt64?
  var dataForkChecksum = Checksum.crc32
  var masterChecksum = Checksum.crc32
  /// Last changes to the trailer: position, and a number of as many bytes as are given.
  var trailerPatches: [(offset: Int, bytes: [UInt8])] = []

  init(_ partitions: [Partition] = []) { self.partitions = partitions }

  /// One partition over the whole disk, its chunks one after another.
  init(chunks: [Chunk]) {
    partitions = [Self.partition("whole disk (Apple_HFS : 0)", first: 0, chunks)]
  }

  static func partition(_ name: String, first: UInt64, _ chunks: [Chunk]) -> Partition {
    var placed: [Chunk] = []
    var sector: UInt64 = 0
    for var chunk in chunks {
      if chunk.hasSectorOfItsOwn { chunk.firstSector = sector }
      placed.append(chunk)
      sector += chunk.sectorCount
    }
    return Partition(name: name, firstSector: first, sectorCount: sector, chunks: placed)
  }
}

// Chunks of every kind, from the codecs' descriptions.
extension DMGBuilder.Chunk {
  static func raw(_ byte: UInt8, sectors: Int = 1) -> Self {
    let bytes = [UInt8](repeating: byte, count: 512 * sectors)
    return Self(type: 1, sectorCount: UInt64(sectors), payload: bytes, content: bytes)
  }

  static func zero(sectors: UInt64) -> Self { Self(type: 0, sectorCount: sectors) }
  static func ignore(sectors: UInt64) -> Self { Self(type: 2, sectorCount: sectors) }
  static let comment = Self(type: 0x7FFF_FFFE, sectorCount: 0)
  static let end = Self(type: 0xFFFF_FFFF, sectorCount: 0)

  /// RFC 1950 over one stored block of RFC 1951.
  static func zlib(_ byte: UInt8, sectors: Int = 1) -> Self {
    let bytes = [UInt8](repeating: byte, count: 512 * sectors)
    let count = UInt16(bytes.count)
    let lengths = [UInt8(count & 255), UInt8(count >> 8), UInt8(~count & 255), UInt8(~count >> 8)]
    var (low, high): (UInt32, UInt32) = (1, 0)
    for byte in bytes {
      low = (low + UInt32(byte)) % 65521
      high = (high + low) % 65521
    }
    let payload = [0x78, 0x01, 0x01] + lengths + bytes + bigEndian(high << 16 | low)
    return Self(type: 0x8000_0005, sectorCount: UInt64(sectors), payload: payload, content: bytes)
  }

  /// Literals only.
  static func adc(_ byte: UInt8, sectors: Int = 1) -> Self {
    let bytes = [UInt8](repeating: byte, count: 512 * sectors)
    var payload: [UInt8] = []
    for start in stride(from: 0, to: bytes.count, by: 128) { payload += [0xFF] + bytes[start..<start + 128] }
    return Self(type: 0x8000_0004, sectorCount: UInt64(sectors), payload: payload, content: bytes)
  }

  /// One uncompressed block and the end.
  static func lzfse(_ byte: UInt8, sectors: Int = 1) -> Self {
    let bytes = [UInt8](repeating: byte, count: 512 * sectors)
    let length = Array(bigEndian(UInt32(bytes.count)).reversed())
    let payload = Array("bvx-".utf8) + length + bytes + Array("bvx$".utf8)
    return Self(type: 0x8000_0007, sectorCount: UInt64(sectors), payload: payload, content: bytes)
  }

  /// 512 times 0x42, as bzip2 packs it.
  static let bzip2 = Self(
    type: 0x8000_0006, sectorCount: 1,
    payload: bytes(hexadecimal: "425a6831314159265359bed343ac0000018400900000082000308049ea06ae2ee48a70a1217da68758"),
    content: [UInt8](repeating: 0x42, count: 512))

  /// 512 times 0x58, as xz packs it.
  static let lzma = Self(
    type: 0x8000_0008, sectorCount: 1,
    payload: bytes(
      hexadecimal:
        "fd377a585a0000016922de36020021010c0000008f98419ce001ff00085d002c6ffbbeb25bb00000f80248a4000120800400"
        + "00002ef67dfa3e300d8b020000000001595a"),
    content: [UInt8](repeating: 0x58, count: 512))
}

func bytes(hexadecimal text: String) -> [UInt8] {
  let digits = text.compactMap(\.hexDigitValue)
  return stride(from: 0, to: digits.count - 1, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
}

func base64(_ bytes: [UInt8], lineLength: Int = 68) -> String {
  let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
  var text = ""
  for start in stride(from: 0, to: bytes.count, by: 3) {
    let group = bytes[start..<min(start + 3, bytes.count)]
    var value: UInt32 = 0
    for index in 0..<3 { value = value << 8 | (index < group.count ? UInt32(group[start + index]) : 0) }
    for index in 0..<4 {
      text.append(index <= group.count ? alphabet[Int(value >> UInt32(18 - 6 * index) & 63)] : "=")
    }
    if text.count % lineLength < 4 { text += "\n\t\t\t" }
  }
  return text
}

extension DMGBuilder {
  /// What the disk must read as: what no chunk names is zero.
  var disk: [UInt8] {
    var end = sectorCount ?? 0
    for partition in partitions { end = max(end, partition.firstSector + partition.sectorCount) }
    var disk = [UInt8](repeating: 0, count: Int(end) * 512)
    for partition in partitions {
      for chunk in partition.chunks {
        guard let content = chunk.content else { continue }
        let start = Int(partition.firstSector + chunk.firstSector) * 512
        disk.replaceSubrange(start..<start + content.count, with: content)
      }
    }
    return disk
  }

  func build() -> [UInt8] {
    var fork: [UInt8] = []
    var records: [[UInt8]] = []
    var checksums: [UInt8] = []
    for partition in partitions {
      let checksum = Self.field(partition.checksum, over: Self.content(partition))
      checksums += checksum.value
      records.append(Self.record(partition, checksum.bytes, into: &fork))
    }
    let front = trailerPlace == .front ? 512 : 0
    var file = [UInt8](repeating: 0, count: front) + lead + fork
    var places = Places(fork: (front + lead.count, fork.count))
    if tables != .propertyList {
      let resources = Self.resourceFork(records, names: partitions.map(\.name))
      places.resources = (file.count, resources.count)
      file += resources
    }
    if tables != .resourceFork {
      let text = propertyList ?? Array(Self.propertyList(records, names: partitions.map(\.name)).utf8)
      places.list = (file.count, text.count)
      file += text
    }
    let forkField = Self.field(dataForkChecksum, over: fork)
    let master = Self.field(masterChecksum, over: checksums)
    let trailer = trailer(places, forkField.bytes, master.bytes)
    if trailerPlace == .front { file.replaceSubrange(0..<512, with: trailer) } else { file += trailer }
    return file + tail
  }

  struct Places {
    var fork: (Int, Int)
    var resources: (Int, Int) = (0, 0)
    var list: (Int, Int) = (0, 0)
  }

  private func trailer(_ places: Places, _ forkChecksum: [UInt8], _ master: [UInt8]) -> [UInt8] {
    var bytes = Array("koly".utf8) + bigEndian(UInt32(4)) + bigEndian(UInt32(512)) + bigEndian(UInt32(1))
    bytes += bigEndian(UInt64(0))
    for place in [places.fork, places.resources] { bytes += bigEndian(UInt64(place.0)) + bigEndian(UInt64(place.1)) }
    bytes += bigEndian(UInt32(1)) + bigEndian(UInt32(1)) + [UInt8](repeating: 7, count: 16)
    bytes += forkChecksum
    bytes += bigEndian(UInt64(places.list.0)) + bigEndian(UInt64(places.list.1))
    bytes += [UInt8](repeating: 0, count: 120)
    bytes += master
    bytes += bigEndian(UInt32(1)) + bigEndian(sectorCount ?? UInt64(disk.count / 512))
    bytes += [UInt8](repeating: 0, count: 12)
    for patch in trailerPatches {
      bytes.replaceSubrange(patch.offset..<patch.offset + patch.bytes.count, with: patch.bytes)
    }
    return bytes
  }

  /// What a partition's checksum runs over.
  static func content(_ partition: Partition) -> [UInt8] {
    partition.chunks.flatMap { chunk -> [UInt8] in
      if chunk.type == 0 { return [UInt8](repeating: 0, count: Int(chunk.sectorCount) * 512) }
      return chunk.content ?? []
    }
  }

  private static func field(_ checksum: Checksum, over content: @autoclosure () -> [UInt8]) -> (
    bytes: [UInt8], value: [UInt8]
  ) {
    var crc: UInt32 {
      let bytes = content()
      return CRC32.checksum(of: bytes.rawBytes)
    }
    switch checksum {
    case .none: return ([UInt8](repeating: 0, count: 136), [])
    case .crc32: return (field(2, 32, bigEndian(crc)), bigEndian(crc))
    case .wrong: return (field(2, 32, bigEndian(~crc)), bigEndian(~crc))
    case .stored(let type, let bitCount, let value): return (field(type, bitCount, value), value)
    }
  }

  private static func field(_ type: UInt32, _ bitCount: UInt32, _ value: [UInt8]) -> [UInt8] {
    bigEndian(type) + bigEndian(bitCount) + value + [UInt8](repeating: 0, count: 128 - value.count)
  }

  private static func record(_ partition: Partition, _ checksum: [UInt8], into fork: inout [UInt8]) -> [UInt8] {
    var chunks: [UInt8] = []
    for chunk in partition.chunks {
      let offset = chunk.offset ?? (UInt64(fork.count) &- partition.dataOffset)
      chunks += bigEndian(chunk.type) + bigEndian(UInt32(0)) + bigEndian(chunk.firstSector)
      chunks += bigEndian(chunk.sectorCount) + bigEndian(offset)
      chunks += bigEndian(chunk.byteCount ?? UInt64(chunk.payload.count))
      fork += chunk.payload
    }
    var bytes = Array(partition.signature.utf8) + bigEndian(partition.version)
    bytes += bigEndian(partition.firstSector) + bigEndian(partition.sectorCount) + bigEndian(partition.dataOffset)
    bytes += bigEndian(UInt32(2056)) + bigEndian(Int32(0)) + [UInt8](repeating: 0, count: 24)
    bytes += checksum + bigEndian(partition.chunkCount ?? UInt32(partition.chunks.count))
    return bytes + chunks
  }

  static let head = """
    <?xml version="1.0" encoding="UTF-8"?>
    <!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
    <plist version="1.0">

    """

  static func propertyList(_ records: [[UInt8]], names: [String]) -> String {
    var text = head + "<dict>\n\t<key>resource-fork</key>\n\t<dict>\n\t\t<key>blkx</key>\n\t\t<array>\n"
    for (index, record) in records.enumerated() {
      text += """
        \t\t<dict>
        \t\t\t<key>Attributes</key><string>0x0050</string>
        \t\t\t<key>CFName</key><string>\(names[index])</string>
        \t\t\t<key>Data</key><data>\n\t\t\t\(base64(record))\n\t\t\t</data>
        \t\t\t<key>ID</key><string>\(index - 1)</string>
        \t\t\t<key>Name</key><string>short</string>
        \t\t</dict>\n
        """
    }
    text += "\t\t</array>\n\t\t<key>plst</key><array><dict><key>Data</key><data>AAAA</data></dict></array>\n"
    return text + "\t</dict>\n</dict>\n</plist>\n"
  }

  /// Two types, "plst" before "blkx", as many images have them.
  static func resourceFork(_ records: [[UInt8]], names: [String]) -> [UInt8] {
    var data: [UInt8] = bigEndian(UInt32(3)) + [1, 2, 3]
    var references: [UInt8] = []
    var nameList: [UInt8] = []
    for (index, record) in records.enumerated() {
      references += bigEndian(Int16(index - 1)) + bigEndian(UInt16(nameList.count)) + bigEndian(UInt32(data.count))
      references += [0, 0, 0, 0]
      nameList += [UInt8(names[index].utf8.count)] + Array(names[index].utf8)
      data += bigEndian(UInt32(record.count)) + record
    }
    let other = bigEndian(Int16(0)) + bigEndian(Int16(-1)) + bigEndian(UInt32(0)) + [0, 0, 0, 0]
    var types = bigEndian(UInt16(1)) + Array("plst".utf8) + bigEndian(UInt16(0)) + bigEndian(UInt16(18))
    types += Array("blkx".utf8) + bigEndian(UInt16(records.count - 1)) + bigEndian(UInt16(30))
    let list = types + other + references
    let mapByteCount = 28 + list.count + nameList.count
    let header =
      bigEndian(UInt32(256)) + bigEndian(UInt32(256 + data.count)) + bigEndian(UInt32(data.count))
      + bigEndian(UInt32(mapByteCount))
    // The map begins with a copy of the header; 7-Zip insists on it.
    let map =
      header + [UInt8](repeating: 0, count: 8) + bigEndian(UInt16(28)) + bigEndian(UInt16(28 + list.count)) + list
      + nameList
    return header + [UInt8](repeating: 0, count: 240) + data + map
  }
}
