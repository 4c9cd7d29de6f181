/// A format whose new images can be sent in order, from the first byte to the last, to somebody who cannot seek.
///
/// Who sends one knows beforehand what becomes of every unit (`UnitRecord`): all tables then come in front of the bytes
/// that they point to. The file is
///
///     head     headers and tables
///     packed   the packed units, in guest order
///     plain    the plain units, in guest order, from a place that is aligned to the unit on
package protocol StreamableFormat: CreatableFormat {
  /// Checks a request; nothing is sent yet.
  /// - Throws: `.invalidArgument`, as `create`; `.unsupported` for what cannot be sent.
  static func stream(_ request: CreationRequest) throws(ImageError) -> any StreamedImage
}

/// A new image that will be sent.
package protocol StreamedImage: Sendable {
  var unitByteCount: UInt64 { get }
  /// Plain units are encrypted with this; nil where they are not.
  var cipher: (any SectorCipher)? { get }
  /// Every unit must be plain, zeros too.
  var takesAll: Bool { get }
  /// Units over a backing image can be said to be zero.
  var saysZero: Bool { get }

  /// Places everything. `units` names every unit of the disk.
  func layOut(_ units: UnitRecord) throws(ImageError) -> any StreamedLayout
}

/// Where everything of an image lies that will be sent.
package protocol StreamedLayout: Sendable {
  /// Bytes of the whole file.
  var byteCount: UInt64 { get }
  /// Where the plain units start, the first behind the others.
  var plainOffset: UInt64 { get }
  /// Gives places to packed units, in guest order.
  var places: PackedPlaces { get }

  /// Sends everything in front of the packed units.
  func sendHead(to sink: (RawSpan) throws(ImageError) -> Void) throws(ImageError)
}

/// Places of packed units, one behind the other. A cluster of the file is shared by no more of them than can be counted.
package struct PackedPlaces: Sendable {
  private let clusterByteCount: UInt64
  private let maximumCount: UInt64
  /// Where the last one ends.
  package private(set) var end: UInt64
  private var count: UInt64 = 0

  /// - Parameter start: a multiple of the cluster.
  package init(from start: UInt64, clusterByteCount: UInt64, maximumCount: UInt64) {
    end = start
    self.clusterByteCount = clusterByteCount
    self.maximumCount = maximumCount
  }

  /// The place of the next one, which has fewer bytes than a cluster.
  package mutating func next(byteCount: Int) -> UInt64 {
    if end % clusterByteCount != 0, count >= maximumCount { end += clusterByteCount - end % clusterByteCount }
    if end % clusterByteCount == 0 { count = 0 }
    let offset = end
    end += UInt64(byteCount)
    let isWithin = offset / clusterByteCount == (end - 1) / clusterByteCount
    count = isWithin ? count + 1 : 1
    return offset
  }
}
