/// Makes everything written to the stores so far durable. Empty for a file that is not yet published.
package typealias Barrier = () throws(ImageError) -> Void

/// A map whose disk can be written in place. The format decides where bytes go and in which order its own structures
/// reach the disk; the engine (`DiskWriter`) moves the bytes and keeps writers of the same units apart.
///
/// A write of guest bytes takes these steps:
///
///     map        a data run that is not shared: the engine calls `changed`, then writes there
///     allocate   else: space is reserved; nothing is visible yet
///                the engine writes payload and fill into it, outside every lock of the map, and calls `changed`
///     link       the new place is visible to `map`; in memory only
///     publish    the format's order: data, then refcounts or log, then tables, then roots; barriers where a power
///                cut would lose something
///
/// Rules: space freed by `link` or `release` is not handed out again before the next `publish` has ended. A failure at any
/// point leaves an image that checks clean but for leaks. All calls are thread-safe; the engine never has two calls for
/// the same unit under way. `map` does not wait while a `publish` writes and flushes; after one that failed, every later
/// call that changes or publishes throws.
package protocol WritableMap: ImageMap {
  /// The smallest guest range that can be linked alone: a cluster, a subcluster, a sector. A power of two.
  var mapUnit: UInt64 { get }

  /// Called once, before the first change of the guest's view: marks that must be on disk before anything else.
  func prepareToWrite(_ barrier: Barrier) throws(ImageError)

  /// Reserves space for guest bytes from the start of `range` on.
  /// - Parameter range: what is going to be written; not empty, inside the disk; nothing in it may be written in place.
  /// - Throws: `.corrupt` where the space found overlaps what the image already uses.
  func allocate(_ range: Range<UInt64>) throws(ImageError) -> Allocation

  /// Makes an allocation visible, after its bytes were written. Where that fails, what was not linked is given back.
  func link(_ allocation: Allocation) throws(ImageError)

  /// Gives an allocation back that was not linked.
  func abandon(_ allocation: Allocation)

  /// Reserves space for one packed unit (compressed cluster) that starts at `unitStart`.
  /// - Returns: nil where the format has no packed units.
  func allocatePacked(unitStart: UInt64, byteCount: Int) throws(ImageError) -> Allocation?

  /// How packed units of this image are coded; nil where it has none. A property of the format and its options.
  var packedCodec: PackedCodec? { get }

  /// Notes which guest bytes a request names, wherever they go (dirty bitmaps). The engine calls it; `release` and `link`
  /// note nothing.
  func changed(_ range: Range<UInt64>) throws(ImageError)

  /// Makes a range of whole map units (or up to the disk's end) read as zeros, or as the backing image again.
  func release(_ range: Range<UInt64>, as result: Release) throws(ImageError) -> ReleaseAnswer

  /// Raised when so much is unpublished that the engine should publish before going on.
  var mustPublishSoon: Bool { get }

  /// Puts everything linked and released so far on disk in the format's order.
  /// - Parameter barrier: makes what was written before durable; also called first, for the data.
  func publish(_ barrier: Barrier) throws(ImageError)

  /// Publishes and clears marks that say "in use". The map is not written afterwards.
  func close(_ barrier: Barrier) throws(ImageError)

  /// Throws what `resize` would throw for the size alone; changes nothing.
  func checkResize(to byteCount: UInt64) throws(ImageError)

  /// Changes the disk's size. The engine holds off all other requests, and clears what new space would show.
  func resize(to byteCount: UInt64, _ barrier: Barrier) throws(ImageError)

  /// Whether new space reads as zeros after `resize`. Encrypted volumes say no: theirs reads as noise, as QEMU has it.
  var growsWithZeros: Bool { get }
}

extension WritableMap {
  package var packedCodec: PackedCodec? { nil }
  package var growsWithZeros: Bool { true }
  package func checkResize(to byteCount: UInt64) throws(ImageError) {}
}

/// A map whose every byte has its place: there is nothing to allocate and nothing to order.
package protocol InPlaceMap: WritableMap {}

extension InPlaceMap {
  package var mustPublishSoon: Bool { false }
  package func prepareToWrite(_ barrier: Barrier) throws(ImageError) {}
  package func changed(_ range: Range<UInt64>) throws(ImageError) {}
  package func publish(_ barrier: Barrier) throws(ImageError) {}
  package func close(_ barrier: Barrier) throws(ImageError) { try barrier() }

  package func allocate(_ range: Range<UInt64>) throws(ImageError) -> Allocation {
    preconditionFailure("every byte of a \(formatName) disk is written in place")
  }
  package func allocatePacked(unitStart: UInt64, byteCount: Int) throws(ImageError) -> Allocation? { nil }
  package func link(_ allocation: Allocation) throws(ImageError) {}
  package func abandon(_ allocation: Allocation) {}
}

/// Space for guest bytes that are about to be written.
package struct Allocation: Sendable {
  /// What stands in the rest of the space, around the bytes that the engine was asked to write.
  package enum Fill: Sendable {
    /// The space reads as zeros as it is (past the old end of the file): nothing to write.
    case readsZero
    /// Zeros must be written.
    case writeZeros
    /// The guest's present bytes must be copied there.
    case guestBytes
  }

  /// Guest range that the space stands for: whole map units. Starts at or before the range asked for, and covers at least
  /// its first byte.
  package var start: UInt64
  package var byteCount: UInt64
  package var store: UInt16
  /// Host offset of `start`.
  package var offset: UInt64
  /// As in `Extent`.
  package var cipher: UInt8
  package var fill: Fill
  /// The driver's own.
  package var token: UInt64

  package init(
    start: UInt64, byteCount: UInt64, store: UInt16, offset: UInt64, cipher: UInt8 = 0, fill: Fill, token: UInt64 = 0
  ) {
    self.start = start
    self.byteCount = byteCount
    self.store = store
    self.offset = offset
    self.cipher = cipher
    self.fill = fill
    self.token = token
  }

  package var range: Range<UInt64> { start..<start + byteCount }
}

/// What a released range becomes.
package enum Release: Sendable {
  /// Reads as zeros; space may be given back.
  case zero
  /// Reads as zeros; space that it has is kept.
  case zeroKeepingSpace
  /// The guest needs the bytes no longer: zeros where the format can say so, and space given back.
  case discard
  /// Reads as the backing image again (emptying an overlay), or zeros without one.
  case absent
}

package enum ReleaseAnswer: Sendable {
  case done
  /// The format cannot say it: the engine writes zeros instead (or leaves a discard undone).
  case cannot
}

/// A map whose image names its backing file in a place that can be rewritten.
package protocol RebaseableMap: WritableMap {
  /// Publishes everything, then names another backing file. Only the name changes: the caller has made sure that the
  /// guest's view survives. The map is closed afterwards, not written.
  /// - Parameters:
  ///   - name: as the image shall record it; nil for no backing file.
  ///   - format: what the image shall say of its format.
  func setBacking(_ name: [UInt8]?, format: String?, _ barrier: Barrier) throws(ImageError)
}
