package import PlatterCore
import PlatterCrypto

/// Apple disk images (UDIF, `.dmg`), read-only.
///
///     0                  +-------------------------------+
///                        | data fork                     |  raw bytes and packed chunks, in any order
///                        +-------------------------------+
///                        | property list (XML)           |  resource-fork > blkx: one block table a partition,
///                        |   or an old resource fork     |  each a base64 "mish" record with its chunks
///                        +-------------------------------+
///     end - 512          | trailer "koly"                |  says where all of that lies; checksums
///                        +-------------------------------+
///
/// A chunk says for a run of sectors of its partition: raw bytes here, packed bytes here, or zeros. Old images have the
/// trailer in front; some have bytes behind it. A large image may continue in `base.002.dmgpart`, ... whose data forks
/// follow one another. An encrypted image wraps all of it (or a raw disk) in blocks of AES.
///
/// Invariants of an opened image:
/// - runs are sorted by sector and do not overlap; sectors that no run names read as zeros;
/// - the bytes of every run lie inside the file; raw bytes are exactly as many as their sectors;
/// - no packed chunk decodes to more than `Chunk.maximumPackedSectorCount` sectors.
package enum DMG: ImageFormat {
  package static let name = "dmg"

  /// Bytes of a sector, in every field that counts sectors.
  static let sectorByteCount: UInt64 = 512
  /// Most sectors of an image: the disk's bytes fit a signed number of 64 bits.
  static let maximumSectorCount: UInt64 = (1 << 54) - 1
  /// Most chunks of all tables together: 64 MiB of property list hold little more.
  static let maximumChunkCount = 1_000_000
  /// Most block tables: their index is 16 bits in a run.
  static let maximumTableCount = 65_535

  package static func probe(_ head: RawSpan, _ store: any ByteStore) throws(ImageError) -> Int {
    if try EncryptedDMG.isEncrypted(store) { return 100 }
    return try Trailer.find(in: store, tailByteCount: Trailer.maximumProbedTailByteCount) == nil ? 0 : 100
  }
}
