import PlatterCodecs
package import PlatterCore
import SystemPackage

extension DiskWriter {
  /// The size of the units that can be stored compressed; nil where the format has none or the image cannot hold any.
  package var packedUnitByteCount: UInt64? { map.packedCodec == nil ? nil : map.allocationUnit }

  /// Writes whole units compressed; one that does not get smaller is written as it is.
  ///
  /// - Parameters:
  ///   - bytes: whole units, or up to the disk's end.
  ///   - offset: a multiple of the unit.
  /// - Throws: `.unsupported` where the format has no compressed units; `.io` where a unit has space of its own already:
  ///   compressed data does not replace data.
  package func writeCompressed(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) {
    guard let unit = packedUnitByteCount, let codec = map.packedCodec else {
      throw ImageError(.unsupported, "the image has no compressed clusters", file: image.name)
    }
    guard offset % unit == 0, offset <= map.byteCount, UInt64(bytes.byteCount) <= map.byteCount - offset,
      UInt64(bytes.byteCount) % unit == 0 || offset + UInt64(bytes.byteCount) == map.byteCount
    else { throw ImageError(.invalidArgument, "a compressed write takes whole clusters", file: image.name) }
    // The window that every reader of qcow2 has.
    let packer = try UnitPacker(
      codec == .zstd ? .zstd(level: nil) : .deflate(level: UnitPacker.Effort.usualDeflateLevel, window: .fourKiB))
    var plain = AlignedBuffer(byteCount: Int(unit))
    var packedBuffer = AlignedBuffer(byteCount: Int(unit))
    var done = 0
    while done < bytes.byteCount {
      let count = min(Int(unit), bytes.byteCount - done)
      let position = offset + UInt64(done)
      try refuseAllocated(position..<position + UInt64(count))
      let part = bytes.extracting(done..<done + count)
      if let packedByteCount = Self.pack(part, packer, &plain, &packedBuffer) {
        let packed = packedBuffer.bytes.extracting(0..<packedByteCount)
        guard try writePacked(packed, unitStart: position) else {
          throw ImageError(.unsupported, "the image has no compressed clusters", file: image.name)
        }
      } else {
        try write(part, at: position)
      }
      done += count
    }
  }

  /// Packs a unit, its end filled with zeros before; nil where it does not get smaller.
  private static func pack(
    _ bytes: RawSpan, _ packer: UnitPacker, _ plain: inout AlignedBuffer, _ packed: inout AlignedBuffer
  ) -> Int? {
    let unit = plain.byteCount
    plain.withMutableBytes { buffer in
      buffer.copy(bytes, to: 0)
      buffer.zero(bytes.byteCount..<unit)
    }
    return packed.withMutableBytes { buffer in packer.pack(plain.bytes, into: &buffer, 0..<unit - 1) }
  }

  private func refuseAllocated(_ range: Range<UInt64>) throws(ImageError) {
    var extents: [Extent] = []
    var position = range.lowerBound
    while position < range.upperBound {
      extents.removeAll(keepingCapacity: true)
      position = try map.map(position..<range.upperBound, limit: 16, into: &extents)
      guard let taken = extents.first(where: { $0.hasOffset && $0.byteCount > 0 }) else { continue }
      throw ImageError(
        .io, "the cluster at \(taken.start) has space already; compressed data does not replace it", file: image.name,
        errno: .ioError)
    }
  }
}
