import Platter
import PlatterCore
import PlatterVMDK
import TestSupport
import Testing

/// Writes hosted sparse extents from the specification, field by field.
struct SparseBuilder {
  enum Grain {
    case filled(UInt8)
    /// An entry of the grain table as it is.
    case entry(UInt32)
    /// A compressed grain whose marker says something else.
    case marked(UInt8, lba: UInt64, size: UInt32?)
  }

  enum Directory {
    case front
    /// The header refers to the footer.
    case footer
    /// Tables and footer at the end, and the header knows the place.
    case end
  }

  var version: UInt32 = 1
  var flags: UInt32 = 3
  var capacity: UInt64 = 8192
  var grainSectors: UInt64 = 8
  var entries: UInt32 = 512
  var compression: UInt16 = 0
  var unclean: UInt8 = 0
  var newlines: [UInt8] = [0x0a, 0x20, 0x0d, 0x0a]
  var descriptor: String? = SparseBuilder.descriptor("RW 8192 SPARSE \"stale name.vmdk\"\n")
  var directory = Directory.front
  var grains: [UInt64: Grain] = [:]
  /// Grain tables to leave out.
  var missingTables: Set<Int> = []

  private(set) var bytes: [UInt8] = []
  private(set) var directorySector: UInt64 = 0
  private(set) var redundantSector: UInt64 = 0
  private(set) var tableSectors: [UInt64] = []
  private(set) var redundantTableSectors: [UInt64] = []
  private(set) var grainPlaces: [UInt64: UInt64] = [:]

  static func descriptor(
    _ extents: String, type: String = "monolithicSparse", contentID: String = "12345678", more: String = ""
  ) -> String {
    "# Disk DescriptorFile\nversion=1\nCID=\(contentID)\nparentCID=ffffffff\ncreateType=\"\(type)\"\n"
      + "\(more)\n\(extents)\n"
  }

  /// A streamOptimized extent: compressed, with markers.
  static func stream(_ directory: Directory = .footer) -> SparseBuilder {
    var builder = SparseBuilder()
    builder.version = 3
    builder.flags = 0x30001
    builder.compression = 1
    builder.directory = directory
    builder.descriptor = SparseBuilder.descriptor("RW 8192 SPARSE \"x.vmdk\"\n", type: "streamOptimized")
    return builder
  }

  var grainByteCount: Int { Int(grainSectors) * 512 }
  private var tableCount: Int { Int((capacity + grainSectors * 512 - 1) / (grainSectors * 512)) }
  private var hasMarkers: Bool { flags & 0x20000 != 0 }

  mutating func build() -> [UInt8] {
    bytes = [UInt8](repeating: 0, count: 512)
    appendSectors(of: Array((descriptor ?? "").utf8), atLeast: descriptor == nil ? 0 : 20)
    var tables = [[UInt32]](repeating: [UInt32](repeating: 0, count: 512), count: tableCount)
    if directory == .front {
      // Places first, as the grains come after: the tables are filled in at the end.
      if flags & 2 != 0 { (redundantSector, redundantTableSectors) = appendDirectory() }
      (directorySector, tableSectors) = appendDirectory()
    }
    while UInt64(bytes.count / 512) % grainSectors != 0 { appendSectors(of: [], atLeast: 1) }
    let overhead = UInt64(bytes.count / 512)
    for (index, grain) in grains.sorted(by: { $0.key < $1.key }) {
      tables[Int(index / 512)][Int(index % 512)] = append(grain, index)
    }
    if directory != .front {
      if hasMarkers { appendMarker(UInt64(4 * tableCount), kind: 1) }
      (directorySector, tableSectors) = appendDirectory()
    }
    for (index, table) in tables.enumerated() {
      for (entry, value) in table.enumerated() {
        for place in [tableSectors, redundantTableSectors] where place.count > index && place[index] != 0 {
          bytes.put(value, at: Int(place[index]) * 512 + entry * 4)
        }
      }
    }
    let deferred = directory == .footer ? UInt64.max : directorySector
    putHeader(at: 0, directory: deferred, overhead: overhead)
    if directory != .front {
      appendMarker(1, kind: 3)
      appendSectors(of: [], atLeast: 1)
      putHeader(at: bytes.count - 512, directory: directorySector, overhead: overhead)
      appendMarker(0, kind: 0)
    }
    return bytes
  }

  private mutating func appendSectors(of content: [UInt8], atLeast count: Int) {
    let sectors = max(count, (content.count + 511) / 512)
    bytes += content + [UInt8](repeating: 0, count: sectors * 512 - content.count)
  }

  private mutating func appendMarker(_ value: UInt64, kind: UInt32) {
    let place = bytes.count
    appendSectors(of: [], atLeast: 1)
    bytes.put(value, at: place)
    bytes.put(kind, at: place + 12)
  }

  /// A directory with its tables; returns their sectors.
  private mutating func appendDirectory() -> (UInt64, [UInt64]) {
    let place = bytes.count
    appendSectors(of: [UInt8](repeating: 0, count: tableCount * 4), atLeast: 1)
    var sectors: [UInt64] = []
    for index in 0..<tableCount {
      guard !missingTables.contains(index) else {
        sectors.append(0)
        continue
      }
      sectors.append(UInt64(bytes.count / 512))
      bytes.put(UInt32(bytes.count / 512), at: place + index * 4)
      appendSectors(of: [], atLeast: 4)
    }
    return (UInt64(place / 512), sectors)
  }

  private mutating func append(_ grain: Grain, _ index: UInt64) -> UInt32 {
    let place = UInt32(bytes.count / 512)
    switch grain {
    case .entry(let value): return value
    case .filled(let byte):
      grainPlaces[index] = UInt64(bytes.count)
      let plain = [UInt8](repeating: byte, count: grainByteCount)
      if compression == 1 {
        appendPacked(zlib(plain), lba: index * grainSectors, size: nil)
      } else {
        appendSectors(of: plain, atLeast: 0)
      }
    case .marked(let byte, let lba, let size):
      grainPlaces[index] = UInt64(bytes.count)
      appendPacked(zlib([UInt8](repeating: byte, count: grainByteCount)), lba: lba, size: size)
    }
    return place
  }

  private mutating func appendPacked(_ packed: [UInt8], lba: UInt64, size: UInt32?) {
    var content: [UInt8] = []
    if hasMarkers {
      content = [UInt8](repeating: 0, count: 12)
      content.put(lba, at: 0)
      content.put(size ?? UInt32(packed.count), at: 8)
    }
    appendSectors(of: content + packed, atLeast: 1)
  }

  private mutating func putHeader(at place: Int, directory: UInt64, overhead: UInt64) {
    bytes.put(UInt32(0x564d_444b), at: place)
    bytes.put(version, at: place + 4)
    bytes.put(flags, at: place + 8)
    bytes.put(capacity, at: place + 12)
    bytes.put(grainSectors, at: place + 20)
    bytes.put(descriptor == nil ? 0 : UInt64(1), at: place + 28)
    bytes.put(descriptor == nil ? 0 : UInt64(20), at: place + 36)
    bytes.put(entries, at: place + 44)
    bytes.put(redundantSector, at: place + 48)
    bytes.put(directory, at: place + 56)
    bytes.put(overhead, at: place + 64)
    bytes[place + 72] = unclean
    for (index, byte) in newlines.enumerated() { bytes[place + 73 + index] = byte }
    bytes.put(compression, at: place + 77)
  }
}

/// A zlib stream of one stored block.
func zlib(_ plain: [UInt8]) -> [UInt8] {
  var first: UInt32 = 1
  var second: UInt32 = 0
  for byte in plain {
    first = (first + UInt32(byte)) % 65521
    second = (second + first) % 65521
  }
  let count = UInt16(plain.count)
  var packed: [UInt8] = [0x78, 0x01, 1, 0, 0, 0, 0]
  packed.put(count, at: 3)
  packed.put(~count, at: 5)
  return packed + plain + [UInt8(second >> 8), UInt8(second & 255), UInt8(first >> 8), UInt8(first & 255)]
}

/// Writes VMFSSPARSE extents.
struct COWDBuilder {
  var version: UInt32 = 1
  var capacity: UInt32 = 8192
  var grainSectors: UInt32 = 1
  var directoryEntries: UInt32 = 2
  var unclean: UInt32 = 0
  var grains: [Int: UInt8] = [:]

  func build() -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 2048 + 512 + 4096 * 4)
    bytes.replaceSubrange(0..<4, with: Array("COWD".utf8))
    bytes.put(version, at: 4)
    bytes.put(UInt32(3), at: 8)
    bytes.put(capacity, at: 12)
    bytes.put(grainSectors, at: 16)
    bytes.put(UInt32(4), at: 20)
    bytes.put(directoryEntries, at: 24)
    bytes.put(unclean, at: 1648)
    // One table, for the first grains of the disk.
    bytes.put(UInt32(5), at: 2048)
    for (index, byte) in grains.sorted(by: { $0.key < $1.key }) {
      bytes.put(UInt32(bytes.count / 512), at: 2560 + index * 4)
      bytes += [UInt8](repeating: byte, count: Int(grainSectors) * 512)
    }
    return bytes
  }
}

/// Writes SESPARSE extents: sector 0 header, 1 volatile header, 2 directory, 3... one grain table, then grains.
struct SESparseBuilder {
  var words: [Int: UInt64] = [:]
  var replay: UInt64 = 0
  var directoryEntry: UInt64 = 0x1000_0000_0000_0000
  /// Entries of the grain table as they are.
  var entries: [Int: UInt64] = [:]
  var grainBytes: [UInt8] = []

  func build() -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: (3 + 64) * 512)
    let header: [UInt64] = [
      0xcafe_babe, 0x2_0000_0001, 32768, 8, 64, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 2, 1, 3, 64, 0, 0, 0, 0, 67, 8192,
    ]
    for (index, word) in header.enumerated() { bytes.put(words[index] ?? word, at: index * 8) }
    bytes.put(UInt64(0xcafe_cafe), at: 512)
    bytes.put(replay, at: 512 + 24)
    bytes.put(directoryEntry, at: 1024)
    for (index, entry) in entries { bytes.put(entry, at: 1536 + index * 8) }
    return bytes + grainBytes.flatMap { [UInt8](repeating: $0, count: 4096) }
  }
}

func open(_ bytes: [UInt8], _ context: OpenContext = OpenContext()) throws(ImageError) -> any ImageMap {
  try VMDK.open(MemoryStore(bytes, name: "disk.vmdk"), context)
}

/// What opening throws, as the user sees it; nil where it opens.
func refusal(_ bytes: [UInt8], _ context: OpenContext = OpenContext()) -> ImageError? {
  do {
    _ = try open(bytes, context)
    return nil
  } catch { return error }
}

/// Guest bytes, through the engine.
func guestBytes(_ bytes: [UInt8], _ count: Int, at offset: UInt64) throws(ImageError) -> [UInt8] {
  var options = OpenOptions(format: "vmdk")
  options.opensBacking = false
  return try DiskImage.open(MemoryStore(bytes, name: "disk.vmdk"), options).read(count, at: offset)
}

/// What mapping throws, as the user sees it.
func mapError(_ bytes: [UInt8]) throws -> ImageError? {
  let image = try open(bytes)
  do {
    _ = try runs(image)
    return nil
  } catch { return error as? ImageError }
}
