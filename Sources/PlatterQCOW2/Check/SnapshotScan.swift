import PlatterCore

/// The snapshot table read without trust: as far as it goes.
struct SnapshotScan: Sendable {
  struct Item: Sendable {
    var record: SnapshotRecord
    /// Its tree, where that lies inside the file.
    var tree: Volume.Tree?
    /// What is wrong with it where it has no tree.
    var fault: String?
    /// Version 3 wants more extra data than the entry has, or the entry has more than QEMU reads.
    var isIncomplete = false
  }

  private(set) var items: [Item] = []
  /// Bytes of the entries that could be read.
  private(set) var byteCount: UInt64 = 0
  /// What is wrong with the table itself: entries from there on cannot be read.
  private(set) var faults: [String] = []

  init(_ volume: Volume, fileByteCount: UInt64) throws(ImageError) {
    let header = volume.header
    let offset = header.snapshotTableOffset
    guard header.snapshotCount > 0 else {
      // QEMU opens no image with such a number, even where it names nothing.
      if offset % header.clusterByteCount != 0 || offset > UInt64(Int64.max) {
        faults = ["the header has no snapshots, but names a table for them at \(offset.hex), which is no cluster"]
      }
      return
    }
    guard offset % header.clusterByteCount == 0, offset >= header.clusterByteCount, offset < fileByteCount else {
      faults = [
        "the snapshot table at \(offset.hex) is not aligned or does not lie inside the file (\(fileByteCount.hex)) "
          + "behind the header"
      ]
      return
    }
    if header.snapshotCount > Header.maximumSnapshotCount {
      faults = ["the header counts \(header.snapshotCount) snapshots, more than \(Header.maximumSnapshotCount)"]
    }
    var reader = WindowReader(volume.file, "snapshot table", start: offset)
    // Tables that name each other's place again and again would cost time without end.
    var room = fileByteCount
    for index in 0..<Int(min(header.snapshotCount, Header.maximumSnapshotCount)) {
      do throws(ImageError) {
        let record = try SnapshotRecord(
          parsing: &reader, index, maximumExtraByteCount: SnapshotRecord.maximumMendedExtraByteCount)
        guard reader.consumedByteCount <= SnapshotRecord.maximumTableByteCount else {
          throw .corrupt("it is larger than \(SnapshotRecord.maximumTableByteCount) bytes")
        }
        add(record, index, volume, &room)
        byteCount = reader.consumedByteCount
      } catch {
        guard error.code != .io else { throw error }
        faults.append("the snapshot table cannot be read from entry \(index) on: \(error.message)")
        return
      }
    }
  }

  private mutating func add(_ record: SnapshotRecord, _ index: Int, _ volume: Volume, _ room: inout UInt64) {
    let extraByteCount = record.extra.count
    var item = Item(
      record: record,
      isIncomplete: volume.header.version >= 3 && extraByteCount < 16
        || extraByteCount > Int(SnapshotRecord.maximumExtraByteCount))
    do throws(ImageError) {
      guard record.l1EntryCount <= Header.maximumL1EntryCount else {
        throw .corrupt(
          "snapshot \(index): the L1 table has \(record.l1EntryCount) entries, more than "
            + "\(Header.maximumL1EntryCount)")
      }
      let tree = try volume.tree(of: record)
      guard let rest = room.subtracting(tree.entryCount * 8) else {
        throw .corrupt("snapshot \(index): the L1 tables of the snapshots so far are larger than the file")
      }
      room = rest
      let range = tree.offset..<tree.offset + tree.entryCount * 8
      guard !range.overlaps(volume.encryption.ownRange) else {
        throw .corrupt("snapshot \(index): the L1 table at \(tree.offset.hex) lies in the crypto header")
      }
      item.tree = tree
    } catch {
      item.fault = error.message
    }
    items.append(item)
  }
}
