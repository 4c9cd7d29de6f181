import PlatterCore

/// A run of bytes of the file.
struct FileRange: Sendable, Equatable {
  var offset: UInt64
  var byteCount: UInt64

  /// Checks that the run lies inside a file.
  func check(_ what: String, fileByteCount: UInt64) throws(ImageError) {
    guard let end = offset.adding(byteCount), end <= fileByteCount else {
      throw .corrupt(
        "the trailer puts the \(what) (\(byteCount.hex) bytes) at \(offset.hex), past the end of the file "
          + "(\(fileByteCount.hex))")
    }
  }
}

/// The record "koly", 512 bytes, big-endian: says where everything else lies.
struct Trailer: Sendable {
  static let byteCount = 512
  static let signature: UInt32 = 0x6B6F_6C79
  static let version: UInt32 = 4
  /// Most bytes behind the trailer that a probe looks over for it.
  static let maximumProbedTailByteCount: UInt64 = 4096
  /// Most bytes behind the trailer that an open looks over for it. 7-Zip finds one before a tail of any length.
  static let maximumTailByteCount: UInt64 = 64 << 20

  /// Bytes 12..<16: 1 flattened, 4 internet-enabled.
  var flags: UInt32
  /// Bytes 16..<24: where the data fork of this segment begins in that of the whole.
  var runningDataForkOffset: UInt64
  /// Bytes 24..<40.
  var dataFork: FileRange
  /// Bytes 40..<56.
  var resourceFork: FileRange
  /// Bytes 56..<60: 1 for the first; 0 in images that were never segmented.
  var segmentNumber: UInt32
  /// Bytes 60..<64.
  var segmentCount: UInt32
  /// Bytes 64..<80: the same in all segments.
  var segmentID: [UInt8]
  /// Bytes 80..<216: over the bytes of the data fork as they lie in the file.
  var dataForkChecksum: StoredChecksum
  /// Bytes 216..<232.
  var propertyList: FileRange
  /// Bytes 352..<488: over the values of the checksums of all block tables.
  var masterChecksum: StoredChecksum
  /// Bytes 488..<492: 1 device, 2 partition.
  var imageVariant: UInt32
  /// Bytes 492..<500: sectors of the whole image.
  var sectorCount: UInt64

  /// Reads the record from 512 bytes.
  ///
  /// - Throws: `.corrupt` for another signature, version or size.
  init(parsing bytes: RawSpan) throws(ImageError) {
    func field<T: FixedWidthInteger & BitwiseCopyable>(_ offset: Int) throws(ImageError) -> T {
      guard let value: T = bytes.bigEndian(at: offset) else {
        throw .truncated("the trailer has \(bytes.byteCount) bytes of \(Self.byteCount)")
      }
      return value
    }
    guard try field(0) == Self.signature else { throw .corrupt("the trailer lacks its signature \"koly\"") }
    let version: UInt32 = try field(4)
    guard version == Self.version else { throw .unsupported("the trailer has version \(version), not 4") }
    let headerByteCount: UInt32 = try field(8)
    guard headerByteCount == UInt32(Self.byteCount) else {
      throw .corrupt("the trailer gives its own size as \(headerByteCount) bytes, not 512")
    }
    flags = try field(12)
    runningDataForkOffset = try field(16)
    dataFork = FileRange(offset: try field(24), byteCount: try field(32))
    resourceFork = FileRange(offset: try field(40), byteCount: try field(48))
    segmentNumber = try field(56)
    segmentCount = try field(60)
    segmentID = bytes.bytes(at: 64, count: 16) ?? []
    dataForkChecksum = StoredChecksum(parsing: bytes, at: 80) ?? .none
    propertyList = FileRange(offset: try field(216), byteCount: try field(224))
    masterChecksum = StoredChecksum(parsing: bytes, at: 352) ?? .none
    imageVariant = try field(488)
    sectorCount = try field(492)
  }

  /// Whether the image continues in other files. Both numbers are 0 in images made without segments.
  var isSegmented: Bool { segmentCount > 1 || segmentNumber > 1 }

  /// Checks that everything named lies inside the file.
  func checkRanges(fileByteCount: UInt64) throws(ImageError) {
    try dataFork.check("data fork", fileByteCount: fileByteCount)
    try resourceFork.check("resource fork", fileByteCount: fileByteCount)
    try propertyList.check("property list", fileByteCount: fileByteCount)
  }

  /// Where the trailer lies: at the exact end, at the start, or before some bytes that were appended to the file.
  ///
  /// - Parameter tailByteCount: most bytes behind the trailer.
  /// - Returns: nil where there is none. Cost: one read of 512 bytes where the trailer is at the end; else the tail.
  static func find(in store: any ByteStore, tailByteCount: UInt64) throws(ImageError) -> UInt64? {
    let fileByteCount = try store.byteCount()
    guard fileByteCount >= UInt64(byteCount) else { return nil }
    let last = fileByteCount - UInt64(byteCount)
    // At the exact end the signature decides, so that a trailer of another version is named as such.
    let final = try store.readPrefix(at: last, count: 4)
    if final.rawBytes.bigEndian(at: 0) == signature { return last }
    let head = try store.readPrefix(count: 12)
    if isTrailer(head.rawBytes, at: 0) { return 0 }
    let first = last - min(last, tailByteCount)
    var end = last
    while end > first {
      let start = end - min(end - first, UInt64(searchedByteCount))
      // The last positions of the window need the bytes behind it.
      let window = try store.readPrefix(at: start, count: Int(end - start) + 12)
      for index in stride(from: Int(end - start) - 1, through: 0, by: -1) where isTrailer(window.rawBytes, at: index) {
        return start + UInt64(index)
      }
      end = start
    }
    return nil
  }

  private static let searchedByteCount = 256 << 10

  private static func isTrailer(_ bytes: RawSpan, at index: Int) -> Bool {
    bytes.bigEndian(at: index) == signature && bytes.bigEndian(at: index + 4) == version
      && bytes.bigEndian(at: index + 8) == UInt32(byteCount)
  }
}
