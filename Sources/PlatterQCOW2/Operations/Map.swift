package import PlatterCore

/// The guest disk as one tree of tables shows it: the present one, or an internal snapshot's.
package final class QCOW2Map: ImageMap {
  package var formatName: String { QCOW2.name }
  package var byteCount: UInt64 { tree.byteCount }
  package var stores: [any ByteStore] { volume.stores }
  package var ciphers: [any SectorCipher] { volume.encryption.ciphers }
  package var allocationUnit: UInt64? { volume.geometry.clusterByteCount }
  package var backing: BackingReference? { volume.backing }
  package var isEncrypted: Bool { volume.header.encryption != .none }

  let volume: Volume
  let tree: Volume.Tree

  init(_ volume: Volume, _ tree: Volume.Tree) {
    self.volume = volume
    self.tree = tree
  }

  /// One step of the lock per slice of an L2 table (8192 clusters at most). A bad entry stops the answer before it, and
  /// is reported when it is asked for first.
  package func map(_ range: Range<UInt64>, limit: Int, into extents: inout [Extent]) throws(ImageError) -> UInt64 {
    guard let dataStore = volume.dataStore else {
      throw ImageError(
        .unsupported, "the image was opened for its facts, without its data file", file: volume.file.name)
    }
    guard isEncrypted == !ciphers.isEmpty else {
      throw ImageError(.unsupported, "the image was opened for its facts, without its key", file: volume.file.name)
    }
    let end = min(range.upperBound, byteCount)
    var answer = Answer(position: range.lowerBound, end: end, room: limit)
    do throws(ImageError) {
      while answer.isOpen { try step(&answer, dataStore, &extents) }
    } catch {
      guard answer.position > range.lowerBound else { throw error.named(volume.file.name) }
    }
    return answer.position
  }

  /// Maps as much as one slice of an L2 table says, or a row of L1 entries that name none.
  private func step(_ answer: inout Answer, _ dataStore: UInt16, _ extents: inout [Extent]) throws(ImageError) {
    let geometry = volume.geometry
    let l1Index = answer.position / geometry.l1EntryCoverage
    guard l1Index < tree.entryCount else {
      // A snapshot's table may be shorter than its disk: nothing was ever written there.
      return answer.append(.absent(start: answer.position, byteCount: answer.end - answer.position), &extents)
    }
    let slice = try volume.tables.l1Slice(l1Index / TableReader.l1SliceEntryCount, of: tree)
    let inSlice = Int(l1Index % TableReader.l1SliceEntryCount)
    let entry = L1Entry(rawValue: slice[inSlice])
    guard entry.tableOffset != 0 else {
      guard entry.reservedBits == 0 else {
        throw .corrupt("\(tree.name), entry \(l1Index): reserved bits are set (\(entry.rawValue.hex))")
      }
      var next = inSlice + 1
      while next < slice.count, slice[next] & ~L1Entry.copied == 0 { next += 1 }
      let runEnd = (l1Index + UInt64(next - inSlice)) * geometry.l1EntryCoverage
      return answer.append(
        .absent(start: answer.position, byteCount: min(runEnd, answer.end) - answer.position), &extents)
    }
    let inTable = answer.position % geometry.l1EntryCoverage
    let sliceIndex = inTable / geometry.sliceCoverage
    let words = try volume.tables.l2Slice(sliceIndex, of: entry, tree, l1Index)
    let reader = SliceReader(
      words: words, geometry: geometry, isVersion3: volume.header.version >= 3,
      tableOffset: entry.tableOffset, firstEntry: sliceIndex * geometry.sliceEntryCount,
      guestStart: answer.position - inTable % geometry.sliceCoverage,
      hasDataFile: volume.header.hasDataFile, store: dataStore,
      storeByteCount: volume.storeByteCounts[Int(dataStore)], isSparse: volume.preallocation.isLikely,
      cipher: ciphers.isEmpty ? 0 : 1, codec: volume.header.compression == .zstd ? .zstd : .deflate)
    if geometry.hasExtendedL2 {
      try reader.mapExtended(&answer, &extents)
    } else {
      try reader.mapStandard(&answer, &extents)
    }
  }
}

/// What a call of `map` still owes.
struct Answer {
  /// First guest byte that is not described yet.
  var position: UInt64
  let end: UInt64
  /// Runs that may still be appended.
  var room: Int

  var isOpen: Bool { position < end && room > 0 }

  /// Appends a run that starts at `position`.
  @inline(__always)
  mutating func append(_ extent: Extent, _ extents: inout [Extent]) {
    let before = extents.count
    extents.appendJoining(extent)
    room -= extents.count - before
    position = extent.end
  }
}
