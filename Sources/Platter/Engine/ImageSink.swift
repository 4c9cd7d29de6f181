import PlatterCodecs
import PlatterCore

/// Writes a copy into an image through the write engine.
final class ImageSink: CopySink {
  private let writer: DiskWriter
  /// The image reads as zeros where nothing was written.
  private let isZero: Bool

  init(_ writer: DiskWriter, isZero: Bool) {
    self.writer = writer
    self.isZero = isZero
  }

  var isOrdered: Bool { false }
  var takesZeros: Bool { true }

  func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) { try writer.write(bytes, at: offset) }

  func zero(_ range: Range<UInt64>) throws(ImageError) {
    if !isZero { try writer.zero(range, mayUnmap: true) }
  }
}
