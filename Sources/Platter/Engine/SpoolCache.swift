import CPlatter
import PlatterCodecs
import PlatterCore
import SystemPackage

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Huge decoded units (old DMG images have some of hundreds of MiB), decoded once each into a nameless temporary file
/// so that memory stays small. One unit is kept; its turn to be replaced comes when another is read.
final class SpoolCache: Sendable {
  /// Units that decode to more than this are refused.
  static let maximumUnitByteCount: UInt64 = 1 << 30

  private struct State: Sendable {
    var key: UnitCache.Key?
    var file: FileStore?
  }

  private let state = Monitor(State())

  /// Fills `target` with the part of a huge unit that `run` names.
  func read(_ run: Run, _ image: DiskImage, into target: inout MutableRawSpan) throws(ImageError) {
    let key = UnitCache.Key(run)
    // Held while decoding: everybody who wants this unit would decode it again.
    let file = try state.withLock { state throws(ImageError) -> FileStore in
      if state.key == key, let file = state.file { return file }
      state = State()
      let file = try Self.decode(run, image)
      state = State(key: key, file: file)
      return file
    }
    let got = try file.read(into: &target, at: run.extent.start - run.extent.unitStart)
    if got < target.byteCount { target.zero(got..<target.byteCount) }
  }

  private static func decode(_ run: Run, _ image: DiskImage) throws(ImageError) -> FileStore {
    let extent = run.extent
    let map = image.layers[Int(run.depth)].map
    let store = map.stores[Int(extent.store)]
    guard extent.unitByteCount <= maximumUnitByteCount else {
      throw ImageError(
        .unsupported,
        "the packed unit at \(extent.offset.hex) decodes to \(extent.unitByteCount) bytes, more than "
          + "\(maximumUnitByteCount)", file: store.name)
    }
    let file = try FileStore.temporary()
    var offset = extent.offset
    let end = extent.offset + extent.packedByteCount
    var produced: UInt64 = 0
    let decoder = StreamDecoder(codec: extent.codec, byteCount: extent.unitByteCount)
    do throws(ImageError) {
      try decoder.decode(
        input: { buffer throws(ImageError) in
          let count = Int(min(UInt64(buffer.byteCount), end - offset))
          guard count > 0 else { return 0 }
          let got = try buffer.withPart(0..<count) { part throws(ImageError) in try store.read(into: &part, at: offset)
          }
          offset += UInt64(got)
          return got
        },
        output: { piece throws(ImageError) in
          guard produced + UInt64(piece.byteCount) <= extent.unitByteCount else {
            throw ImageError.corrupt("decodes to more than \(extent.unitByteCount) bytes")
          }
          try file.write(piece, at: produced)
          produced += UInt64(piece.byteCount)
        })
    } catch {
      throw ImageError(
        error.code, "the packed unit at \(extent.offset.hex) (guest \(extent.unitStart.hex)): \(error.message)",
        file: store.name)
    }
    let needed = min(extent.unitByteCount, map.byteCount - extent.unitStart)
    guard produced >= needed else {
      throw ImageError(
        .corrupt,
        "the packed unit at \(extent.offset.hex) (guest \(extent.unitStart.hex)) decodes to \(produced) bytes instead of "
          + "\(needed)", file: store.name)
    }
    return file
  }
}
