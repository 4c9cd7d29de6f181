import PlatterCore

/// A partition: what is known of a block table beside its chunks.
struct Partition: Sendable {
  /// As the image names it; made from its index where it has no name.
  var name: String
  var firstSector: UInt64
  var sectorCount: UInt64
  var checksum: StoredChecksum
  /// Its runs, in the table's order.
  var runs: Range<Int>
  /// Chunks by kind, in the order of `ChunkKind.allCases`.
  var chunkCounts: [Int]
}

/// All chunks of all block tables, checked and in order.
///
/// Invariants: `sorted` is sorted by sector, without overlaps; every run ends at or before `endSector`, which is at
/// most `DMG.maximumSectorCount`; every run's bytes lie inside the store.
struct RunTable: Sendable {
  /// In the order of the tables and their chunks: what checksums run over.
  private(set) var runs: [Run] = []
  /// By sector. The same array where the tables are in order, as they mostly are.
  private(set) var sorted: [Run] = []
  private(set) var partitions: [Partition] = []
  /// The sector behind the last that a table or a run names.
  private(set) var endSector: UInt64 = 0
  /// Sectors that lie between runs, or behind the last one.
  private(set) var gapSectorCount: UInt64 = 0

  private let store: (offset: UInt64, byteCount: UInt64)

  /// - Parameters:
  ///   - dataForkOffset: where in the store the data fork begins.
  ///   - storeByteCount: the store's length.
  init(dataForkOffset: UInt64, storeByteCount: UInt64) {
    store = (dataForkOffset, storeByteCount)
  }

  /// Adds a block table.
  ///
  /// - Throws: `.corrupt`, `.truncated`, `.unsupported` naming the table and the chunk.
  mutating func add(_ resource: BlockTableResource) throws(ImageError) {
    let index = partitions.count
    guard index < DMG.maximumTableCount else {
      throw .unsupported("there are more than \(DMG.maximumTableCount) block tables")
    }
    let name = resource.name.isEmpty ? "partition \(index)" : resource.name
    let what = "block table \(index) (\"\(name.printable())\")"
    let table: BlockTable
    do {
      table = try BlockTable(parsing: resource.bytes.rawBytes)
    } catch {
      throw ImageError(error.code, "\(what) \(error.message)")
    }
    guard table.chunkCount <= DMG.maximumChunkCount - runs.count else {
      throw .unsupported("\(what) brings the count of chunks above \(DMG.maximumChunkCount)")
    }
    let first = runs.count
    var counts = [Int](repeating: 0, count: ChunkKind.allCases.count)
    for number in 0..<table.chunkCount {
      let position = BlockTable.headerByteCount + number * Chunk.byteCount
      guard let chunk = Chunk(parsing: resource.bytes.rawBytes, at: position) else { break }
      if chunk.type == Chunk.endType { break }
      do {
        guard let run = try run(chunk, table, index) else { continue }
        runs.append(run)
        counts[Int(run.kind.rawValue)] += 1
      } catch {
        throw ImageError(error.code, "chunk \(number) of \(what) \(error.message)")
      }
    }
    partitions.append(
      Partition(
        name: name, firstSector: table.firstSector, sectorCount: table.sectorCount, checksum: table.checksum,
        runs: first..<runs.count, chunkCounts: counts))
    endSector = max(endSector, table.firstSector + table.sectorCount)
  }

  /// The run that a chunk is; nil for a chunk without sectors that means nothing (comment, empty ignore).
  private func run(_ chunk: Chunk, _ table: BlockTable, _ index: Int) throws(ImageError) -> Run? {
    if chunk.type == Chunk.commentType { return nil }
    guard let kind = chunk.kind else {
      throw .unsupported("has the unknown type \(UInt64(chunk.type).hex)")
    }
    guard chunk.sectorCount > 0 else {
      guard kind == .ignore else { throw .corrupt("(\(kind.name)) has no sectors") }
      return nil
    }
    guard let end = chunk.firstSector.adding(chunk.sectorCount), end <= table.sectorCount else {
      throw .corrupt(
        "has \(chunk.sectorCount) sectors from sector \(chunk.firstSector) on, past the table's \(table.sectorCount)")
    }
    var run = Run(
      firstSector: table.firstSector + chunk.firstSector, sectorCount: chunk.sectorCount, offset: 0,
      packedByteCount: 0, table: UInt16(index), kind: kind)
    if kind == .zero || kind == .ignore { return run }
    run.offset = try position(of: chunk, table)
    if kind == .raw {
      guard chunk.byteCount == run.byteCount else {
        throw .corrupt("(raw) has \(chunk.byteCount) bytes for \(chunk.sectorCount) sectors")
      }
      return run
    }
    guard chunk.sectorCount <= Chunk.maximumPackedSectorCount else {
      throw .unsupported(
        "(\(kind.name)) has \(chunk.sectorCount) sectors, more than \(Chunk.maximumPackedSectorCount)")
    }
    guard chunk.byteCount > 0 else { throw .corrupt("(\(kind.name)) has no bytes") }
    guard chunk.byteCount <= Chunk.maximumPackedByteCount(decoded: run.byteCount) else {
      throw .corrupt("(\(kind.name)) has \(chunk.byteCount) bytes for \(chunk.sectorCount) sectors")
    }
    run.packedByteCount = UInt32(chunk.byteCount)
    return run
  }

  /// Where in the store the chunk's bytes begin; all of them are inside.
  private func position(of chunk: Chunk, _ table: BlockTable) throws(ImageError) -> UInt64 {
    guard let position = store.offset.adding(table.dataOffset)?.adding(chunk.offset),
      let end = position.adding(chunk.byteCount)
    else {
      throw .corrupt("lies at \(chunk.offset.hex) of the data at \(table.dataOffset.hex), past any file")
    }
    guard end <= store.byteCount else {
      throw ImageError(
        .truncated,
        "has \(chunk.byteCount) bytes at \(position.hex), past the end of the file (\(store.byteCount.hex))")
    }
    return position
  }

  /// Sorts the runs and checks them against one another. Called once, after the last table.
  ///
  /// - Throws: `.corrupt` where two runs overlap.
  mutating func finish(sectorCount: UInt64) throws(ImageError) {
    sorted = runs
    if !Self.isSorted(runs) { sorted.sort { $0.firstSector < $1.firstSector } }
    var next: UInt64 = 0
    for run in sorted {
      guard run.firstSector >= next else {
        throw .corrupt(
          "sector \(run.firstSector) lies in two chunks, one of block table \(run.table) "
            + "(\"\(partitions[Int(run.table)].name.printable())\")")
      }
      gapSectorCount += run.firstSector - next
      next = run.endSector
    }
    endSector = max(endSector, sectorCount)
    gapSectorCount += endSector - next
  }

  private static func isSorted(_ runs: [Run]) -> Bool {
    var last: UInt64 = 0
    for run in runs {
      if run.firstSector < last { return false }
      last = run.firstSector
    }
    return true
  }

  /// Index of the first of `sorted` that ends behind `sector`.
  func firstIndex(endingAfter sector: UInt64) -> Int {
    var low = 0
    var high = sorted.count
    while low < high {
      let middle = low + (high - low) / 2
      if sorted[middle].endSector <= sector { low = middle + 1 } else { high = middle }
    }
    return low
  }
}
