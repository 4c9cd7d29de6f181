import PlatterCore
import PlatterQCOW2
import TestSupport

/// Counts every reference in the bytes of an image and compares with its refcounts: what `check` does, from the
/// specification alone.
struct Audit {
  /// Clusters that are referred to more often than their refcount says: the one thing that loses data.
  var tooLow: [Int] = []
  var leaked: [Int] = []
  /// Entries of the present tree whose flag "copied" is set although the cluster is referred to more than once.
  var dangerousFlags = 0
  /// Entries whose flag is not what the count says.
  var wrongFlags = 0
  var snapshotNames: [String] = []
  var bitmapFlags: [String: UInt32] = [:]

  var isSafe: Bool { tooLow.isEmpty && dangerousFlags == 0 }
  /// What a check calls clean but for leaks.
  var leaksAtMost: Bool { isSafe && wrongFlags == 0 }
  var isClean: Bool { isSafe && leaked.isEmpty && wrongFlags == 0 }

  private let bytes: [UInt8]
  private let cluster: Int
  private var references: [Int: Int] = [:]
  private var flagged: [(word: UInt64, cluster: Int)] = []

  init(_ bytes: [UInt8]) throws {
    self.bytes = bytes
    cluster = 1 << Int(try Self.word32(bytes, 20))
    try walk()
    try compare()
  }

  private static func word32(_ bytes: [UInt8], _ offset: Int) throws -> UInt32 {
    guard let word = bytes.rawBytes.bigEndian(at: offset, as: UInt32.self) else {
      throw ContractError("no word at \(offset)")
    }
    return word
  }

  private func word32(_ offset: Int) throws -> Int { Int(try Self.word32(bytes, offset)) }
  private func word(_ offset: Int) throws -> UInt64 {
    guard let word = bytes.rawBytes.bigEndian(at: offset, as: UInt64.self) else {
      throw ContractError("no word at \(offset)")
    }
    return word
  }

  private var isVersion3: Bool { bytes[7] == 3 }
  private var hasDataFile: Bool { isVersion3 && bytes[79] & 4 != 0 }
  private var isExtended: Bool { isVersion3 && bytes[79] & 16 != 0 }

  private mutating func use(_ offset: Int, _ byteCount: Int) {
    guard byteCount > 0 else { return }
    for index in offset / cluster...(offset + byteCount - 1) / cluster { references[index, default: 0] += 1 }
  }

  private mutating func walk() throws {
    use(0, cluster)
    use(Int(try word(48)), try word32(56) * cluster)
    for index in 0..<(try word32(56) * cluster / 8) {
      let block = try word(Int(try word(48)) + index * 8)
      if block != 0 { use(Int(block), cluster) }
    }
    try walkTree(Int(try word(40)), try word32(36), isActive: true)
    var offset = Int(try word(64))
    let start = offset
    for _ in 0..<(try word32(60)) {
      try walkTree(Int(try word(offset)), try word32(offset + 8), isActive: false)
      let idCount = try word32(offset + 12) >> 16
      let nameCount = try word32(offset + 12) & 0xffff
      let name = offset + 40 + (try word32(offset + 36)) + idCount
      snapshotNames.append(String(decoding: bytes[name..<name + nameCount], as: UTF8.self))
      offset += (name + nameCount - offset + 7) / 8 * 8
    }
    use(start, offset - start)
    try walkBitmaps()
  }

  private mutating func walkTree(_ l1: Int, _ count: Int, isActive: Bool) throws {
    use(l1, count * 8)
    for index in 0..<count {
      let entry = try word(l1 + index * 8)
      let table = Int(entry & 0x00ff_ffff_ffff_fe00)
      guard table != 0 else { continue }
      use(table, cluster)
      if isActive { flagged.append((entry, table / cluster)) }
      for offset in stride(from: table, to: table + cluster, by: isExtended ? 16 : 8) {
        try walkEntry(try word(offset), isActive: isActive)
      }
    }
  }

  private mutating func walkEntry(_ entry: UInt64, isActive: Bool) throws {
    if entry >> 62 & 1 == 1 {
      let bits = UInt64(70 - cluster.trailingZeroBitCount)
      let host = Int(entry & ((1 << bits) - 1))
      let sectors = Int(entry & ~(3 << 62)) >> Int(bits)
      use(host / 512 * 512, (sectors + 1) * 512)
    } else if entry & 0x00ff_ffff_ffff_fe00 != 0, !hasDataFile {
      let host = Int(entry & 0x00ff_ffff_ffff_fe00)
      use(host, cluster)
      if isActive { flagged.append((entry, host / cluster)) }
    }
  }

  private mutating func walkBitmaps() throws {
    guard isVersion3 else { return }
    var offset = try word32(100)
    while try word32(offset) != 0, try word32(offset) != 0x2385_2875 {
      offset += 8 + (try word32(offset + 4) + 7) / 8 * 8
    }
    guard try word32(offset) == 0x2385_2875 else { return }
    let count = try word32(offset + 8)
    let directory = Int(try word(offset + 24))
    use(directory, Int(try word(offset + 16)))
    var entry = directory
    for _ in 0..<count {
      let table = Int(try word(entry))
      let tableCount = try word32(entry + 8)
      use(table, tableCount * 8)
      for index in 0..<tableCount {
        let data = try word(table + index * 8)
        if data > 1 { use(Int(data & 0x00ff_ffff_ffff_fe00), cluster) }
      }
      let nameCount = try word32(entry + 16) & 0xffff
      let name = entry + 24 + (try word32(entry + 20))
      bitmapFlags[String(decoding: bytes[name..<name + nameCount], as: UTF8.self)] = UInt32(try word32(entry + 12))
      entry += (24 + (try word32(entry + 20)) + nameCount + 7) / 8 * 8
    }
  }

  private func count(_ index: Int) throws -> Int {
    let order = isVersion3 ? try word32(96) : 4
    let perBlock = (cluster * 8) >> order
    guard index / perBlock < (try word32(56)) * cluster / 8 else { return 0 }
    let block = Int(try word(Int(try word(48)) + index / perBlock * 8))
    guard block != 0 else { return 0 }
    let bit = (index % perBlock) << order
    if order < 3 { return Int(bytes[block + bit / 8] >> UInt8(bit % 8)) & ((1 << (1 << order)) - 1) }
    return bytes[block + bit / 8..<block + bit / 8 + (1 << order) / 8].reduce(0) { $0 << 8 | Int($1) }
  }

  private mutating func compare() throws {
    let last = max(bytes.count / cluster, (references.keys.max() ?? 0) + 1)
    for index in 0..<last {
      let (present, wanted) = (try count(index), references[index] ?? 0)
      if present < wanted { tooLow.append(index) }
      if present > wanted { leaked.append(index) }
    }
    for (entry, index) in flagged {
      let isSet = entry >> 63 == 1
      if isSet, (references[index] ?? 0) > 1 { dangerousFlags += 1 }
      if isSet != (try count(index) == 1) { wrongFlags += 1 }
    }
  }
}

/// All guest bytes as a map shows them; the backing image's are zeros, packed clusters their packed bytes.
func guestBytes(_ map: any ImageMap) throws -> [UInt8] {
  var content = [UInt8](repeating: 0, count: Int(map.byteCount))
  for extent in try runs(map) where extent.kind == .data || extent.kind == .packed {
    let count = extent.kind == .packed ? min(Int(extent.packedByteCount), 64) : Int(extent.byteCount)
    let bytes = try map.stores[Int(extent.store)].readPrefix(at: extent.offset, count: count)
    let start = Int(extent.start)
    content.replaceSubrange(start..<min(start + bytes.count, content.count), with: bytes.prefix(content.count - start))
  }
  return content
}

let noBarrier: @Sendable () throws(ImageError) -> Void = {}

/// Opens a store for writing.
func writer(_ store: any ByteStore) throws -> any WritableMap {
  guard let map = try QCOW2.open(store, OpenContext(isWritable: true)) as? any WritableMap else {
    throw ContractError("not writable")
  }
  return map
}

/// Writes whole clusters as the engine does.
func write(_ map: any WritableMap, _ bytes: [UInt8], at offset: UInt64) throws {
  var position = offset
  while position < offset + UInt64(bytes.count) {
    var extents: [Extent] = []
    let end = offset + UInt64(bytes.count)
    _ = try map.map(position..<end, limit: 1, into: &extents)
    let first = Int(position - offset)
    if let extent = extents.first, extent.kind == .data, !extent.isShared {
      let part = Array(bytes[first..<first + Int(extent.byteCount)])
      try map.changed(extent.start..<extent.end)
      try map.stores[Int(extent.store)].write(part.rawBytes, at: extent.offset)
      position = extent.end
    } else {
      let allocation = try map.allocate(position..<min(position + (map.allocationUnit ?? 1), end))
      let part = Array(bytes[first..<first + Int(allocation.byteCount)])
      try map.stores[Int(allocation.store)].write(part.rawBytes, at: allocation.offset)
      try map.changed(allocation.range)
      try map.link(allocation)
      position += allocation.byteCount
    }
  }
}
