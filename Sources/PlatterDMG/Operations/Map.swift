import PlatterCore

/// An opened disk image.
final class DMGImage: ImageMap {
  let formatName = DMG.name
  let byteCount: UInt64
  /// Element 0 is the image itself; what `dataStore` says holds the chunks: the same, or what decrypts it, or all
  /// segments as one.
  let stores: [any ByteStore]
  let dataStore: UInt16
  let content: Content
  let isEncrypted: Bool
  /// How the file is encrypted, for `info`.
  let encryption: Property?
  let warnings: [String]
  /// Files that the image names: its other segments.
  let references: [String]

  /// What the file turned out to hold.
  enum Content: Sendable {
    /// Chunks, and the trailers of all segments (mostly one).
    case chunks(RunTable, [Trailer])
    /// A raw disk, in an encrypted file without a trailer inside.
    case raw
    /// An encrypted file to which no passphrase was given: only facts.
    case locked
  }

  init(
    byteCount: UInt64, stores: [any ByteStore], content: Content, isEncrypted: Bool = false,
    encryption: Property? = nil, warnings: [String] = [],
    references: [String] = []
  ) {
    self.byteCount = byteCount
    self.stores = stores
    dataStore = UInt16(stores.count - 1)
    self.content = content
    self.isEncrypted = isEncrypted
    self.encryption = encryption
    self.warnings = warnings
    self.references = references
  }

  func map(_ range: Range<UInt64>, limit: Int, into extents: inout [Extent]) throws(ImageError) -> UInt64 {
    switch content {
    case .chunks(let table, _): return map(range, table, limit: limit, into: &extents)
    case .raw:
      extents.append(
        .data(
          start: range.lowerBound, byteCount: range.upperBound - range.lowerBound, store: dataStore,
          offset: range.lowerBound))
      return range.upperBound
    case .locked: throw DMG.passphraseNeeded.named(stores[0].name)
    }
  }

  private func map(_ range: Range<UInt64>, _ table: RunTable, limit: Int, into extents: inout [Extent]) -> UInt64 {
    var position = range.lowerBound
    var index = table.firstIndex(endingAfter: position / DMG.sectorByteCount)
    // Joining neighbours lets `count` stand still, so a run more is looked at only where there is room for it.
    let full = extents.count + limit
    while position < range.upperBound, extents.count < full {
      guard index < table.sorted.count else {
        extents.appendJoining(.zero(start: position, byteCount: range.upperBound - position))
        return range.upperBound
      }
      let run = table.sorted[index]
      let start = run.firstSector * DMG.sectorByteCount
      if position < start {
        let end = min(start, range.upperBound)
        extents.appendJoining(.zero(start: position, byteCount: end - position))
        position = end
        continue
      }
      let part = extent(run, start).clipped(to: position..<range.upperBound)
      extents.appendJoining(part)
      position = part.end
      index += 1
    }
    return position
  }

  private func extent(_ run: Run, _ start: UInt64) -> Extent {
    switch run.kind {
    case .zero, .ignore: return .zero(start: start, byteCount: run.byteCount)
    case .raw: return .data(start: start, byteCount: run.byteCount, store: dataStore, offset: run.offset)
    case .adc, .zlib, .bzip2, .lzfse, .lzma:
      return .packed(
        start: start, byteCount: run.byteCount, codec: run.kind.codec ?? .zlib, store: dataStore, offset: run.offset,
        packedByteCount: UInt64(run.packedByteCount), unitStart: start, unitByteCount: run.byteCount)
    }
  }
}
