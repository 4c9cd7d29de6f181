import PlatterCore
import PlatterQCOW2

extension Convert {
  /// The source's persistent bitmaps, sorted by what becomes of them.
  package struct BitmapSelection: Sendable {
    package var copied: [BitmapFacts] = []
    /// Inconsistent ones, where these are to be left out.
    package var skipped: [BitmapFacts] = []
  }

  /// Checks, before anything is written, whether the bitmaps can be copied as the options ask.
  /// - Throws: in QEMU's words: where there are several sources, source or target has no place for bitmaps, one is
  ///   inconsistent and not to be skipped, or the target has a bitmap of that name already.
  package func selectBitmaps() throws(ImageError) -> BitmapSelection {
    guard options.copiesBitmaps else { return BitmapSelection() }
    guard source.images.count <= 1 else { throw .invalidArgument("Copying bitmaps only possible with single source") }
    guard let bitmapSource else { throw .unsupported("Source lacks bitmap support") }
    var selection = BitmapSelection()
    // From the last to the first, as QEMU names them.
    for bitmap in bitmapSource.bitmaps.reversed() {
      if !bitmap.isInconsistent {
        selection.copied.insert(bitmap, at: 0)
      } else if options.skipsInconsistentBitmaps {
        selection.skipped.append(bitmap)
      } else {
        throw .invalidArgument("Cannot copy inconsistent bitmap '\(bitmap.name)'")
      }
    }
    try checkBitmapTarget(selection.copied, of: bitmapSource)
    return selection
  }

  private var bitmapSource: (any BitmapSource)? {
    guard let map = source.images.first?.layers[0].map as? any BitmapSource, map.canHaveBitmaps else { return nil }
    return map
  }

  private func checkBitmapTarget(_ bitmaps: [BitmapFacts], of source: any BitmapSource) throws(ImageError) {
    switch target {
    case .newFile, .existing, .stream: throw .unsupported("Format driver 'raw' does not support bitmaps")
    case .imageStream:
      guard bitmaps.isEmpty else { throw .unsupported("bitmaps cannot go to a pipe with the image; name a file") }
    case .newImage(let create):
      guard create.format.name == QCOW2.name, !["0.10", "v2"].contains(create.options["compat"]) else {
        throw .unsupported("Format driver '\(create.format.name)' does not support bitmaps")
      }
    case .image(let image, _):
      guard let map = image.layers[0].map as? any BitmapMap, map.canHaveBitmaps else {
        throw .unsupported("Format driver '\(image.formatName)' does not support bitmaps")
      }
      for bitmap in bitmaps.reversed() {
        guard !map.bitmaps.contains(where: { $0.name == bitmap.name }) else {
          throw .invalidArgument("Failed to create bitmap \(bitmap.name): Bitmap already exists: \(bitmap.name)")
        }
        guard map.bitmapDiskByteCount == source.bitmapDiskByteCount else {
          throw .invalidArgument(
            "Failed to populate bitmap \(bitmap.name): Bitmaps are of different sizes (destination size is "
              + "\(map.bitmapDiskByteCount), source size is \(source.bitmapDiskByteCount)) and can't be merged")
        }
      }
    }
  }

  /// Adds the source's bitmaps with all they say to an image that holds the disk already: what was written to fill it is
  /// not among it.
  func copyBitmaps(_ bitmaps: [BitmapFacts], with writer: DiskWriter) throws(ImageError) {
    guard !bitmaps.isEmpty, let source = bitmapSource else { return }
    try writer.restructure { (map, _) throws(ImageError) in
      guard let map = map as? any BitmapMap else { return }
      for bitmap in bitmaps {
        try map.addBitmap(named: bitmap.name, granularity: bitmap.granularity, isEnabled: bitmap.isEnabled)
        try map.mergeBitmap(named: bitmap.name, of: source, into: bitmap.name)
      }
    }
  }
}
