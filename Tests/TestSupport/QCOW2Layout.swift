/// Puts the parts of a built qcow2 image into clusters, one behind the other, and counts who uses each.
struct QCOW2Layout {
  private let image: QCOW2Builder
  private let cluster: Int
  private(set) var built: QCOW2Builder.Built
  /// References to each cluster of the file.
  private var counts: [Int] = []
  /// Where the next packed unit goes, if one lies open.
  private var packedEnd: Int?

  init(_ image: QCOW2Builder) {
    self.image = image
    cluster = image.clusterByteCount
    built = QCOW2Builder.Built(bytes: [])
  }

  mutating func placeAll() {
    _ = place([UInt8](repeating: 0, count: cluster))
    let (l1Offset, l1Count) = placeTree(
      image.entries, l1EntryCount: image.l1EntryCount, byteCount: image.byteCount, isActive: true)
    built.l1Offset = UInt64(l1Offset)
    placeSnapshots()
    let bitmapsExtension = placeBitmaps()
    placeRefcounts()
    let header = headerCluster(l1Count: l1Count, bitmapsExtension)
    precondition(header.count <= cluster, "the header does not fit into a cluster")
    built.bytes.replaceSubrange(0..<header.count, with: header)
  }

  /// Appends bytes as clusters of their own; returns their position.
  private mutating func place(_ bytes: [UInt8]) -> Int {
    packedEnd = nil
    let offset = built.bytes.count
    let clusters = (bytes.count + cluster - 1) / cluster
    built.bytes += bytes
    built.bytes.append(contentsOf: repeatElement(0, count: clusters * cluster - bytes.count))
    counts.append(contentsOf: repeatElement(1, count: clusters))
    return offset
  }

  /// Appends a packed unit right behind the last one, or in a new cluster.
  private mutating func placePacked(_ bytes: [UInt8]) -> Int {
    let offset = packedEnd ?? built.bytes.count
    let end = offset + bytes.count
    let clusters = (end + cluster - 1) / cluster
    while counts.count < clusters {
      built.bytes.append(contentsOf: repeatElement(0, count: cluster))
      counts.append(0)
    }
    built.bytes.replaceSubrange(offset..<end, with: bytes)
    for index in offset / cluster...(end - 1) / cluster { counts[index] += 1 }
    packedEnd = end % cluster == 0 ? nil : end
    return offset
  }

  /// Places data, L2 tables and the L1 table of a disk. Returns the L1 table's position and entries.
  private mutating func placeTree(
    _ entries: [Int: QCOW2Builder.Entry], l1EntryCount: Int?, byteCount: UInt64, isActive: Bool
  ) -> (Int, Int) {
    let coverage = UInt64(image.l2EntryCount) * UInt64(cluster)
    let l1Count = l1EntryCount ?? Int((byteCount + coverage - 1) / coverage)
    var hosts: [Int: UInt64] = [:]
    var tables: [Int: [UInt8]] = [:]
    for (guest, entry) in entries.sorted(by: { $0.key < $1.key }) {
      let words = place(entry, guest, &hosts)
      let l1Index = guest / image.l2EntryCount
      var table = tables[l1Index] ?? [UInt8](repeating: 0, count: cluster)
      let offset = guest % image.l2EntryCount * image.entryByteCount
      table.replaceSubrange(offset..<offset + 8, with: bigEndianBytes(words.0))
      if image.hasExtendedL2 { table.replaceSubrange(offset + 8..<offset + 16, with: bigEndianBytes(words.1)) }
      tables[l1Index] = table
    }
    var l1 = [UInt8](repeating: 0, count: l1Count * 8)
    for (index, table) in tables.sorted(by: { $0.key < $1.key }) {
      let offset = UInt64(place(table))
      if isActive { built.l2Offsets[index] = offset }
      guard index < l1Count else { continue }
      l1.replaceSubrange(index * 8..<index * 8 + 8, with: bigEndianBytes(offset | (isActive ? 1 << 63 : 0)))
    }
    if isActive { built.hostOffsets = hosts } else { built.snapshotHostOffsets.append(hosts) }
    return (place(l1.isEmpty ? [0] : l1), l1Count)
  }

  private mutating func place(_ entry: QCOW2Builder.Entry, _ guest: Int, _ hosts: inout [Int: UInt64])
    -> (UInt64, UInt64)
  {
    let copied: UInt64 = 1 << 63
    let all: UInt64 = 0xffff_ffff
    switch entry {
    case .raw(let word, let bitmap): return (word, bitmap)
    case .zero: return image.hasExtendedL2 ? (0, all << 32) : (1, 0)
    case .zeroAllocated:
      let host = placeCluster([UInt8](repeating: 0xee, count: cluster), guest)
      hosts[guest] = host
      return image.hasExtendedL2 ? (host | copied, all << 32) : (host | copied | 1, 0)
    case .data(let bytes):
      let host = placeCluster(bytes, guest)
      hosts[guest] = host
      return (host | copied, image.hasExtendedL2 ? all : 0)
    case .packed(let bytes):
      let host = UInt64(placePacked(bytes))
      hosts[guest] = host
      let sectors = (host % 512 + UInt64(bytes.count) + 511) / 512 - 1
      return (1 << 62 | sectors << UInt64(62 - (image.clusterBits - 8)) | host, 0)
    case .subclusters(let states, let bytes):
      var bitmap: UInt64 = 0
      for (index, state) in states.enumerated() {
        if state == "a" { bitmap |= 1 << UInt64(index) }
        if state == "z" { bitmap |= 1 << UInt64(32 + index) }
      }
      guard let bytes else { return (0, bitmap) }
      let host = placeCluster(bytes, guest)
      hosts[guest] = host
      return (host | copied, bitmap)
    }
  }

  /// A data cluster; with a data file it lies there, at the guest's own place.
  private mutating func placeCluster(_ bytes: [UInt8], _ guest: Int) -> UInt64 {
    guard image.dataFileName == nil else { return UInt64(guest * cluster) }
    return UInt64(place(bytes + [UInt8](repeating: 0, count: cluster - bytes.count)))
  }

  private mutating func placeSnapshots() {
    guard !image.snapshots.isEmpty else { return }
    var table: [UInt8] = []
    for snapshot in image.snapshots {
      let (offset, count) = placeTree(
        snapshot.entries, l1EntryCount: snapshot.l1EntryCount, byteCount: snapshot.diskByteCount ?? image.byteCount,
        isActive: false)
      built.snapshotL1Offsets.append(UInt64(offset))
      table += bigEndianBytes(UInt64(offset)) + bigEndianBytes(UInt32(count))
      table += bigEndianBytes(UInt16(snapshot.id.utf8.count)) + bigEndianBytes(UInt16(snapshot.name.utf8.count))
      table += bigEndianBytes(snapshot.seconds) + bigEndianBytes(snapshot.nanoseconds)
      table += bigEndianBytes(snapshot.guestClock)
      table += bigEndianBytes(UInt32(truncatingIfNeeded: snapshot.vmStateByteCount))
      var extra: [UInt8] = []
      if let size = snapshot.diskByteCount ?? (image.version >= 3 ? image.byteCount : nil) {
        extra = bigEndianBytes(snapshot.vmStateByteCount) + bigEndianBytes(size)
        if let count = snapshot.instructionCount { extra += bigEndianBytes(count) }
      }
      table += bigEndianBytes(UInt32(extra.count)) + extra + Array(snapshot.id.utf8) + Array(snapshot.name.utf8)
      table.append(contentsOf: repeatElement(0, count: (8 - table.count % 8) % 8))
    }
    built.snapshotTableOffset = UInt64(place(table))
  }

  /// Places a table for each bitmap (all bits clear) and the directory; returns the header extension.
  private mutating func placeBitmaps() -> [UInt8]? {
    guard !image.bitmaps.isEmpty else { return nil }
    var directory: [UInt8] = []
    for bitmap in image.bitmaps {
      let granularity = UInt64(1) << UInt64(bitmap.granularityBits)
      let byteCount = ((image.byteCount + granularity - 1) / granularity + 7) / 8
      let count = (Int(byteCount) + cluster - 1) / cluster
      let table = place([UInt8](repeating: 0, count: count * 8))
      directory += bigEndianBytes(UInt64(table)) + bigEndianBytes(UInt32(count)) + bigEndianBytes(bitmap.flags)
      directory += [1, bitmap.granularityBits] + bigEndianBytes(UInt16(bitmap.name.utf8.count))
      directory += bigEndianBytes(UInt32(bitmap.extra.count)) + bitmap.extra + Array(bitmap.name.utf8)
      built.bitmapTableOffsets.append(UInt64(table))
      directory.append(contentsOf: repeatElement(0, count: (8 - directory.count % 8) % 8))
    }
    built.bitmapDirectoryOffset = UInt64(place(directory))
    return bigEndianBytes(UInt32(image.bitmaps.count)) + bigEndianBytes(UInt32(0))
      + bigEndianBytes(UInt64(directory.count)) + bigEndianBytes(built.bitmapDirectoryOffset)
  }

  /// Places refcount blocks and their table behind everything else; they count themselves.
  private mutating func placeRefcounts() {
    let bits = 1 << Int(image.refcountOrder)
    let perBlock = cluster * 8 / bits
    var blockCount = 0
    var tableClusters = 0
    while true {
      let clusters = counts.count + blockCount + tableClusters
      let blocks = (clusters + perBlock - 1) / perBlock
      let tables = (blocks * 8 + cluster - 1) / cluster
      if blocks == blockCount, tables == tableClusters { break }
      (blockCount, tableClusters) = (blocks, tables)
    }
    let all = counts + [Int](repeating: 1, count: blockCount + tableClusters)
    var blocks = [UInt8](repeating: 0, count: blockCount * cluster)
    for (index, count) in all.enumerated() {
      if bits >= 8 {
        let bytes = bigEndianBytes(UInt64(count)).suffix(bits / 8)
        blocks.replaceSubrange(index * bits / 8..<(index + 1) * bits / 8, with: bytes)
      } else {
        // The first count lies in the lowest bits of a byte.
        blocks[index * bits / 8] |= UInt8(count) << UInt8(index * bits % 8)
      }
    }
    let first = place(blocks)
    var table: [UInt8] = []
    for index in 0..<blockCount { table += bigEndianBytes(UInt64(first + index * cluster)) }
    built.refcountTableOffset = UInt64(place(table))
    refcountTableClusters = tableClusters
  }

  private var refcountTableClusters = 0

  private func headerCluster(l1Count: Int, _ bitmapsExtension: [UInt8]?) -> [UInt8] {
    let isVersion3 = image.version >= 3
    let extensions = extensionBytes(bitmapsExtension)
    let start = isVersion3 ? Int(image.headerByteCount) : 72
    var header = bigEndianBytes(UInt32(0x5146_49fb)) + bigEndianBytes(image.version)
    header += bigEndianBytes(UInt64(image.backingName == nil ? 0 : start + extensions.count))
    header += bigEndianBytes(UInt32(image.backingName?.count ?? 0)) + bigEndianBytes(UInt32(image.clusterBits))
    header += bigEndianBytes(image.byteCount) + bigEndianBytes(image.encryptionMethod)
    header += bigEndianBytes(UInt32(l1Count)) + bigEndianBytes(built.l1Offset)
    header += bigEndianBytes(built.refcountTableOffset) + bigEndianBytes(UInt32(refcountTableClusters))
    header += bigEndianBytes(UInt32(image.snapshots.count)) + bigEndianBytes(built.snapshotTableOffset)
    if isVersion3 {
      var incompatible = image.incompatible
      if image.dataFileName != nil { incompatible |= 4 }
      if image.compressionType != 0 { incompatible |= 8 }
      if image.hasExtendedL2 { incompatible |= 16 }
      header += bigEndianBytes(incompatible) + bigEndianBytes(image.compatible)
      header += bigEndianBytes(image.autoclear | (image.bitmaps.isEmpty ? 0 : 1))
      header += bigEndianBytes(image.refcountOrder) + bigEndianBytes(image.headerByteCount)
      header += [image.compressionType] + [UInt8](repeating: 0, count: 7)
      header = Array(header.prefix(start))
      header.append(contentsOf: repeatElement(0, count: start - header.count))
    }
    return header + extensions + (image.backingName ?? [])
  }

  private func extensionBytes(_ bitmapsExtension: [UInt8]?) -> [UInt8] {
    var all: [(UInt32, [UInt8])] = []
    if let format = image.backingFormat { all.append((0xe279_2aca, Array(format.utf8))) }
    if let name = image.dataFileName { all.append((0x4441_5441, Array(name.utf8))) }
    if !image.featureNames.isEmpty {
      var table: [UInt8] = []
      for (type, bit, name) in image.featureNames {
        table += [type, bit] + Array(name.utf8) + [UInt8](repeating: 0, count: 46 - name.utf8.count)
      }
      all.append((0x6803_f857, table))
    }
    if let bitmapsExtension { all.append((0x2385_2875, bitmapsExtension)) }
    all += image.extensions
    var bytes: [UInt8] = []
    for (type, data) in all {
      bytes += bigEndianBytes(type) + bigEndianBytes(UInt32(data.count)) + data
      bytes.append(contentsOf: repeatElement(0, count: (8 - data.count % 8) % 8))
    }
    return bytes + [UInt8](repeating: 0, count: 8)
  }
}
