package import PlatterCore

/// The QED format: a header, one L1 table, L2 tables and data clusters, all little-endian.
///
///     0            header clusters   64-byte header; the backing image's name; spare
///     L1 offset    L1 table          table_size clusters of 8-byte entries, each 0 or the place of an L2 table
///     anywhere     L2 tables         table_size clusters of 8-byte entries, each 0 (unallocated), 1 (zeros) or the
///                                    place of a data cluster
///     anywhere     data clusters
///
/// With C bytes a cluster, T clusters a table and E = T * C / 8 entries a table, guest byte g lies in cluster g / C;
/// its L2 entry is (g / C) % E, in the table that L1 entry g / (C * E) names.
///
/// Invariants: every table and cluster starts at a multiple of C, behind the header clusters and inside the file; no
/// two entries name the same cluster. There are no reference counts: the file's length is the allocator.
package enum QED: ImageFormat {
  package static let name = "qed"

  package static func probe(_ head: RawSpan, _ store: any ByteStore) throws(ImageError) -> Int {
    head.littleEndian(at: 0) == Header.magic ? 100 : 0
  }
}
