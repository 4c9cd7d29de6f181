import PlatterCore

/// Reference counts of host clusters, and with them the allocator.
///
///     table (in memory whole, at most 8 MiB)  ->  blocks of one cluster (cached)  ->  a count per host cluster
///
/// Ordering rules, kept by `WriterCore.publish`:
/// - a count goes up in memory at once and on disk before anything refers to the cluster;
/// - a count goes down only after what referred to the cluster is gone from the disk: such clusters wait in `dropped`,
///   keep their count until then, and are therefore not found free;
/// - a new block is on disk before the table entry that names it, a new table before the header that names it;
/// - between `beginCopy` and `finishCopy` no block on disk and no table changes: what changes has moved before.
struct Refcounts {
  /// Pieces of blocks that are cached: 8 MiB at most.
  private static let cacheByteCount: UInt64 = 8 << 20
  private static let maximumPieceByteCount: UInt64 = 64 << 10

  private struct Piece {
    var bytes: [UInt8]
    var dirty: Range<Int>?
    var lastUse: UInt64
  }

  let geometry: RefcountGeometry
  private let pieceByteCount: UInt64
  private(set) var table: [UInt64]
  private(set) var tableOffset: UInt64
  private var dirtyTableEntries: Set<Int> = []
  /// Set when the table was moved: it is then written whole, and the old one freed after the header names the new one.
  private(set) var movedFrom: (offset: UInt64, byteCount: UInt64)?
  private var pieces: [UInt64: Piece] = [:]
  private var dirtyPieceCount = 0
  private var clock: UInt64 = 0
  /// Blocks that the table on disk does not name yet.
  private(set) var newBlocks: Set<UInt64> = []
  /// References that are gone in memory, host cluster by host cluster; subtracted by `subtractDropped`.
  private(set) var dropped: [UInt64] = []
  /// Clusters that blocks move to before they change, where the counts on disk must stay as they are; nil elsewhere.
  private var reserve: [UInt64]?
  /// Blocks that have moved there.
  private var replacedBlocks: [UInt64] = []
  /// Set when the table was left between two places: nothing may be published then.
  private(set) var damage: ImageError?
  /// No free cluster lies before this one.
  private var searchStart: UInt64 = 0
  /// First cluster behind everything that was ever handed out and behind the end of the file at opening: such clusters
  /// read as zeros.
  private(set) var freshStart: UInt64
  /// Blocks in which a fresh cluster was looked for, with their numbers.
  private var freshBlocks: [UInt64: UInt64] = [:]

  init(_ header: Header, _ store: any ByteStore, fileByteCount: UInt64) throws(ImageError) {
    geometry = RefcountGeometry(header)
    pieceByteCount = min(header.clusterByteCount, Self.maximumPieceByteCount)
    tableOffset = header.refcountTableOffset
    let byteCount = UInt64(header.refcountTableClusterCount) * header.clusterByteCount
    guard byteCount <= Header.maximumRefcountTableByteCount else {
      throw .corrupt("the refcount table has \(byteCount) bytes, more than \(Header.maximumRefcountTableByteCount)")
    }
    table = Words.decode(try store.readFully("refcount table", at: tableOffset, count: Int(byteCount)))
    freshStart = fileByteCount.dividedRoundingUp(by: header.clusterByteCount)
  }

  var clusterByteCount: UInt64 { geometry.clusterByteCount }
  private var countsPerPiece: Int { Int(geometry.countsPerBlock / (clusterByteCount / pieceByteCount)) }
  var tableByteCount: UInt64 { UInt64(table.count) * 8 }
  var isLarge: Bool { UInt64(dirtyPieceCount) * pieceByteCount >= Self.cacheByteCount / 2 || dropped.count > 1 << 16 }
  /// Where the blocks lie that the table names.
  var blockOffsets: [UInt64] {
    table.compactMap { $0 & RefcountGeometry.offsetMask == 0 ? nil : $0 & RefcountGeometry.offsetMask }
  }

  // MARK: Counts

  /// How often a host cluster is referred to.
  mutating func count(of cluster: UInt64, _ store: any ByteStore) throws(ImageError) -> UInt64 {
    guard let place = try place(of: cluster) else { return 0 }
    try load(place.piece, store)
    guard let piece = pieces[place.piece] else { return 0 }
    return geometry.count(place.index, in: piece.bytes.rawBytes)
  }

  /// Where a cluster's count lies: the piece's file offset, and the count's index in it; nil where no block counts it.
  private func place(of cluster: UInt64) throws(ImageError) -> (piece: UInt64, index: Int)? {
    let index = cluster / geometry.countsPerBlock
    guard index < UInt64(table.count) else { return nil }
    let block = table[Int(index)] & RefcountGeometry.offsetMask
    guard block != 0 else { return nil }
    guard block % clusterByteCount == 0 else {
      // Scripts know the sentence.
      throw .corrupt("Refblock offset \(block.hex) unaligned (reftable index: \(index.hex))")
    }
    let slot = Int(cluster % geometry.countsPerBlock)
    return (block + UInt64(slot / countsPerPiece) * pieceByteCount, slot % countsPerPiece)
  }

  private mutating func load(_ offset: UInt64, _ store: any ByteStore) throws(ImageError) {
    clock += 1
    if pieces[offset] != nil {
      pieces[offset]?.lastUse = clock
      return
    }
    let bytes = try store.readFully("refcount block", at: offset, count: Int(pieceByteCount))
    if UInt64(pieces.count) * pieceByteCount >= Self.cacheByteCount { evict() }
    pieces[offset] = Piece(bytes: bytes, dirty: nil, lastUse: clock)
  }

  private mutating func evict() {
    var clean: [(use: UInt64, offset: UInt64)] = []
    for (offset, piece) in pieces where piece.dirty == nil { clean.append((piece.lastUse, offset)) }
    clean.sort { $0.use < $1.use }
    for (_, offset) in clean.prefix(max(1, clean.count / 4)) { pieces[offset] = nil }
  }

  /// Sets a cluster's count; makes the block where there is none.
  mutating func set(_ value: UInt64, of cluster: UInt64, _ store: any ByteStore) throws(ImageError) {
    guard value <= geometry.maximum else {
      throw ImageError(
        .unsupported,
        "cluster \(cluster) would be referred to \(value) times, more than the image's refcounts can say "
          + "(\(geometry.maximum))")
    }
    if try place(of: cluster) == nil { try makeBlock(Int(cluster / geometry.countsPerBlock), store) }
    if isCopying { try moveBlock(Int(cluster / geometry.countsPerBlock), store) }
    guard let place = try place(of: cluster) else { throw .corrupt("cluster \(cluster) has no refcount block") }
    try load(place.piece, store)
    let geometry = geometry
    guard
      var changed = pieces[place.piece]?.bytes.withMutableRawBytes({ geometry.set(place.index, in: &$0, to: value) })
    else { return }
    if let dirty = pieces[place.piece]?.dirty {
      changed = min(dirty.lowerBound, changed.lowerBound)..<max(dirty.upperBound, changed.upperBound)
    } else {
      dirtyPieceCount += 1
    }
    pieces[place.piece]?.dirty = changed
    if value == 0 { searchStart = min(searchStart, cluster) }
  }

  mutating func increment(_ cluster: UInt64, by amount: UInt64 = 1, _ store: any ByteStore) throws(ImageError) {
    let present = try count(of: cluster, store)
    guard let value = present.adding(amount) else { throw .corrupt("the refcount of cluster \(cluster) overflows") }
    try set(value, of: cluster, store)
  }

  /// Notes that a reference to a cluster is gone. The count follows at the next publish.
  mutating func drop(_ cluster: UInt64) { dropped.append(cluster) }

  /// Subtracts dropped references, now that nothing on disk refers to them. Returns the clusters that became free.
  /// - Parameter limit: so many at most.
  mutating func subtractDropped(atMost limit: Int, _ store: any ByteStore) throws(ImageError) -> [UInt64] {
    var free: [UInt64] = []
    let clusters = Array(dropped.suffix(limit))
    dropped.removeLast(clusters.count)
    for cluster in clusters {
      let present = try count(of: cluster, store)
      guard present > 0 else { throw .corrupt("the refcount of cluster \(cluster) is 0 while something refers to it") }
      try set(present - 1, of: cluster, store)
      if present == 1 { free.append(cluster) }
    }
    return free
  }

  // MARK: Allocation

  /// Takes up to `wanted` clusters in a row; at least one.
  mutating func allocate(_ wanted: UInt64, _ store: any ByteStore) throws(ImageError) -> Range<UInt64> {
    let first: UInt64
    if let free = try firstFree(store) { first = free } else { first = try freshCluster(store) }
    var end = first
    do throws(ImageError) {
      try extendRow(from: first, wanted, &end, store)
    } catch {
      for cluster in first..<end { drop(cluster) }
      throw error
    }
    searchStart = end
    return first..<end
  }

  private mutating func extendRow(
    from first: UInt64, _ wanted: UInt64, _ end: inout UInt64, _ store: any ByteStore
  ) throws(ImageError) {
    while true {
      try set(1, of: end, store)
      end += 1
      freshStart = max(freshStart, end)
      // Making a block takes a cluster behind the end, so a row never runs into a stretch without one.
      guard end - first < wanted else { break }
      let isCounted = try place(of: end) != nil
      guard isCounted || end < freshStart else { break }
      let present = try count(of: end, store)
      guard present == 0 else { break }
    }
  }

  /// The first free cluster before the fresh ones, or nil.
  private mutating func firstFree(_ store: any ByteStore) throws(ImageError) -> UInt64? {
    var cluster = searchStart
    while cluster < freshStart {
      guard let place = try place(of: cluster) else { return cluster }
      try load(place.piece, store)
      guard let bytes = pieces[place.piece]?.bytes else { return cluster }
      let raw = bytes.rawBytes
      for index in place.index..<countsPerPiece {
        guard cluster < freshStart else { break }
        if geometry.count(index, in: raw) == 0 { return cluster }
        cluster += 1
      }
      searchStart = cluster
    }
    return nil
  }

  /// The first fresh cluster that is free and has a block to be counted in. A file that was cut leaves counts behind its
  /// end; they are passed over.
  private mutating func freshCluster(_ store: any ByteStore) throws(ImageError) -> UInt64 {
    while true {
      guard let place = try place(of: freshStart) else {
        try makeBlock(Int(freshStart / geometry.countsPerBlock), store)
        continue
      }
      if freshStart % geometry.countsPerBlock == 0 {
        try noteFreshBlock(place.piece, number: freshStart / geometry.countsPerBlock)
      }
      try load(place.piece, store)
      guard let bytes = pieces[place.piece]?.bytes else { continue }
      let raw = bytes.rawBytes
      for index in place.index..<countsPerPiece {
        if geometry.count(index, in: raw) == 0 { return freshStart }
        freshStart += 1
      }
    }
  }

  /// A table that names one block over and over would count clusters without end.
  private mutating func noteFreshBlock(_ offset: UInt64, number: UInt64) throws(ImageError) {
    if let other = freshBlocks.updateValue(number, forKey: offset), other != number {
      throw .corrupt(
        "the refcount table names block \(offset.hex) twice, for clusters behind the end of the file; "
          + "the image must be repaired first")
    }
  }

  /// Takes this very cluster if it is free.
  mutating func allocate(exactly cluster: UInt64, _ store: any ByteStore) throws(ImageError) -> Bool {
    if try place(of: cluster) == nil { try makeBlock(Int(cluster / geometry.countsPerBlock), store) }
    guard try count(of: cluster, store) == 0 else { return false }
    try set(1, of: cluster, store)
    freshStart = max(freshStart, cluster + 1)
    return true
  }

  /// Takes exactly `count` clusters in a row, at the end of the file where nothing before is long enough.
  mutating func allocateRow(_ count: UInt64, _ store: any ByteStore) throws(ImageError) -> Range<UInt64> {
    let row = try allocate(count, store)
    guard row.upperBound - row.lowerBound < count else { return row }
    for cluster in row { try set(0, of: cluster, store) }
    // Behind the end: blocks for the row first, since each may take a cluster out of it.
    while true {
      let start = try freshCluster(store)
      for index in start / geometry.countsPerBlock...(start + count - 1) / geometry.countsPerBlock
      where Int(index) >= table.count || table[Int(index)] & RefcountGeometry.offsetMask == 0 {
        try makeBlock(Int(index), store)
      }
      guard freshStart == start else { continue }
      var isFree = true
      for cluster in start..<start + count where try self.count(of: cluster, store) != 0 {
        isFree = false
        freshStart = cluster + 1
      }
      guard isFree else { continue }
      for cluster in start..<start + count { try set(1, of: cluster, store) }
      freshStart = start + count
      return start..<start + count
    }
  }

  /// Makes the block with this number, at the end of the file; it often counts itself.
  private mutating func makeBlock(_ index: Int, _ store: any ByteStore) throws(ImageError) {
    if index >= table.count { try growTable(toHold: index, store) }
    guard table[index] & RefcountGeometry.offsetMask == 0 else { return }
    let cluster = freshStart
    let ownIndex = Int(cluster / geometry.countsPerBlock)
    if ownIndex != index, ownIndex >= table.count || table[ownIndex] & RefcountGeometry.offsetMask == 0 {
      // The block of that place comes first, and counts itself; this one goes behind it.
      try makeBlock(ownIndex, store)
      return try makeBlock(index, store)
    }
    freshStart += 1
    let offset = cluster * clusterByteCount
    // Fresh clusters read as zeros; only the file must reach there.
    if try store.byteCount() < offset + clusterByteCount { try store.resize(to: offset + clusterByteCount) }
    table[index] = offset
    dirtyTableEntries.insert(index)
    newBlocks.insert(offset)
    do throws(ImageError) {
      try set(1, of: cluster, store)
    } catch {
      // A block that nobody counts must not be named.
      table[index] = 0
      newBlocks.remove(offset)
      throw error
    }
  }

  /// Moves the table to a larger place, in memory; the disk follows in `publish`.
  private mutating func growTable(toHold index: Int, _ store: any ByteStore) throws(ImageError) {
    let entriesPerCluster = clusterByteCount / 8
    // Half as much again, so that growth is rare; room for the blocks that count the table itself is in there.
    let wanted = max(UInt64(index + 1), UInt64(table.count) + UInt64(table.count) / 2) + 1
    let clusters = wanted.dividedRoundingUp(by: entriesPerCluster)
    guard clusters * clusterByteCount <= Header.maximumRefcountTableByteCount else {
      throw ImageError(
        .unsupported,
        "the refcount table would need \(clusters * clusterByteCount) bytes, more than "
          + "\(Header.maximumRefcountTableByteCount)")
    }
    let old = (offset: tableOffset, byteCount: tableByteCount)
    table += [UInt64](repeating: 0, count: Int(clusters * entriesPerCluster) - table.count)
    let row: Range<UInt64>
    do throws(ImageError) {
      row = try allocateRow(clusters, store)
    } catch {
      // The table in memory no longer fits its place on disk, and has no other.
      damage = error
      throw error
    }
    tableOffset = row.lowerBound * clusterByteCount
    if movedFrom != nil {
      // Moved twice before a publish: the place in between was never on disk, and the first one is still to be freed.
      for cluster in old.offset / clusterByteCount..<(old.offset + old.byteCount) / clusterByteCount { drop(cluster) }
    } else {
      movedFrom = old
    }
  }

  // MARK: Publishing

  var isDirty: Bool { dirtyPieceCount > 0 || !dirtyTableEntries.isEmpty || movedFrom != nil }
  var needsTableBarrier: Bool { !newBlocks.isEmpty || movedFrom != nil }

  /// All changed counts.
  var pendingBlocks: [PendingWrite] {
    var writes: [PendingWrite] = []
    for (offset, piece) in pieces {
      guard let dirty = piece.dirty else { continue }
      writes.append(PendingWrite(piece: offset, content: .bytes(piece.bytes), part: dirty))
    }
    return writes.sorted { $0.piece < $1.piece }
  }

  /// Notes that counts, which did not change since, are in the file.
  mutating func settleBlocks(_ writes: [PendingWrite]) {
    for write in writes { pieces[write.piece]?.dirty = nil }
    dirtyPieceCount -= writes.count
  }

  /// Changed table entries, for when the blocks that they name are on disk. A moved table is written whole: the header must
  /// follow, behind a barrier.
  var pendingTable: [PendingWrite] {
    let parts = movedFrom != nil ? [0..<table.count] : dirtyTableEntries.sorted().map { $0..<$0 + 1 }
    return parts.map { PendingWrite(piece: tableOffset, content: .words(table), part: $0) }
  }

  /// Notes that the table is in the file.
  mutating func settleTable() { (dirtyTableEntries, newBlocks) = ([], []) }

  /// The header names the moved table: its old place can go.
  mutating func finishMove() {
    guard let old = movedFrom else { return }
    for cluster in old.offset / clusterByteCount..<(old.offset + old.byteCount) / clusterByteCount { drop(cluster) }
    movedFrom = nil
  }

  // MARK: A copy beside the counts on disk

  var isCopying: Bool { reserve != nil }

  /// From here on changes go to copies, which a header has to name.
  /// - Parameter reserve: a cluster for each block, counted already.
  /// - Parameter offset: clusters for the table, counted already.
  mutating func beginCopy(reserve: [UInt64], tableAt offset: UInt64) {
    precondition(!isDirty && dropped.isEmpty)
    movedFrom = (tableOffset, tableByteCount)
    tableOffset = offset
    self.reserve = reserve
  }

  /// Moves a block that the disk still knows to a cluster of the reserve.
  private mutating func moveBlock(_ index: Int, _ store: any ByteStore) throws(ImageError) {
    let old = table[index] & RefcountGeometry.offsetMask
    guard !newBlocks.contains(old) else { return }
    guard let cluster = reserve?.popLast() else { preconditionFailure("each block moves once") }
    let new = cluster * clusterByteCount
    for position in stride(from: 0, to: clusterByteCount, by: Int(pieceByteCount)) {
      try load(old + position, store)
      guard let piece = pieces.removeValue(forKey: old + position) else { continue }
      try store.write(piece.bytes.rawBytes, at: new + position)
      pieces[new + position] = piece
    }
    table[index] = new
    newBlocks.insert(new)
    replacedBlocks.append(old)
  }

  /// The header names the copy: what it replaces can go, and the rest of the reserve.
  /// - Returns: the old places of blocks.
  mutating func finishCopy() -> [UInt64] {
    defer { (reserve, replacedBlocks) = (nil, []) }
    for cluster in (reserve ?? []) + replacedBlocks.map({ $0 / clusterByteCount }) { drop(cluster) }
    finishMove()
    return replacedBlocks
  }

  /// Nothing before this cluster reads as zeros for certain.
  mutating func skipFresh(to cluster: UInt64) { freshStart = max(freshStart, cluster) }
}
