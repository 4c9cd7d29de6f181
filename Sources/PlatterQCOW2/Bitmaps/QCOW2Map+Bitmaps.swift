package import PlatterCore

extension QCOW2Map: BitmapSource {
  package var canHaveBitmaps: Bool { volume.header.version >= 3 }
  package var bitmaps: [BitmapFacts] { volume.bitmaps.map(\.summary) }
  package var bitmapDiskByteCount: UInt64 { volume.header.virtualByteCount }

  /// Reads one cluster of bits at a time.
  package func dirtyRanges(ofBitmapNamed name: String, _ body: (Range<UInt64>) throws(ImageError) -> Void)
    throws(ImageError)
  {
    let wanted = Array(name.utf8)
    guard let record = volume.bitmaps.first(where: { $0.name == wanted }) else { throw .noBitmap(name) }
    guard record.isTrusted else { throw .inconsistentBitmap(name) }
    let place = LiveBitmap.Place(
      store: volume.file, clusterByteCount: volume.geometry.clusterByteCount, diskByteCount: bitmapDiskByteCount)
    let bitmap = try naming(volume.file.name) { () throws(ImageError) in
      try LiveBitmap(loading: record, place, fileByteCount: volume.storeByteCounts[0])
    }
    for entry in bitmap.table.indices {
      let ranges = try naming(volume.file.name) { () throws(ImageError) in
        try bitmap.dirtyRanges(ofEntry: entry, place)
      }
      for range in ranges { try body(range) }
    }
  }
}

// Sentences that scripts know from QEMU.
extension ImageError {
  static func noBitmap(_ name: String) -> ImageError { ImageError(.notFound, "Dirty bitmap '\(name)' not found") }

  static func inconsistentBitmap(_ name: String) -> ImageError {
    ImageError(.forbidden, "Bitmap '\(name)' is inconsistent and cannot be used")
  }
}
