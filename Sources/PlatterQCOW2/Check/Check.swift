package import PlatterCore
import Synchronization

extension QCOW2Map: CheckableMap {
  package func check(workers: Int, progress: @escaping @Sendable (Double) -> Bool) throws(ImageError) -> CheckReport {
    try naming(volume.file.name) { () throws(ImageError) in
      let scan = try ImageScan(volume, ImageScan.Options(workers: workers, progress: progress))
      try scan.compare()
      return scan.report(volume.header.incompatibleFeatures)
    }
  }
}

extension ImageScan {
  /// Scans, and compares references with refcounts.
  func compare() throws(ImageError) {
    try run { ledger throws(ImageError) in
      let next = Atomic<Int>(0)
      try Workers.run(min(workerCount, ledger.chunkCount)) { (_, stop) throws(ImageError) in
        while !stop.isRaised {
          let chunk = next.wrappingAdd(1, ordering: .relaxed).oldValue
          guard chunk < ledger.chunkCount else { return }
          try self.compare(chunk, of: ledger)
        }
      }
    }
  }

  private func compare(_ chunk: Int, of ledger: ClusterLedger) throws(ImageError) {
    let clusters = ledger.clusters(ofChunk: chunk)
    let references = ledger.words(ofChunk: chunk)
    guard !references.isEmpty || refcounts.hasBlock(in: clusters) else { return }
    var tally = CheckLog.Tally()
    var position = clusters.lowerBound
    func compareUncounted(upTo end: UInt64) {
      guard !references.isEmpty else { return }
      for cluster in position..<end {
        let wanted = references[Int(cluster - clusters.lowerBound)] & ClusterLedger.maximumCount
        guard wanted > 0 else { continue }
        compare(cluster, 0, UInt64(wanted), &tally)
        // A cluster in use that no block counts.
        tally.areRefcountsBroken = true
      }
    }
    try refcounts.forEachPart(of: clusters) { part, _, bytes in
      compareUncounted(upTo: part.lowerBound)
      let counts = refcounts.geometry.counts(in: bytes.rawBytes, count: part.count)
      let first = Int(part.lowerBound - clusters.lowerBound)
      var last: Int?
      for index in counts.indices {
        let wanted = references.isEmpty ? 0 : references[first + index] & ClusterLedger.maximumCount
        if counts[index] == wanted {
          if wanted != 0 { last = index }
        } else {
          let count = refcounts.geometry.count(index, in: bytes.rawBytes)
          compare(part.lowerBound + UInt64(index), count, UInt64(wanted), &tally)
        }
      }
      if let last { tally.endCluster = max(tally.endCluster, part.lowerBound + UInt64(last) + 1) }
      position = part.upperBound
    }
    compareUncounted(upTo: clusters.upperBound)
    log.add(tally)
  }

  private func compare(_ cluster: UInt64, _ count: UInt64, _ wanted: UInt64, _ tally: inout CheckLog.Tally) {
    // Counts behind the file hurt nobody until it grows: not qemu-img's concern either.
    guard cluster < fileClusterCount || wanted > 0 else { return }
    tally.endCluster = max(tally.endCluster, cluster + 1)
    guard count != wanted, !(wanted == UInt64(ClusterLedger.maximumCount) && count > wanted) else { return }
    tally.wrongCounts += 1
    tally.mostReferences = max(tally.mostReferences, wanted)
    if count > wanted {
      tally.leaks += 1
      log.say(.refcounts, cluster, "Leaked cluster \(cluster) refcount=\(count) reference=\(wanted)")
    } else {
      tally.corruptions += 1
      log.say(.refcounts, cluster, "ERROR cluster \(cluster) refcount=\(count) reference=\(wanted)")
    }
  }

  /// What the scan says, after `compare`.
  /// - Parameter features: the header's, with its marks.
  func report(_ features: IncompatibleFeatures) -> CheckReport {
    var report = CheckReport()
    let tally = log.tally
    report.corruptions = tally.corruptions
    report.leaks = tally.leaks
    report.imageEndOffset = tally.endCluster * geometry.clusterByteCount
    report.totalClusters = header.virtualByteCount.dividedRoundingUp(by: geometry.clusterByteCount)
    report.allocatedClusters = tally.allocated
    report.fragmentedClusters = tally.fragmented
    report.compressedClusters = tally.compressed
    for message in log.messages { report.say(message) }
    Self.addMarks(features, &report)
    return report
  }

  /// The header's marks. They count as a corruption where nothing else explains them, so that a marked image is never
  /// called sound, and the number of other errors is what qemu-img's is.
  private static func addMarks(_ features: IncompatibleFeatures, _ report: inout CheckReport) {
    var marks: [String] = []
    if features.contains(.dirty) {
      marks.append("the image is marked dirty: it was not closed, and its refcounts may lag behind")
    }
    if features.contains(.corrupt) { marks.append("the image is marked corrupt") }
    guard !marks.isEmpty else { return }
    if report.corruptions == 0, report.leaks == 0 { report.corruptions = 1 }
    report.messages.insert(contentsOf: marks.map { "ERROR \($0)" }, at: 0)
    if report.messages.count > CheckReport.maximumMessageCount { report.messages.removeLast(marks.count) }
  }
}
