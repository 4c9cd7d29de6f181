/// How the bytes of a packed extent are coded.
public enum PackedCodec: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  /// RFC 1951, no header.
  case deflate
  /// RFC 1950.
  case zlib
  case zstd
  case bzip2
  /// LZMA in an .xz container.
  case xz
  /// LZFSE stream, LZVN blocks included.
  case lzfse
  /// Apple Data Compression.
  case adc
}

/// A run of guest bytes and where they come from: the answer of every format to "where is it?".
///
/// A small trivial value: stores and ciphers are indices into the map's own lists.
public struct Extent: Sendable, BitwiseCopyable, Equatable {
  public enum Kind: UInt8, Sendable, BitwiseCopyable {
    /// Verbatim (or encrypted) bytes of a store.
    case data
    /// Part of one unit that is decoded whole.
    case packed
    /// Reads as zeros; may still own space.
    case zero
    /// Not here: ask the backing image; zeros without one.
    case absent
  }

  /// First guest byte.
  public var start: UInt64
  /// Guest bytes; more than 0.
  public var byteCount: UInt64
  public var kind: Kind
  /// Packed only: how the unit is coded.
  public var codec: PackedCodec
  /// Data only: 0 for plain bytes, else index + 1 into the map's ciphers.
  public var cipher: UInt8
  /// Data: parts of the host range may be holes of the store, which read as zeros and need no reading.
  public var isSparse: Bool
  /// Data, and zero with space: something else (a snapshot) refers to the same place too, so that it must not be
  /// overwritten there.
  public var isShared: Bool
  /// Zero and absent: whether `offset` names space that the run owns. Always true for data and packed.
  public var hasOffset: Bool
  /// Index into the map's stores.
  public var store: UInt16
  /// Data, zero: position in the store of the run's first byte. Packed: position of the unit's packed bytes.
  public var offset: UInt64
  /// Packed only: packed bytes that belong to the unit; an upper bound where the format stores no exact length.
  public var packedByteCount: UInt64
  /// Packed only: guest offset of the unit's first byte; the extent may be a part of the unit.
  public var unitStart: UInt64
  /// Packed only: bytes of the decoded unit.
  public var unitByteCount: UInt64

  private init(
    start: UInt64, byteCount: UInt64, kind: Kind, codec: PackedCodec = .deflate, cipher: UInt8 = 0,
    isSparse: Bool = false, isShared: Bool = false, hasOffset: Bool, store: UInt16 = 0, offset: UInt64 = 0,
    packedByteCount: UInt64 = 0,
    unitStart: UInt64 = 0, unitByteCount: UInt64 = 0
  ) {
    self.start = start
    self.byteCount = byteCount
    self.kind = kind
    self.codec = codec
    self.cipher = cipher
    self.isSparse = isSparse
    self.isShared = isShared
    self.hasOffset = hasOffset
    self.store = store
    self.offset = offset
    self.packedByteCount = packedByteCount
    self.unitStart = unitStart
    self.unitByteCount = unitByteCount
  }

  public static func data(
    start: UInt64, byteCount: UInt64, store: UInt16, offset: UInt64, cipher: UInt8 = 0, isSparse: Bool = false,
    isShared: Bool = false
  ) -> Extent {
    Extent(
      start: start, byteCount: byteCount, kind: .data, cipher: cipher, isSparse: isSparse, isShared: isShared,
      hasOffset: true,
      store: store, offset: offset)
  }

  public static func packed(
    start: UInt64, byteCount: UInt64, codec: PackedCodec, store: UInt16, offset: UInt64, packedByteCount: UInt64,
    unitStart: UInt64, unitByteCount: UInt64
  ) -> Extent {
    Extent(
      start: start, byteCount: byteCount, kind: .packed, codec: codec, hasOffset: true, store: store, offset: offset,
      packedByteCount: packedByteCount, unitStart: unitStart, unitByteCount: unitByteCount)
  }

  public static func zero(start: UInt64, byteCount: UInt64) -> Extent {
    Extent(start: start, byteCount: byteCount, kind: .zero, hasOffset: false)
  }

  /// Reads as zeros, and owns the space at `offset`.
  public static func zero(start: UInt64, byteCount: UInt64, store: UInt16, offset: UInt64) -> Extent {
    Extent(start: start, byteCount: byteCount, kind: .zero, hasOffset: true, store: store, offset: offset)
  }

  public static func absent(start: UInt64, byteCount: UInt64) -> Extent {
    Extent(start: start, byteCount: byteCount, kind: .absent, hasOffset: false)
  }

  /// Not here, though the run owns the space at `offset` (qcow2: unallocated subclusters of an allocated cluster).
  public static func absent(start: UInt64, byteCount: UInt64, store: UInt16, offset: UInt64) -> Extent {
    Extent(start: start, byteCount: byteCount, kind: .absent, hasOffset: true, store: store, offset: offset)
  }

  /// First guest byte past the run.
  @inlinable public var end: UInt64 { start &+ byteCount }

  /// The part of the run that lies in `range`, which must overlap it.
  public func clipped(to range: Range<UInt64>) -> Extent {
    let from = max(start, range.lowerBound)
    let to = min(end, range.upperBound)
    precondition(from < to)
    var part = self
    part.start = from
    part.byteCount = to - from
    if hasOffset, kind != .packed { part.offset = offset &+ (from - start) }
    return part
  }

  /// Whether `next` continues this run, so that both are one.
  @inlinable package func isContinued(by next: Extent) -> Bool {
    guard kind == next.kind, end == next.start, store == next.store, cipher == next.cipher, isSparse == next.isSparse,
      isShared == next.isShared,
      hasOffset == next.hasOffset
    else { return false }
    switch kind {
    case .packed:
      return offset == next.offset && unitStart == next.unitStart && codec == next.codec
    case .data, .zero, .absent:
      return !hasOffset || offset &+ byteCount == next.offset
    }
  }
}

extension Array where Element == Extent {
  /// Appends a run, joined with the last one where it continues it. Drivers fill their answers with this.
  @inlinable package mutating func appendJoining(_ extent: Extent) {
    if let last = indices.last, self[last].isContinued(by: extent) {
      self[last].byteCount &+= extent.byteCount
    } else {
      append(extent)
    }
  }
}
