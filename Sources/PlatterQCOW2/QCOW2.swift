// qcow2: QEMU's own image format, versions 2 and 3. All integers are big-endian.
//
//   cluster 0          header, header extensions, name of the backing file
//   refcount table ──► refcount blocks: how often each cluster of the file is used
//   L1 table ────────► L2 tables ──────► data clusters, packed ("compressed") units
//   snapshot table ──► an L1 table for each internal snapshot
//   bitmap directory ► bitmap tables ──► dirty bits
//
// One L1 entry names one L2 table (one cluster); one L2 entry describes one guest cluster, with extended L2 entries its
// 32 subclusters one by one. With an external data file the guest's bytes lie there and only tables lie here.
//
// What holds after opening, and is not checked again:
// - cluster size 512 bytes to 2 MiB; the L1 table covers the disk and lies whole inside the file;
// - no incompatible feature is set that this target does not know;
// - header extensions and the backing file's name lie inside cluster 0 and do not overlap the header.
// Checked again for each entry when it is followed: alignment, reserved bits, that the target lies inside the file.

package import PlatterCore

/// The qcow2 format.
package enum QCOW2: ImageFormat {
  package static let name = "qcow2"

  package static func probe(_ head: RawSpan, _ store: any ByteStore) throws(ImageError) -> Int {
    guard let magic = head.bigEndian(at: 0, as: UInt32.self), magic == Header.magic else { return 0 }
    // Version 1 is the older format "qcow", which shares the magic.
    guard let version = head.bigEndian(at: 4, as: UInt32.self), version == 2 || version == 3 else { return 0 }
    return 100
  }

  package static func open(_ store: any ByteStore, _ context: OpenContext) throws(ImageError) -> any ImageMap {
    try naming(store.name) { () throws(ImageError) in
      // A repair on the way may need the passphrase too.
      let context = context.isWritable ? context.askingOnce : context
      if context.isWritable { try repairIfDirty(store, context) }
      let volume = try Volume(opening: store, context)
      let map = QCOW2Map(volume, volume.activeTree)
      return context.isWritable ? try QCOW2Writer(map) : map
    }
  }
}
