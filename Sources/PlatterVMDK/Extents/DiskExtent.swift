import PlatterCore

/// One run of the disk, in the terms of its kind.
protocol DiskExtent: Sendable {
  /// Bytes of a grain; nil where the extent has none.
  var grainByteCount: UInt64? { get }
  var isCompressed: Bool { get }
  /// The file was not closed cleanly.
  var isUnclean: Bool { get }

  /// Appends runs that cover `range` from its start.
  ///
  /// - Parameters:
  ///   - range: bytes of the extent.
  ///   - base: guest offset of the extent's first byte.
  /// - Returns: the byte of the extent behind the last run appended.
  func map(_ range: Range<UInt64>, base: UInt64, _ run: inout RunAppender, _ list: inout [Extent]) throws(ImageError)
    -> UInt64
}

extension DiskExtent {
  var grainByteCount: UInt64? { nil }
  var isCompressed: Bool { false }
  var isUnclean: Bool { false }
}

/// FLAT and VMFS: the bytes themselves.
struct FlatExtent: DiskExtent {
  let store: UInt16
  /// Byte of the file at which the extent starts.
  let offset: UInt64
  /// Bytes of the extent that the file has. The others are mapped to where they should be, and reading them fails.
  let presentByteCount: UInt64
  /// What is wrong with the file's length.
  let fault: String?

  func map(_ range: Range<UInt64>, base: UInt64, _ run: inout RunAppender, _ list: inout [Extent]) throws(ImageError)
    -> UInt64
  {
    var position = range.lowerBound
    while position < range.upperBound {
      // What a file lacks is no hole in it.
      let isPresent = position < presentByteCount
      let end = isPresent ? min(presentByteCount, range.upperBound) : range.upperBound
      let part = Extent.data(
        start: base + position, byteCount: end - position, store: store, offset: offset + position,
        isSparse: isPresent)
      guard run.append(part, to: &list) else { break }
      position = end
    }
    return position
  }
}

/// ZERO: no file.
struct ZeroExtent: DiskExtent {
  func map(_ range: Range<UInt64>, base: UInt64, _ run: inout RunAppender, _ list: inout [Extent]) throws(ImageError)
    -> UInt64
  {
    let part = Extent.zero(start: base + range.lowerBound, byteCount: range.upperBound - range.lowerBound)
    return run.append(part, to: &list) ? range.upperBound : range.lowerBound
  }
}

/// An extent whose bytes cannot be had: NOACCESS, or a missing file where only facts are wanted.
struct UnreadableExtent: DiskExtent {
  let reason: ImageError

  func map(_ range: Range<UInt64>, base: UInt64, _ run: inout RunAppender, _ list: inout [Extent]) throws(ImageError)
    -> UInt64
  {
    // What comes before it in the same request is still answered.
    guard run.count == 0 else { return range.lowerBound }
    throw reason
  }
}

/// A table in pages of bounded size: places of tables, or tables that are too long to be held whole.
struct PagedTable: Sendable {
  static let maximumPageByteCount: UInt64 = 64 << 10
  static let maximumCachedByteCount: UInt64 = 4 << 20

  let store: any ByteStore
  let offset: UInt64
  let byteCount: UInt64
  let what: String
  private let pages: TableCache<UInt64, [UInt8]>

  /// - Throws: `.truncated` where the table does not lie inside the file.
  init(_ store: any ByteStore, at offset: UInt64, byteCount: UInt64, fileByteCount: UInt64, what: String)
    throws(ImageError)
  {
    guard let end = offset.adding(byteCount), end <= fileByteCount else {
      throw .truncated(
        "the \(what) (\(byteCount) bytes at \(offset.hex)) lies past the end of the file (\(fileByteCount.hex))")
    }
    self.store = store
    self.offset = offset
    self.byteCount = byteCount
    self.what = what
    pages = TableCache(capacity: Int(Self.maximumCachedByteCount / Self.maximumPageByteCount))
  }

  /// The entry of 4 bytes with this index, which must lie inside the table.
  func entry32(_ index: UInt64) throws(ImageError) -> UInt32 {
    let page = try page(index * 4)
    return page.rawBytes.littleEndian(at: Int(index * 4 % Self.maximumPageByteCount)) ?? 0
  }

  /// The entry of 8 bytes with this index, which must lie inside the table.
  func entry64(_ index: UInt64) throws(ImageError) -> UInt64 {
    let page = try page(index * 8)
    return page.rawBytes.littleEndian(at: Int(index * 8 % Self.maximumPageByteCount)) ?? 0
  }

  private func page(_ byte: UInt64) throws(ImageError) -> [UInt8] {
    precondition(byte < byteCount)
    let start = byte.roundedDown(toMultipleOf: Self.maximumPageByteCount)
    return try pages.value(for: start) { () throws(ImageError) in
      let count = min(Self.maximumPageByteCount, byteCount - start)
      return try store.readFully("the " + what, at: offset + start, count: Int(count))
    }
  }
}
