import PlatterCodecs
import PlatterCore

/// Fills memory with the guest bytes of runs: the one place where data is read, decrypted and decoded.
struct RunReader {
  /// Units that decode to more than this are spooled to a nameless temporary file instead of memory.
  static let maximumUnitByteCount: UInt64 = 8 << 20
  /// Packed bytes of a unit may exceed the decoded ones by this factor and this much; more is a lie about the length.
  private static let maximumExpansion: UInt64 = 2
  private static let packedSlackByteCount: UInt64 = 1 << 20

  let image: DiskImage

  /// Fills `target` with the guest bytes of `run`, as many as both have.
  func read(_ run: Run, into target: inout MutableRawSpan, _ scratch: Scratch) throws(ImageError) {
    guard let salvage = image.salvage else { return try readWhole(run, into: &target, scratch) }
    do throws(ImageError) {
      try readWhole(run, into: &target, scratch)
    } catch {
      try readRest(of: run, into: &target, scratch, salvage, error)
    }
  }

  /// The same without salvage.
  func readWhole(_ run: Run, into target: inout MutableRawSpan, _ scratch: Scratch) throws(ImageError) {
    precondition(UInt64(target.byteCount) == run.extent.byteCount)
    switch run.extent.kind {
    case .zero, .absent: target.zero(0..<target.byteCount)
    case .data: try readData(run, into: &target)
    case .packed: try readPacked(run, into: &target, scratch)
    }
  }

  private func readData(_ run: Run, into target: inout MutableRawSpan) throws(ImageError) {
    let map = image.layers[Int(run.depth)].map
    let extent = run.extent
    let store = map.stores[Int(extent.store)]
    if extent.cipher > 0 {
      let sector = UInt64(map.ciphers[Int(extent.cipher) - 1].sectorByteCount)
      guard extent.start % sector == 0, extent.byteCount % sector == 0 else {
        return try readPartOfSectors(run, sector, into: &target)
      }
    }
    let got = try store.read(into: &target, at: extent.offset)
    guard got == target.byteCount else {
      let end = got > 0 ? extent.offset + UInt64(got) : min(extent.offset, try store.byteCount())
      throw ImageError(
        .truncated,
        "guest bytes \(extent.start.hex)..<\(extent.end.hex) should lie at \(extent.offset.hex), but the file ends at "
          + "\(end.hex)", file: store.name)
    }
    if extent.cipher > 0 {
      let cipher = map.ciphers[Int(extent.cipher) - 1]
      try naming(store.name) { () throws(ImageError) in
        try cipher.decrypt(&target, guestOffset: extent.start, hostOffset: extent.offset)
      }
    }
  }

  /// Ciphers know whole sectors only: those that hold the run are read beside, and the run copied out.
  private func readPartOfSectors(_ run: Run, _ sector: UInt64, into target: inout MutableRawSpan) throws(ImageError) {
    let skip = run.extent.start % sector
    var whole = run
    whole.extent.start -= skip
    whole.extent.offset -= skip
    whole.extent.byteCount = (skip + run.extent.byteCount).dividedRoundingUp(by: sector) * sector
    var buffer = AlignedBuffer(byteCount: Int(whole.extent.byteCount))
    try buffer.withMutableBytes { bytes throws(ImageError) in try readData(whole, into: &bytes) }
    target.copy(buffer.bytes.extracting(Int(skip)..<Int(skip) + target.byteCount))
  }

  private func readPacked(_ run: Run, into target: inout MutableRawSpan, _ scratch: Scratch) throws(ImageError) {
    let extent = run.extent
    if extent.unitByteCount > Self.maximumUnitByteCount {
      return try image.spools.read(run, image, into: &target)
    }
    if extent.start == extent.unitStart, extent.byteCount == extent.unitByteCount {
      return try decode(run, into: &target, scratch)
    }
    let skip = Int(extent.start - extent.unitStart)
    let key = UnitCache.Key(run)
    if let unit = image.units.unit(key), unit.bytes.count == Int(extent.unitByteCount) {
      let bytes = unit.bytes
      return target.copy(bytes.rawBytes.extracting(skip..<skip + target.byteCount))
    }
    var bytes = [UInt8](repeating: 0, count: Int(extent.unitByteCount))
    try bytes.withMutableRawBytes { unit throws(ImageError) in try decode(run, into: &unit, scratch) }
    target.copy(bytes.rawBytes.extracting(skip..<skip + target.byteCount))
    image.units.insert(UnitCache.Unit(bytes), key)
  }

  /// Decodes the whole unit that `run` is a part of into `target`, which has its size.
  private func decode(_ run: Run, into target: inout MutableRawSpan, _ scratch: Scratch) throws(ImageError) {
    let extent = run.extent
    let map = image.layers[Int(run.depth)].map
    let store = map.stores[Int(extent.store)]
    guard extent.packedByteCount <= extent.unitByteCount * Self.maximumExpansion + Self.packedSlackByteCount else {
      throw ImageError(
        .corrupt,
        "the packed unit at \(extent.offset.hex) has \(extent.packedByteCount) bytes for \(extent.unitByteCount) "
          + "decoded ones", file: store.name)
    }
    let count = Int(extent.packedByteCount)
    let needed = Int(min(extent.unitByteCount, map.byteCount - extent.unitStart))
    let produced = try scratch.withBuffers(packed: count, plain: 0) { (packed, _, decoder) throws(ImageError) -> Int in
      let got = try packed.withMutableBytes { bytes throws(ImageError) in
        try bytes.withPart(0..<count) { part throws(ImageError) in try store.read(into: &part, at: extent.offset) }
      }
      guard got == count else {
        throw ImageError(
          .truncated,
          "the packed unit at \(extent.offset.hex) has \(count) bytes, but the file ends after \(got) of them",
          file: store.name)
      }
      do throws(ImageError) {
        return try decoder.decode(extent.codec, packed.bytes.extracting(0..<count), into: &target)
      } catch {
        throw ImageError(
          error.code, "the packed unit at \(extent.offset.hex) (guest \(extent.unitStart.hex)): \(error.message)",
          file: store.name)
      }
    }
    guard produced >= needed else {
      throw ImageError(
        .corrupt,
        "the packed unit at \(extent.offset.hex) (guest \(extent.unitStart.hex)) decodes to \(produced) bytes instead of "
          + "\(needed)", file: store.name)
    }
    if produced < target.byteCount { target.zero(produced..<target.byteCount) }
  }
}
