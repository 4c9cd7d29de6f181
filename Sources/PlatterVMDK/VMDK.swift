package import PlatterCore

/// The VMDK format: a text descriptor and one or more extents that follow each other on the disk.
///
/// The descriptor is a file of its own, or lies inside the only extent. Kinds of extents:
///
///     FLAT, VMFS         raw bytes of a file from an offset on
///     ZERO               no file; reads as zeros
///     SPARSE             header "KDMV" | descriptor | redundant grain directory and tables | grain directory and
///                        tables | grains; streamOptimized: grains are zlib streams behind 12-byte markers, and the
///                        directory may follow them, named by a footer that copies the header
///     VMFSSPARSE         header "COWD" | grain directory | grain tables and grains as they come
///     SESPARSE           header 0xCAFEBABE | volatile header | journal | grain directory | grain tables | bitmaps |
///                        grains
///
/// A grain is the unit of allocation, a power of two sectors. A directory entry names a grain table, its entry a grain:
/// 0 is "not here", 1 (where the header says so) reads as zeros. All integers are little-endian, all places sectors of
/// 512 bytes.
///
/// Invariants: extents cover the disk in the order of their lines; every directory and table lies whole inside its
/// file; of an extent file only the last grain may be cut; a delta link's parentCID is the parent's CID.
package enum VMDK: ImageFormat {
  package static let name = "vmdk"

  package static func probe(_ head: RawSpan, _ store: any ByteStore) throws(ImageError) -> Int {
    switch head.littleEndian(at: 0, as: UInt32.self) {
    case SparseHeader.magic, COWDHeader.magic: 100
    default: Descriptor.isLikely(head) ? 100 : 0
    }
  }
}

/// Bytes of a sector: 512 on every disk of this format.
let sectorByteCount: UInt64 = 512
