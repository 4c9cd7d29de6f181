/// A map whose image may keep dirty bitmaps inside itself: which parts of the disk were written since a moment.
package protocol BitmapSource: ImageMap {
  /// False where the image's version has no place for them.
  var canHaveBitmaps: Bool { get }
  /// In the order in which the image lists them.
  var bitmaps: [BitmapFacts] { get }
  /// Bytes of the disk that they speak of: the present one, though the map may show a snapshot.
  var bitmapDiskByteCount: UInt64 { get }

  /// The dirty ranges of a bitmap, rounded to its granularity, in order; neighbours may come apart.
  /// - Throws: `.notFound`; `.unsupported` for a bitmap that was not saved; `.corrupt` for one that contradicts itself.
  func dirtyRanges(ofBitmapNamed name: String, _ body: (Range<UInt64>) throws(ImageError) -> Void) throws(ImageError)
}

/// A writable map that keeps them up.
///
/// Enabled bitmaps record by themselves what goes through the map. All changes are on disk when the map is closed; a cut
/// before that leaves bitmaps that are marked as not to be trusted.
package protocol BitmapMap: BitmapSource, WritableMap {
  /// - Parameter granularity: guest bytes that one bit stands for; nil for the format's usual number.
  /// - Throws: `.invalidArgument` where the name is taken or a number is none.
  func addBitmap(named name: String, granularity: UInt64?, isEnabled: Bool) throws(ImageError)
  /// The only call that takes a bitmap that was not saved.
  func removeBitmap(named name: String) throws(ImageError)
  func clearBitmap(named name: String) throws(ImageError)
  func setBitmap(named name: String, isEnabled: Bool) throws(ImageError)
  /// Adds what `source` has to `target`.
  func mergeBitmap(named source: String, into target: String) throws(ImageError)
  /// Marks ranges dirty: for merging from another image.
  func markDirty(_ ranges: [Range<UInt64>], inBitmapNamed name: String) throws(ImageError)
}

extension BitmapMap {
  /// Adds what a bitmap of another image has to one of this image. After an error a part may have been added.
  /// - Throws: `.invalidArgument` where the disks differ in size.
  package func mergeBitmap(named source: String, of image: any BitmapSource, into target: String) throws(ImageError) {
    try markDirty([], inBitmapNamed: target)
    let (mine, theirs) = (bitmapDiskByteCount, image.bitmapDiskByteCount)
    guard mine == theirs else {
      throw .invalidArgument(
        "Bitmaps are of different sizes (destination size is \(mine), source size is \(theirs)) and can't be merged")
    }
    try image.dirtyRanges(ofBitmapNamed: source) { (range) throws(ImageError) in
      try markDirty([range], inBitmapNamed: target)
    }
  }
}

package struct BitmapFacts: Sendable, Equatable {
  package var name: String
  package var granularity: UInt64
  package var isEnabled: Bool
  /// It was not saved when the image was used last, and says nothing.
  package var isInconsistent: Bool

  package init(name: String, granularity: UInt64, isEnabled: Bool, isInconsistent: Bool) {
    self.name = name
    self.granularity = granularity
    self.isEnabled = isEnabled
    self.isInconsistent = isInconsistent
  }
}
