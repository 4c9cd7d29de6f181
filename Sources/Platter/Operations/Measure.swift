/// How large a raw file of a disk's content would be.
package struct Measurement: Sendable, Equatable {
  /// Bytes that are needed for the data.
  package var required: UInt64
  /// Bytes of the file when everything is allocated.
  package var fullyAllocated: UInt64

  /// For a raw target: its file is the disk, holes or not.
  package static func raw(byteCount: UInt64) -> Measurement {
    Measurement(required: byteCount, fullyAllocated: byteCount)
  }
}
