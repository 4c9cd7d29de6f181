package import PlatterCore

extension Opening {
  /// The bitmaps' directory. Damage there does not touch the disk: a warning where the image is only read.
  func bitmaps(isWritable: Bool, warnings: inout [String]) throws(ImageError) -> [BitmapRecord] {
    guard let bytes = extensions.bytes(of: HeaderExtensions.Kind.bitmaps) else { return [] }
    guard header.autoclearFeatures.contains(.bitmaps) else {
      warnings.append("the bitmaps are ignored: a program that does not know bitmaps has changed the image")
      return []
    }
    let place = try BitmapsExtension(parsing: bytes, header)
    do {
      return try BitmapRecord.directory(store, place, header)
    } catch {
      guard !isWritable else { throw error }
      warnings.append("the bitmaps are ignored: \(error.message)")
      return []
    }
  }
}

extension QCOW2Map {
  /// Names and order as qemu-img 7.2 prints them (observed).
  package var facts: ImageFacts {
    let header = volume.header
    var facts = ImageFacts()
    facts.hasDirtyFlag = true
    facts.isDirty = header.incompatibleFeatures.contains(.dirty)
    facts.isCorrupt = header.incompatibleFeatures.contains(.corrupt)
    facts.warnings = volume.warnings
    if let name = volume.dataFileName { facts.references.append(name) }
    facts.snapshots = volume.snapshots.map { snapshot in
      SnapshotFacts(
        id: String(decoding: snapshot.id, as: UTF8.self), name: String(decoding: snapshot.name, as: UTF8.self),
        vmStateByteCount: snapshot.vmStateByteCount, seconds: Int64(snapshot.seconds),
        nanoseconds: snapshot.nanoseconds, guestClockNanoseconds: snapshot.guestClockNanoseconds,
        instructionCount: snapshot.instructionCount,
        diskByteCount: snapshot.diskByteCount ?? header.virtualByteCount)
    }
    facts.specific = .object(specificFacts(header))
    return facts
  }

  private func specificFacts(_ header: Header) -> [Property.Member] {
    let isVersion3 = header.version >= 3
    var members = [
      Property.Member("compat", .text(isVersion3 ? "1.1" : "0.10")),
      Property.Member("compression-type", .text(header.compression == .zstd ? "zstd" : "zlib")),
    ]
    if isVersion3 {
      members.append(.init("lazy-refcounts", .flag(header.compatibleFeatures.contains(.lazyRefcounts))))
    }
    if !volume.bitmaps.isEmpty { members.append(.init("bitmaps", .list(volume.bitmaps.map(\.facts)))) }
    members.append(.init("refcount-bits", .unsigned(1 << UInt64(header.refcountOrder))))
    if header.hasDataFile, let name = volume.dataFileName { members.append(.init("data-file", .text(name))) }
    if let encryption = volume.encryption.facts { members.append(.init("encrypt", encryption)) }
    if header.hasDataFile { members.append(.init("data-file-raw", .flag(header.isDataFileRaw))) }
    if isVersion3 {
      members.append(.init("corrupt", .flag(header.incompatibleFeatures.contains(.corrupt))))
      members.append(.init("extended-l2", .flag(header.hasExtendedL2)))
    }
    return members
  }
}

extension BitmapRecord {
  /// One element of the list that `info` prints.
  var facts: Property {
    var words: [Property] = []
    if flags.contains(.inUse) { words.append(.text("in-use")) }
    if flags.contains(.auto) { words.append(.text("auto")) }
    return [
      "flags": .list(words), "name": .text(String(decoding: name, as: UTF8.self)),
      "granularity": .unsigned(granularity),
    ]
  }
}
