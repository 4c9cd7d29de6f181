import PlatterCore

/// An old resource fork, where images without a property list keep their block tables.
///
///     header   256 bytes: data offset, map offset, data length, map length
///     data     per resource: length (4 bytes), bytes
///     map      28 bytes, then the list of types; per type its references; names
///
/// [Inside Macintosh: More Macintosh Toolbox, Resource File Format]
struct ResourceFork {
  static let headerByteCount = 16
  /// Most bytes of a resource map: all its offsets have 16 bits, and a reference 12 bytes.
  static let maximumMapByteCount: UInt64 = 1 << 20
  /// Most bytes of all block tables together.
  static let maximumTotalByteCount: UInt64 = PropertyListParser.maximumByteCount

  private let store: any ByteStore
  /// The resources' bytes, in the store.
  private let data: FileRange
  private let map: [UInt8]

  /// - Parameter fork: checked to lie inside the store.
  private init(_ store: any ByteStore, _ fork: FileRange) throws(ImageError) {
    guard fork.byteCount >= UInt64(Self.headerByteCount) else {
      throw .truncated("the resource fork has \(fork.byteCount) bytes, fewer than its header")
    }
    let header = try store.readFully("the resource fork's header", at: fork.offset, count: Self.headerByteCount)
    func part(_ what: String, offsetAt: Int, lengthAt: Int) throws(ImageError) -> FileRange {
      let offset = UInt64(header.rawBytes.bigEndian(at: offsetAt, as: UInt32.self) ?? 0)
      let byteCount = UInt64(header.rawBytes.bigEndian(at: lengthAt, as: UInt32.self) ?? 0)
      guard offset + byteCount <= fork.byteCount else {
        throw .corrupt(
          "the resource fork puts its \(what) (\(byteCount.hex) bytes) at \(offset.hex), past its end "
            + "(\(fork.byteCount.hex))")
      }
      return FileRange(offset: fork.offset + offset, byteCount: byteCount)
    }
    let map = try part("map", offsetAt: 4, lengthAt: 12)
    guard map.byteCount <= Self.maximumMapByteCount else {
      throw .unsupported("the resource fork's map has \(map.byteCount) bytes, more than \(Self.maximumMapByteCount)")
    }
    self.store = store
    data = try part("data", offsetAt: 0, lengthAt: 8)
    self.map = try store.readFully("the resource fork's map", at: map.offset, count: Int(map.byteCount))
  }

  /// Hands over the resources of type "blkx" one by one, in the order of the map.
  ///
  /// - Parameter range: checked to lie inside the store.
  /// - Throws: `.corrupt`, `.truncated`, `.unsupported`, and what `body` throws.
  static func forEachBlockTable(
    in store: any ByteStore, _ range: FileRange, _ body: (BlockTableResource) throws(ImageError) -> Void
  ) throws(ImageError) {
    let fork = try ResourceFork(store, range)
    var total: UInt64 = 0
    try fork.forEachReference(toType: 0x626C_6B78) { nameOffset, dataOffset throws(ImageError) in
      let bytes = try fork.resource(at: dataOffset, total: &total)
      try body(BlockTableResource(name: fork.name(at: nameOffset), bytes: bytes))
    }
  }

  private func forEachReference(
    toType type: UInt32, _ body: (_ nameOffset: Int, _ dataOffset: UInt64) throws(ImageError) -> Void
  ) throws(ImageError) {
    let typeList = Int(try field(24, "offset of the type list") as UInt16)
    let typeCount = Int((try field(typeList, "count of types") as UInt16) &+ 1)
    for index in 0..<typeCount {
      let entry = typeList + 2 + 8 * index
      guard try field(entry, "type \(index)") as UInt32 == type else { continue }
      let count = Int(try field(entry + 4, "count of type \(index)") as UInt16) + 1
      let references = typeList + Int(try field(entry + 6, "references of type \(index)") as UInt16)
      for number in 0..<count {
        let reference = references + 12 * number
        let what = "reference \(number) of type \(index)"
        let nameOffset: Int16 = try field(reference + 2, what)
        let dataOffset: UInt32 = try field(reference + 4, what)
        try body(Int(nameOffset), UInt64(dataOffset & 0xFF_FFFF))
      }
    }
  }

  private func field<T: FixedWidthInteger & BitwiseCopyable>(_ offset: Int, _ what: String) throws(ImageError) -> T {
    guard let value: T = map.rawBytes.bigEndian(at: offset) else {
      throw .corrupt("the resource fork's map (\(map.count) bytes) ends before the \(what) at \(offset)")
    }
    return value
  }

  private func resource(at offset: UInt64, total: inout UInt64) throws(ImageError) -> [UInt8] {
    guard offset + 4 <= data.byteCount else {
      throw .corrupt("a resource lies at \(offset.hex), past the resource fork's data (\(data.byteCount.hex))")
    }
    let header = try store.readFully("a resource", at: data.offset + offset, count: 4)
    let byteCount = UInt64(header.rawBytes.bigEndian(at: 0, as: UInt32.self) ?? 0)
    guard offset + 4 + byteCount <= data.byteCount else {
      throw .corrupt(
        "a resource has \(byteCount.hex) bytes at \(offset.hex), past the resource fork's data "
          + "(\(data.byteCount.hex))")
    }
    // Many references may name one resource.
    total += byteCount
    guard total <= Self.maximumTotalByteCount else {
      throw .unsupported("the block tables have more than \(Self.maximumTotalByteCount) bytes")
    }
    return try store.readFully("a resource", at: data.offset + offset + 4, count: Int(byteCount))
  }

  /// A Pascal string in the map; empty where there is none. A bad place costs the name only.
  private func name(at offset: Int) -> String {
    guard offset >= 0, let list: UInt16 = map.rawBytes.bigEndian(at: 26) else { return "" }
    let start = Int(list) + offset
    guard let count: UInt8 = map.rawBytes.bigEndian(at: start),
      let bytes = map.rawBytes.bytes(at: start + 1, count: Int(count))
    else { return "" }
    return String(decoding: bytes, as: UTF8.self)
  }
}
