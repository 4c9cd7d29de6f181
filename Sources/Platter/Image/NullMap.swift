import PlatterCore

/// QEMU's `null-co`: a disk of zeros that lies nowhere.
final class NullMap: ImageMap {
  static let name = "null-co"
  private static let defaultByteCount: UInt64 = 1 << 30  // QEMU's

  var formatName: String { Self.name }
  let byteCount: UInt64
  let stores: [any ByteStore] = [MemoryStore(name: "null-co://", isWritable: false)]

  private init(byteCount: UInt64) { self.byteCount = byteCount }

  static func layer(_ node: [String: String]) throws(ImageError) -> DiskImage.Layer {
    let byteCount = try node["size"].map { text throws(ImageError) in try CreationValue.size(text, of: "size") }
    return DiskImage.Layer(name: "null-co://", map: NullMap(byteCount: byteCount ?? defaultByteCount))
  }

  func map(_ range: Range<UInt64>, limit: Int, into extents: inout [Extent]) throws(ImageError) -> UInt64 {
    extents.appendJoining(.zero(start: range.lowerBound, byteCount: range.upperBound - range.lowerBound))
    return range.upperBound
  }
}
