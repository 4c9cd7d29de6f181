package import PlatterCore

extension QEDImage: CheckableMap {
  /// Follows every entry of every table. Counts as qemu-img counts; a table that two L1 entries name is read once.
  ///
  /// Cost: one read per 64 KiB of tables; memory in proportion to the clusters that the tables name.
  package func check(workers: Int, progress: @escaping @Sendable (Double) -> Bool) throws(ImageError) -> CheckReport {
    try naming(store.name) { () throws(ImageError) in
      var check = TableCheck(image: self)
      try check.run(progress)
      return check.report
    }
  }
}

/// One pass over an image's tables.
private struct TableCheck {
  let image: QEDImage
  var report = CheckReport()
  private var used = NumberSet()
  private var tablesSeen: Set<UInt64> = []

  init(image: QEDImage) { self.image = image }

  mutating func run(_ progress: (Double) -> Bool) throws(ImageError) {
    let header = image.header
    report.totalClusters = header.virtualByteCount.dividedRoundingUp(by: header.clusterByteCount)
    report.allocatedClusters = 0
    report.fragmentedClusters = 0
    use(0, header.headerClusterCount, "the header")
    use(header.firstTableOffset, header.tableClusterCount, "the L1 table")
    try checkFirstTable(progress)
    let clusters = image.fileByteCount / header.clusterByteCount
    let leaks = clusters - min(used.count(below: clusters), clusters)
    report.leaks = Int(clamping: leaks)
    if leaks > 0 {
      report.say("\(leaks) clusters of the file belong to nothing; only a copy of the image gives their space back")
    }
  }

  private mutating func checkFirstTable(_ progress: (Double) -> Bool) throws(ImageError) {
    let header = image.header
    let pageByteCount = TablePage.byteCount(tableByteCount: header.tableByteCount)
    for start in stride(from: 0, to: header.tableByteCount, by: Int(pageByteCount)) {
      guard progress(Double(start) / Double(header.tableByteCount)) else {
        throw ImageError(.cancelled, "the check was cancelled")
      }
      let page = try image.page(at: header.firstTableOffset + start)
      for index in 0..<pageByteCount / 8 {
        let entry = page[Int(index)]
        guard entry != 0 else { continue }
        let name = "L1 entry \(start / 8 + index)"
        if let fault = image.fault(inTableOffset: entry) {
          corrupt("\(name) points to byte \(entry.hex), \(fault)")
          continue
        }
        use(entry, header.tableClusterCount, name)
        guard tablesSeen.insert(entry).inserted else { continue }
        try checkSecondTable(at: entry)
      }
    }
    _ = progress(1)
  }

  private mutating func checkSecondTable(at table: UInt64) throws(ImageError) {
    let header = image.header
    let pageByteCount = TablePage.byteCount(tableByteCount: header.tableByteCount)
    var last: UInt64 = 0
    for start in stride(from: 0, to: header.tableByteCount, by: Int(pageByteCount)) {
      let page = try image.page(at: table + start)
      for index in 0..<pageByteCount / 8 {
        let entry = page[Int(index)]
        guard entry > 1 else { continue }
        let name = "L2 entry \(start / 8 + index) of the table at \(table.hex)"
        report.allocatedClusters? += 1
        if last != 0, entry != last &+ header.clusterByteCount { report.fragmentedClusters? += 1 }
        last = entry
        if let fault = image.fault(inClusterOffset: entry) {
          corrupt("\(name) points to byte \(entry.hex), \(fault)")
        } else {
          use(entry, 1, name)
        }
      }
    }
  }

  /// Notes clusters as used; each one that was used before is a corruption.
  private mutating func use(_ offset: UInt64, _ count: UInt64, _ name: String) {
    for cluster in offset / image.header.clusterByteCount..<offset / image.header.clusterByteCount + count
    where !used.insert(cluster) {
      corrupt("\(name) names the cluster at \((cluster * image.header.clusterByteCount).hex), which is used already")
    }
  }

  private mutating func corrupt(_ message: String) {
    report.corruptions += 1
    report.say(message)
  }
}
