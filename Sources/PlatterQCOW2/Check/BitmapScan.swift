import PlatterCore

/// The bitmaps' directory read without trust: as far as it goes.
struct BitmapScan: Sendable {
  struct Item: Sendable {
    /// Nil where the entry makes no sense.
    var record: BitmapRecord?
    var fault: String?
  }

  private(set) var items: [Item] = []
  /// What is wrong with the extension or the directory itself.
  private(set) var fault: String?
  private var place: BitmapsExtension?
  /// Without the consistency bit nobody trusts the bitmaps, and nothing in them is an error.
  private let isTrusted: Bool
  private let fileByteCount: UInt64

  init(_ volume: Volume, fileByteCount: UInt64) throws(ImageError) {
    self.fileByteCount = fileByteCount
    isTrusted = volume.header.autoclearFeatures.contains(.bitmaps)
    guard let bytes = volume.extensions.bytes(of: HeaderExtensions.Kind.bitmaps) else { return }
    do throws(ImageError) {
      let place = try BitmapsExtension(parsing: bytes, volume.header)
      self.place = place
      try read(place, volume)
    } catch {
      guard error.code != .io else { throw error }
      fault = error.message
    }
  }

  private mutating func read(_ place: BitmapsExtension, _ volume: Volume) throws(ImageError) {
    var reader = WindowReader(volume.file, "bitmap directory", start: place.directoryOffset)
    var names: Set<[UInt8]> = []
    for index in 0..<Int(place.count) {
      var attempt = reader
      do throws(ImageError) {
        let record = try BitmapRecord(parsing: &attempt, index, volume.header, end: place.directoryByteCount)
        reader = attempt
        let isNew = names.insert(record.name).inserted
        let fault = Self.fault(record, index, volume.header)
        items.append(
          Item(record: record, fault: isNew ? fault : "bitmap \(index): another one has the same name"))
      } catch {
        guard error.code != .io else { throw error }
        try BitmapRecord.skip(&reader, end: place.directoryByteCount, because: error)
        items.append(Item(fault: error.message))
      }
    }
    guard reader.consumedByteCount == place.directoryByteCount else {
      throw .corrupt(
        "the bitmap directory has \(place.directoryByteCount) bytes, but its \(place.count) entries fill "
          + "\(reader.consumedByteCount)")
    }
  }

  private static func fault(_ record: BitmapRecord, _ index: Int, _ header: Header) -> String? {
    let byteCount = UInt64(record.tableEntryCount) * header.clusterByteCount
    guard byteCount < LiveBitmap.maximumByteCount + header.clusterByteCount else {
      return "bitmap \(index): its \(byteCount) bytes are more than \(LiveBitmap.maximumByteCount)"
    }
    guard !record.flags.contains(.inUse) else { return nil }
    let bits = header.virtualByteCount.dividedRoundingUp(by: record.granularity)
    let wanted = bits.dividedRoundingUp(by: 8).dividedRoundingUp(by: header.clusterByteCount)
    guard UInt64(record.tableEntryCount) == wanted else {
      return "bitmap \(index): the table has \(record.tableEntryCount) entries, but the disk needs \(wanted)"
    }
    return nil
  }

  /// Whether something must be done about a bitmap, or about all of them.
  var isDamaged: Bool { isTrusted && (fault != nil || items.contains { $0.fault != nil }) }

  /// Marks what the bitmaps occupy: last of all, since they are what an image can lose.
  func mark(_ marker: MetadataMarker) throws(ImageError) {
    if let fault, isTrusted { marker.unreadable(fault) }
    guard let place, !items.isEmpty else { return }
    guard
      try marker.mark(
        "bitmap directory", .bitmapDirectory, at: place.directoryOffset, byteCount: place.directoryByteCount)
    else { return }
    var room = fileByteCount
    for (index, item) in items.enumerated() {
      if let fault = item.fault, isTrusted { marker.unreadable(fault) }
      guard let record = item.record else { continue }
      if marker.isFirst, isTrusted, record.flags.contains(.inUse) {
        marker.scan.log.say(
          .metadata, 0,
          "bitmap \"\(record.printableName)\" was not saved when the image was used last: it can only be removed")
      }
      // Tables that name each other's place again and again would cost time without end.
      guard let rest = room.subtracting(UInt64(record.tableEntryCount) * 8) else {
        return refuse(index, marker, "the tables of the bitmaps are larger than the file (\(fileByteCount.hex))")
      }
      room = rest
      try mark(record, index, marker)
    }
  }

  private func mark(_ record: BitmapRecord, _ index: Int, _ marker: MetadataMarker) throws(ImageError) {
    let (scan, count) = (marker.scan, UInt64(record.tableEntryCount))
    guard count > 0 else { return }
    let size = scan.geometry.clusterByteCount
    guard record.tableOffset != 0, record.tableOffset % size == 0, !scan.rules.leavesFile(record.tableOffset, count * 8)
    else {
      return refuse(
        index, marker,
        "bitmap \(index): its table (\(count * 8) bytes at \(record.tableOffset.hex)) does not lie inside the file "
          + "(\(fileByteCount.hex))")
    }
    try marker.mark("table of bitmap \(index)", .bitmap(index), at: record.tableOffset, byteCount: count * 8)
    try scan.forEachWord("bitmap table", at: record.tableOffset, count: count) { entry, word throws(ImageError) in
      let offset = word & L1Entry.offsetMask
      guard word & ~(L1Entry.offsetMask | 1) == 0, offset == 0 || word & 1 == 0, offset % size == 0,
        !scan.rules.leavesFile(offset, size)
      else {
        return refuse(index, marker, "table of bitmap \(index), entry \(entry): \(word.hex) is no cluster of this file")
      }
      guard offset != 0 else { return }
      try marker.mark("bitmap \(index)", .bitmap(index), at: offset, byteCount: size)
    }
  }

  private func refuse(_ index: Int, _ marker: MetadataMarker, _ why: String) {
    guard isTrusted, marker.isFirst else { return }
    marker.unreadable(why)
    marker.scan.log.note(misplaced: .bitmap(index))
  }
}
