package import PlatterCore

extension VHDXMap {
  /// How blocks are given space.
  private var subformat: String {
    metadata.hasParent ? "differencing" : metadata.isFixed ? "fixed" : "dynamic"
  }

  package var facts: ImageFacts {
    var facts = ImageFacts()
    facts.hasDirtyFlag = true
    facts.isDirty = isReplayedInMemory
    facts.warnings = (headers.faults + regions.faults).compactMap { $0 }
    if isReplayedInMemory {
      facts.warnings.append("the log holds \(replayedEntryCount) entries that are not yet applied to the file")
    }
    var members: [Property.Member] = [
      .init("subformat", .text(subformat)),
      .init("block-size", .unsigned(geometry.blockByteCount)),
      .init("logical-sector-size", .unsigned(geometry.sectorByteCount)),
      .init("physical-sector-size", .unsigned(metadata.physicalSectorByteCount)),
      .init("log-replayed", .flag(replayedEntryCount > 0)),
      .init("page-83-id", .text(metadata.page83.description)),
      .init("data-write-guid", .text(headers.current.dataWriteGUID.description)),
      .init("creator", .text(identifier.creator.printable)),
    ]
    if let locator = metadata.parentLocator { members.append(.init("parent", Self.facts(of: locator))) }
    facts.specific = .object(members)
    return facts
  }

  private static func facts(of locator: ParentLocator) -> Property {
    var members: [Property.Member] = [.init("linkage", .text(locator.linkage.description))]
    if let linkage2 = locator.linkage2 { members.append(.init("linkage2", .text(linkage2.description))) }
    let paths = [
      ("relative-path", locator.relativePath), ("absolute-path", locator.absolutePath),
      ("volume-path", locator.volumePath),
    ]
    for (name, path) in paths {
      if let path { members.append(.init(name, .text(path.printable))) }
    }
    return .object(members)
  }
}

extension String {
  /// The text without control characters, so that a hostile one cannot drive a terminal.
  fileprivate var printable: String {
    var text = ""
    for scalar in unicodeScalars {
      if scalar.value < 0x20 || (0x7f...0x9f).contains(scalar.value) {
        text += "\\x" + (scalar.value < 16 ? "0" : "") + String(scalar.value, radix: 16)
      } else {
        text.unicodeScalars.append(scalar)
      }
    }
    return text
  }
}
