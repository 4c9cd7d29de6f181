package import PlatterCore
import SystemPackage

extension Opening {
  /// The snapshot table, checked.
  func snapshots() throws(ImageError) -> [SnapshotRecord] {
    try SnapshotRecord.table(store, header, fileByteCount: fileByteCount)
  }
}

extension Volume {
  /// The snapshot with this id, or else the first with this name.
  func snapshot(named name: String) -> SnapshotRecord? {
    let wanted = Array(name.utf8)
    return snapshots.first { $0.id == wanted } ?? snapshots.first { $0.name == wanted }
  }

  /// The tree of a snapshot: its own table, its own size.
  func tree(of snapshot: SnapshotRecord) throws(ImageError) -> Tree {
    let name = "L1 table of snapshot \"\(FilePath(String(decoding: snapshot.name, as: UTF8.self)).printable)\""
    let (offset, byteCount) = (snapshot.l1Offset, UInt64(snapshot.l1EntryCount) * 8)
    guard offset % geometry.clusterByteCount == 0, offset != 0 || byteCount == 0 else {
      throw .corrupt(
        "\(name): its offset \(offset.hex) is not a multiple of the cluster size (\(geometry.clusterByteCount.hex)) "
          + "behind the header")
    }
    guard let end = offset.adding(byteCount), end <= storeByteCounts[0] else {
      throw .truncated(
        "\(name) (\(byteCount) bytes at \(offset.hex)) lies past the end of the file (\(storeByteCounts[0].hex))")
    }
    let disk = snapshot.diskByteCount ?? header.virtualByteCount
    guard disk <= UInt64(Int64.max) else { throw .corrupt("\(name): a disk of \(disk) bytes is too large") }
    return Tree(name: name, offset: offset, entryCount: UInt64(snapshot.l1EntryCount), byteCount: disk)
  }
}

extension QCOW2Map {
  package func snapshot(named name: String) throws(ImageError) -> any ImageMap {
    try naming(volume.file.name) { () throws(ImageError) in
      guard let snapshot = volume.snapshot(named: name) else {
        throw ImageError(.notFound, "there is no snapshot \"\(FilePath(name).printable)\"")
      }
      return QCOW2Map(volume, try volume.tree(of: snapshot))
    }
  }
}
