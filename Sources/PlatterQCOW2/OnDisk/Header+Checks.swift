import PlatterCore

extension Header {
  package var clusterByteCount: UInt64 { 1 << UInt64(clusterBits) }
  package var hasExtendedL2: Bool { incompatibleFeatures.contains(.extendedL2) }
  package var hasDataFile: Bool { incompatibleFeatures.contains(.dataFile) }
  /// The data file can be read as a raw image by itself.
  package var isDataFileRaw: Bool { hasDataFile && autoclearFeatures.contains(.rawDataFile) }
  /// The autoclear bits that mean something here. QEMU opens no image that calls a data file raw and has none.
  var knownAutoclear: AutoclearFeatures { autoclearFeatures.intersection(hasDataFile ? .known : .bitmaps) }

  /// Cluster size first: everything else is measured by it.
  func checkGeometry() throws(ImageError) {
    guard (9...21).contains(clusterBits) else {
      throw .corrupt("cluster_bits \(clusterBits) in the qcow2 header is not between 9 and 21")
    }
    guard !hasExtendedL2 || clusterBits >= 14 else {
      throw .corrupt("cluster_bits \(clusterBits) is too small for extended L2 entries, which need 14 or more")
    }
    guard refcountOrder <= 6 else {
      throw .corrupt("refcount_order \(refcountOrder) in the qcow2 header is larger than 6")
    }
  }

  /// Alignment, sizes and overflow of every table that the header names.
  func checkTables(isForCheck: Bool) throws(ImageError) {
    try checkAligned("L1 table", l1Offset)
    guard l1EntryCount <= Self.maximumL1EntryCount else {
      throw .corrupt("the L1 table has \(l1EntryCount) entries, more than \(Self.maximumL1EntryCount)")
    }
    let needed = virtualByteCount.dividedRoundingUp(by: Geometry(self).l1EntryCoverage)
    guard needed <= UInt64(Self.maximumL1EntryCount) else { throw .unsupported("Image is too big") }  // QEMU's words
    guard needed <= UInt64(l1EntryCount) else {
      throw .corrupt(
        "the L1 table has \(l1EntryCount) entries, but a disk of \(virtualByteCount) bytes needs \(needed)")
    }
    guard isForCheck || l1EntryCount == 0 || l1Offset >= clusterByteCount else {
      throw .corrupt("the L1 table at \(l1Offset.hex) overlaps the header")
    }
    guard l1Offset.adding(UInt64(l1EntryCount) * 8) != nil else {
      throw .corrupt("the L1 table at \(l1Offset.hex) ends past any file")
    }
    try checkBackingName()
    if isForCheck { return }
    try checkRefcountTable()
    try checkAligned("snapshot table", snapshotCount == 0 ? 0 : snapshotTableOffset)
    guard snapshotCount <= Self.maximumSnapshotCount else {
      throw .corrupt("the header counts \(snapshotCount) snapshots, more than \(Self.maximumSnapshotCount)")
    }
    guard snapshotCount == 0 || snapshotTableOffset >= clusterByteCount else {
      throw .corrupt("the snapshot table at \(snapshotTableOffset.hex) overlaps the header")
    }
  }

  private func checkRefcountTable() throws(ImageError) {
    try checkAligned("refcount table", refcountTableOffset)
    let count = UInt64(refcountTableClusterCount)
    guard count > 0 else { throw .corrupt("the refcount table has 0 clusters") }
    // 32 bits times at most 2^21 stay below 2^53.
    guard count * clusterByteCount <= Self.maximumRefcountTableByteCount else {
      throw .corrupt(
        "the refcount table has \(count) clusters of \(clusterByteCount) bytes, more than "
          + "\(Self.maximumRefcountTableByteCount) bytes")
    }
    guard refcountTableOffset.adding(count * clusterByteCount) != nil else {
      throw .corrupt("the refcount table at \(refcountTableOffset.hex) ends past any file")
    }
  }

  private func checkBackingName() throws(ImageError) {
    guard backingNameOffset != 0 else { return }
    guard backingNameByteCount <= Self.maximumBackingNameByteCount else {
      throw .corrupt(
        "the backing file's name has \(backingNameByteCount) bytes, more than \(Self.maximumBackingNameByteCount)")
    }
    guard backingNameOffset >= UInt64(headerByteCount) else {
      throw .corrupt("the backing file's name at \(backingNameOffset.hex) overlaps the header")
    }
    guard let end = backingNameOffset.adding(UInt64(backingNameByteCount)), end <= clusterByteCount else {
      throw .corrupt(
        "the backing file's name (\(backingNameByteCount) bytes at \(backingNameOffset.hex)) leaves the header "
          + "cluster (\(clusterByteCount.hex))")
    }
  }

  private func checkAligned(_ what: String, _ offset: UInt64) throws(ImageError) {
    guard offset % clusterByteCount == 0 else {
      throw .corrupt(
        "the \(what)'s offset \(offset.hex) is not a multiple of the cluster size (\(clusterByteCount.hex))")
    }
  }
}
