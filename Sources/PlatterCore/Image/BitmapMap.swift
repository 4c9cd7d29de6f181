/// A writable map that keeps dirty bitmaps inside the image: which parts of the disk were written since a moment.
///
/// Enabled bitmaps record by themselves what goes through the map. All changes are on disk when the map is closed; a cut
/// before that leaves bitmaps that are marked as not to be trusted.
package protocol BitmapMap: WritableMap {
  var bitmaps: [BitmapFacts] { get }

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
  /// The dirty ranges of a bitmap, rounded to its granularity, in order.
  func dirtyRanges(ofBitmapNamed name: String, _ body: (Range<UInt64>) throws(ImageError) -> Void) throws(ImageError)
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
