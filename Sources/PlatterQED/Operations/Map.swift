package import PlatterCore

extension QEDImage {
  /// Entries looked at in one call before it returns what it has, so that no call is long.
  private static let maximumEntriesPerCall = 1 << 16

  /// A bad entry stops the answer before it, and is reported when it is asked for first.
  package func map(_ range: Range<UInt64>, limit: Int, into extents: inout [Extent]) throws(ImageError) -> UInt64 {
    var run = RunAppender(limit: limit)
    do throws(ImageError) {
      return try map(range, &run, &extents)
    } catch {
      guard run.count > 0 else { throw error.named(store.name) }
      return run.end
    }
  }

  private func map(_ range: Range<UInt64>, _ run: inout RunAppender, _ extents: inout [Extent]) throws(ImageError)
    -> UInt64
  {
    var position = range.lowerBound
    var entriesLeft = Self.maximumEntriesPerCall
    while position < range.upperBound, entriesLeft > 0, !run.isFull {
      let before = position
      guard let table = try secondTable(for: position) else {
        let spanEnd = position - position % header.secondTableSpan + header.secondTableSpan
        let end = min(spanEnd, range.upperBound)
        guard run.append(.absent(start: position, byteCount: end - position), to: &extents) else { break }
        position = end
        entriesLeft -= 1
        continue
      }
      position = try mapPage(of: table, from: position, to: range.upperBound, &run, &extents)
      entriesLeft -= max(1, Int((position - before) / header.clusterByteCount))
    }
    return position
  }

  /// The place of the L2 table that maps a guest byte, or nil where there is none. The file may end inside the table.
  private func secondTable(for position: UInt64) throws(ImageError) -> UInt64? {
    let index = position / header.secondTableSpan
    let pageByteCount = TablePage.byteCount(tableByteCount: header.tableByteCount)
    let byte = index * 8
    let page = try page(at: header.firstTableOffset + byte.roundedDown(toMultipleOf: pageByteCount))
    let entry = page[Int(byte % pageByteCount / 8)]
    guard entry != 0 else { return nil }
    if let fault = fault(inClusterOffset: entry) {
      throw .corrupt("L1 entry \(index) points to byte \(entry.hex), \(fault)")
    }
    return entry
  }

  /// Maps from `position` to `end` or the end of the L2 table's page. Returns the guest offset behind the last run.
  private func mapPage(
    of table: UInt64, from start: UInt64, to end: UInt64, _ run: inout RunAppender, _ extents: inout [Extent]
  ) throws(ImageError) -> UInt64 {
    let cluster = header.clusterByteCount
    let pageByteCount = TablePage.byteCount(tableByteCount: header.tableByteCount)
    let index = start / cluster % header.entryCount
    let pageStart = (index * 8).roundedDown(toMultipleOf: pageByteCount)
    let page = try page(at: table + pageStart)
    var position = start
    for entryIndex in index - pageStart / 8..<pageByteCount / 8 {
      guard position < end else { break }
      guard entryIndex < page.entryCount else {
        throw .truncated(
          "L2 entry \(pageStart / 8 + entryIndex) of the table at \(table.hex) lies past the end of the file "
            + "(\(fileByteCount.hex))")
      }
      let inCluster = position & (cluster - 1)
      let count = min(cluster - inCluster, end - position)
      let entry = page[Int(entryIndex)]
      let isDone: Bool
      switch entry {
      case 0: isDone = run.append(.absent(start: position, byteCount: count), to: &extents)
      case 1: isDone = run.append(.zero(start: position, byteCount: count), to: &extents)
      default:
        if let fault = fault(inClusterOffset: entry) {
          throw .corrupt(
            "L2 entry \(pageStart / 8 + entryIndex) of the table at \(table.hex) points to byte \(entry.hex), \(fault)")
        }
        isDone = run.appendData(
          start: position, byteCount: count, store: 0, offset: entry + inCluster, storeByteCount: fileByteCount,
          to: &extents)
      }
      // A cut cluster may have found room for its data alone: the next call starts at its zeros.
      position = max(position, run.end)
      guard isDone else { break }
    }
    return position
  }
}
