package import SystemPackage

/// A disk-image format at work: says for each run of guest bytes where they come from. Reads nothing else.
///
/// Thread-safe: headers immutable, caches of tables behind a lock that is never held across data I/O.
/// The engine turns maps into reads; see `Documentation/Architecture.md`.
package protocol ImageMap: AnyObject, Sendable {
  /// The format's name as `-f` takes it: "qcow2", "vmdk".
  var formatName: String { get }
  /// Guest bytes. Any number: not always a multiple of 512.
  var byteCount: UInt64 { get }
  /// Files that extents refer to by index. Element 0 is the image itself.
  var stores: [any ByteStore] { get }
  /// Ciphers that extents refer to by index + 1.
  var ciphers: [any SectorCipher] { get }
  /// Unit of allocation in bytes (cluster, grain, block), or nil where the format has none.
  var allocationUnit: UInt64? { get }
  /// The image that `absent` runs come from, as this image names it.
  var backing: BackingReference? { get }
  /// Facts that `info` shows beside the common ones.
  var facts: ImageFacts { get }

  /// Appends runs that cover `range` from its start without a gap, in order, neighbours joined.
  ///
  /// - Parameters:
  ///   - range: guest bytes; inside 0..<byteCount and not empty.
  ///   - limit: most runs to append; at least 1. The driver may stop earlier (end of a table).
  /// - Returns: the guest offset behind the last run appended; more than `range.lowerBound`, at most its end.
  /// - Throws: `.corrupt` or `.truncated` where a table of the image is bad; `.io`.
  func map(_ range: Range<UInt64>, limit: Int, into extents: inout [Extent]) throws(ImageError) -> UInt64

  /// Checks that an opened parent is the one that this image was made over (VHDX linkage, VMDK content id).
  func accept(parent: any ImageMap) throws(ImageError)

  /// The disk as an internal snapshot holds it. `name` is an id or a name; ids win.
  func snapshot(named name: String) throws(ImageError) -> any ImageMap

  /// Whether the bytes of `data` runs are encrypted and the caller gave a secret for them.
  var isEncrypted: Bool { get }
}

extension ImageMap {
  package var ciphers: [any SectorCipher] { [] }
  package var allocationUnit: UInt64? { nil }
  package var backing: BackingReference? { nil }
  package var facts: ImageFacts { ImageFacts() }
  package var isEncrypted: Bool { false }
  package func accept(parent: any ImageMap) throws(ImageError) {}
  package func snapshot(named name: String) throws(ImageError) -> any ImageMap {
    throw ImageError(.unsupported, "the \(formatName) format has no internal snapshots", file: stores[0].name)
  }
}

/// How an image names the one under it.
package struct BackingReference: Sendable, Equatable {
  /// The names to try, best first, bytes as the image has them ("/" separates folders).
  package var names: [FilePath]
  /// The recorded format, or nil where the image says none and it must be probed.
  package var formatName: String?
  /// The first name as `info` shows it.
  package var displayName: String

  package init(names: [FilePath], formatName: String? = nil, displayName: String) {
    self.names = names
    self.formatName = formatName
    self.displayName = displayName
  }
}

/// Decrypts (and encrypts) whole sectors. Formats disagree on what numbers a sector, so it is told both places.
package protocol SectorCipher: Sendable {
  /// Bytes that must be handled together; runs are aligned to it in guest and host.
  var sectorByteCount: Int { get }
  /// Decrypts in place. `bytes` is a whole number of sectors.
  func decrypt(_ bytes: inout MutableRawSpan, guestOffset: UInt64, hostOffset: UInt64) throws(ImageError)
  /// Encrypts in place. `bytes` is a whole number of sectors.
  func encrypt(_ bytes: inout MutableRawSpan, guestOffset: UInt64, hostOffset: UInt64) throws(ImageError)
}
