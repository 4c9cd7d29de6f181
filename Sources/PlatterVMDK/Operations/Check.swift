package import PlatterCore

extension VMDKImage: CheckableMap {
  /// Follows every entry of every directory and table, and compares what the file holds twice.
  ///
  /// Cost: one read per grain table and, in a streamOptimized extent, one per grain; memory in proportion to the
  /// grains.
  package func check(workers: Int, progress: @escaping @Sendable (Double) -> Bool) throws(ImageError) -> CheckReport {
    var check = ImageCheck()
    let promised = descriptor.extents.reduce(0) { $0 &+ $1.sectorCount }
    if !descriptor.extents.isEmpty, promised != byteCount / sectorByteCount {
      check.corrupt("the descriptor's extents have \(promised) sectors, and the disk \(byteCount / sectorByteCount)")
    }
    for part in parts {
      let offset = Double(part.start)
      let name = parts.count > 1 && !part.fileName.isEmpty ? "\(part.fileName): " : ""
      check.begin(name: name) { done in progress((offset + done * Double(part.byteCount)) / Double(self.byteCount)) }
      do throws(ImageError) {
        switch part.extent {
        case let extent as SparseExtent: try check.check(extent)
        case let extent as SESparseExtent: try check.check(extent)
        case let extent as FlatExtent: if let fault = extent.fault { check.corrupt(fault) }
        case let extent as UnreadableExtent: check.unreadable(extent.reason.message)
        default: break
        }
      } catch {
        throw error.named(stores[0].name)
      }
    }
    _ = progress(1)
    return check.report
  }
}

/// A pass over a disk's extents.
private struct ImageCheck {
  var report = CheckReport()
  private var name = ""
  private var progress: (Double) -> Bool = { _ in true }
  /// Grains of the present extent at multiples of the grain size, by number.
  private var alignedGrains = NumberSet()
  /// Other grains of the present extent, by sector.
  private var otherGrains = NumberSet()
  private var tables: Set<UInt64> = []

  mutating func begin(name: String, progress: @escaping (Double) -> Bool) {
    self.name = name
    self.progress = progress
    alignedGrains = NumberSet()
    otherGrains = NumberSet()
    tables = []
  }

  mutating func corrupt(_ message: String) {
    report.corruptions += 1
    report.say(name + message)
  }

  mutating func unreadable(_ message: String) {
    report.checkErrors += 1
    report.say(name + message)
  }

  /// Told now and then; throws when the caller has had enough.
  private func step(_ index: UInt64, of count: UInt64) throws(ImageError) {
    guard index % 64 != 0 || progress(Double(index) / Double(count)) else {
      throw ImageError(.cancelled, "the check was cancelled")
    }
  }

  // MARK: SPARSE and VMFSSPARSE

  mutating func check(_ extent: SparseExtent) throws(ImageError) {
    let layout = extent.layout
    if layout.capacityByteCount != layout.byteCount {
      corrupt(
        "the header's capacity is \(layout.capacityByteCount / sectorByteCount) sectors, and the descriptor's "
          + "\(layout.byteCount / sectorByteCount)")
    }
    if let fault = layout.directoryFault { corrupt(fault) }
    if layout.hasMarkers { try checkFooter(of: extent) }
    let tableCount = layout.byteCount.dividedRoundingUp(by: layout.tableSpan)
    for index in 0..<tableCount {
      try step(index, of: tableCount)
      let entry = try extent.directory.entry32(index)
      guard let place = extent.checkedPlace(entry) else {
        corrupt(extent.fault(index, entry))
        continue
      }
      try checkCopy(of: place, index, in: extent)
      guard case .at(let offset) = place else { continue }
      guard tables.insert(offset).inserted else {
        corrupt("grain directory entry \(index) names the grain table at \(offset.hex), which is used already")
        continue
      }
      try checkTable(at: offset, index, in: extent)
    }
  }

  private mutating func checkTable(at offset: UInt64, _ index: UInt64, in extent: SparseExtent) throws(ImageError) {
    let layout = extent.layout
    let table = try extent.table(at: offset)
    for entryIndex in 0..<layout.entryCount {
      let entry: UInt32 = table.rawBytes.littleEndian(at: Int(entryIndex) * 4) ?? 0
      guard entry != 0, entry != 1 || !layout.hasZeroedGrains else { continue }
      do throws(ImageError) {
        let place = try extent.grainOffset(entry, table: index, entry: entryIndex)
        let what = "entry \(entryIndex) of grain table \(index)"
        guard place >= layout.overheadByteCount else {
          corrupt("\(what) points to sector \(entry), inside the metadata (\(layout.overheadByteCount.hex) bytes)")
          continue
        }
        if layout.isCompressed, layout.hasMarkers {
          // Markers name their grain, so that no two entries can share one.
          _ = try extent.markedByteCount(index * layout.entryCount + entryIndex, at: place)
        } else if !insert(place, layout.grainByteCount) {
          corrupt("\(what) names the grain at sector \(entry), which is used already")
        }
      } catch {
        guard error.code == .corrupt || error.code == .truncated else { throw error }
        corrupt(error.message)
      }
    }
  }

  private mutating func insert(_ place: UInt64, _ grainByteCount: UInt64) -> Bool {
    place % grainByteCount == 0
      ? alignedGrains.insert(place / grainByteCount) : otherGrains.insert(place / sectorByteCount)
  }

  /// The redundant directory must say the same, in tables of its own.
  private mutating func checkCopy(of place: SparseExtent.TablePlace, _ index: UInt64, in extent: SparseExtent)
    throws(ImageError)
  {
    guard let redundantDirectory = extent.redundantDirectory else { return }
    let entry = try redundantDirectory.entry32(index)
    guard let copy = extent.checkedPlace(entry) else {
      corrupt("redundant " + extent.fault(index, entry))
      return
    }
    switch (place, copy) {
    case (.at(let offset), .at(let copyOffset)):
      guard offset != copyOffset else { return }
      let table = try extent.table(at: offset)
      guard try extent.table(at: copyOffset) != table else { return }
      corrupt("grain table \(index) and its redundant copy differ")
    default:
      if place != copy { corrupt("grain directory entry \(index) and its redundant copy differ") }
    }
  }

  /// Where the file ends with a footer, it must name the directory that the header names.
  private mutating func checkFooter(of extent: SparseExtent) throws(ImageError) {
    let footerByteCount = UInt64(3 * Marker.byteCount)
    guard extent.fileByteCount >= footerByteCount else { return }
    let tail = try extent.store.readFully(
      "the footer", at: extent.fileByteCount - footerByteCount, count: Int(footerByteCount))
    let marker = try Marker(parsing: tail.rawBytes)
    guard marker.size == 0, marker.kind == Marker.Kind.footer.rawValue,
      tail.rawBytes.littleEndian(at: 512) == SparseHeader.magic
    else { return }
    let footer = try SparseHeader(parsing: tail.rawBytes.extracting(512..<1024))
    if footer.directorySector.multiplied(by: sectorByteCount) != extent.directory.offset {
      corrupt("the header and the footer name different grain directories")
    }
  }

  // MARK: SESPARSE

  mutating func check(_ extent: SESparseExtent) throws(ImageError) {
    let tableCount = extent.header.tableCount
    for index in 0..<tableCount {
      try step(index, of: tableCount)
      do throws(ImageError) {
        guard let offset = try extent.tableOffset(index) else { continue }
        guard tables.insert(offset).inserted else {
          corrupt("grain directory entry \(index) names the grain table at \(offset.hex), which is used already")
          continue
        }
        let table = try extent.table(at: offset)
        for entryIndex in 0..<SESparseHeader.tableEntryCount {
          checkEntry(table.rawBytes.littleEndian(at: Int(entryIndex) * 8) ?? 0, entryIndex, index, in: extent)
        }
      } catch {
        guard error.code == .corrupt || error.code == .truncated else { throw error }
        corrupt(error.message)
      }
    }
  }

  private mutating func checkEntry(_ entry: UInt64, _ index: UInt64, _ table: UInt64, in extent: SESparseExtent) {
    do throws(ImageError) {
      guard case .at(let place) = try extent.grain(entry, table: table, entry: index) else { return }
      if !insert(place, SESparseExtent.grainBytes) {
        corrupt("entry \(index) of grain table \(table) names the grain at \(place.hex), which is used already")
      }
    } catch {
      corrupt(error.message)
    }
  }
}
