import PlatterCore

extension DMGImage {
  var facts: ImageFacts {
    var facts = ImageFacts()
    facts.warnings = warnings
    switch content {
    case .locked, .raw:
      facts.specific = ["encrypted": .flag(true), "encryption": encryption ?? .null]
    case .chunks(let table, let trailers):
      facts.specific = specific(table, trailers)
      facts.references = references
    }
    return facts
  }

  /// QEMU has no facts of this format: these are ours.
  private func specific(_ table: RunTable, _ trailers: [Trailer]) -> Property {
    let trailer = trailers[0]
    var members: [Property.Member] = [
      .init("variant", .unsigned(UInt64(trailer.imageVariant))),
      .init("segment-count", .unsigned(UInt64(max(1, trailer.segmentCount)))),
      .init("sector-count", .unsigned(byteCount / DMG.sectorByteCount)),
      .init("data-fork-checksum", trailer.dataForkChecksum.property),
      .init("master-checksum", trailer.masterChecksum.property),
      .init("partitions", .list(table.partitions.map(\.property))),
      .init("encrypted", .flag(isEncrypted)),
    ]
    if let encryption { members.append(.init("encryption", encryption)) }
    return .object(members)
  }
}

extension StoredChecksum {
  fileprivate var property: Property {
    if algorithm == .none { return .null }
    return [
      "type": .text(algorithm == .unknown ? "type-\(type)" : algorithm.rawValue), "value": .text(text),
    ]
  }
}

extension Partition {
  fileprivate var property: Property {
    let chunks = ChunkKind.allCases.map {
      Property.Member($0.name, .unsigned(UInt64(chunkCounts[Int($0.rawValue)])))
    }
    return [
      "name": .text(name.printable()),
      "first-sector": .unsigned(firstSector),
      "sectors": .unsigned(sectorCount),
      "checksum": checksum.property,
      "chunks": .object(chunks),
    ]
  }
}
