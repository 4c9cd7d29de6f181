package import PlatterCore

/// Microsoft's VHDX, version 1 [MS-VHDX]. Integers are little-endian; every large structure lies on whole MiB.
///
///     0         file identifier: "vhdxfile", the program that made it
///     64 KiB    header 1 ┐ the valid one with the larger sequence number counts;
///     128 KiB   header 2 ┘ it places the log and names the entries to replay
///     192 KiB   region table 1 ┐ copies; they place BAT and metadata
///     256 KiB   region table 2 ┘
///     1 MiB …   in any order: the log (a ring of 4 KiB sectors), the BAT, the metadata,
///               payload blocks (1 to 256 MiB) and sector bitmap blocks (1 MiB)
///
/// The BAT has an entry for each payload block, and behind each chunk's entries one for the chunk's sector bitmap: a bit
/// for every sector, set where a partially present block of a differencing file has the sector itself.
///
/// What holds once a file is open:
/// - the log is replayed, in memory (`LogOverlayStore`) or, where the file may be written, into the file;
/// - regions and log do not overlap, and nothing required is unknown;
/// - the metadata's numbers are within their limits, and the BAT is long enough for the disk;
/// - an entry of the BAT is checked whenever it is used; nothing is read past the end of the file.
package enum VHDX: ImageFormat {
  package static let name = "vhdx"

  package static func probe(_ head: RawSpan, _ store: any ByteStore) throws(ImageError) -> Int {
    head.hasSignature("vhdxfile") ? 100 : 0
  }

  package static func open(_ store: any ByteStore, _ context: OpenContext) throws(ImageError) -> any ImageMap {
    try naming(store.name) { () throws(ImageError) in try VHDXMap(reading: store, context) }
  }
}
