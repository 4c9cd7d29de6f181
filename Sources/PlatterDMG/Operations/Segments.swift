import PlatterCore
import PlatterCrypto
import SystemPackage

/// One file of an image that goes over several.
struct Segment: Sendable {
  /// The file, or its plain bytes.
  var store: any ByteStore
  var trailer: Trailer
}

extension DMG {
  /// Segments are numbered with three digits in their names.
  static let maximumSegmentCount: UInt32 = 999

  /// Opens the files that follow the first: `base.002.dmgpart`, `base.003.dmgpart`, ... beside `base.dmg`.
  ///
  /// - Throws: `.corrupt` where a file is no segment of this image; what opening a reference or decrypting it throws.
  static func openSegments(first: Segment, _ decryption: Decryption?, _ context: OpenContext) throws(ImageError)
    -> [Segment]
  {
    var decryption = decryption
    let trailer = first.trailer
    guard trailer.segmentNumber == 1 else {
      throw .invalidArgument(
        "this is segment \(trailer.segmentNumber) of \(trailer.segmentCount); open the first, which names the others")
    }
    guard trailer.segmentCount <= maximumSegmentCount else {
      throw .unsupported("the trailer counts \(trailer.segmentCount) segments, more than \(maximumSegmentCount)")
    }
    guard trailer.runningDataForkOffset == 0 else {
      throw .corrupt("segment 1 begins at byte \(trailer.runningDataForkOffset.hex) of the data fork, not at 0")
    }
    var segments = [first]
    var end = trailer.dataFork.byteCount
    for number in 2...trailer.segmentCount {
      let name = try segmentName(number, context)
      let store = try context.resolver.open(name, from: context.path, what: "segment \(number)")
      let segment = try naming(store.name) { () throws(ImageError) in
        guard try EncryptedDMG.isEncrypted(store) == (decryption != nil) else {
          throw .corrupt(
            "segment \(number) is \(decryption == nil ? "" : "not ")encrypted, unlike the first segment")
        }
        let payload = try decryption?.open(store) ?? store
        guard let part = try readTrailer(payload) else { throw .corrupt("no trailer (\"koly\") was found") }
        try check(part, number: number, of: trailer, begin: end)
        return Segment(store: payload, trailer: part)
      }
      guard let next = end.adding(segment.trailer.dataFork.byteCount) else {
        throw .corrupt("the segments' data forks are longer than any file")
      }
      end = next
      segments.append(segment)
    }
    return segments
  }

  /// The names of the segments behind the first, for `info`; empty where they cannot be said.
  static func segmentNames(_ count: UInt32, _ context: OpenContext) -> [String] {
    guard (2...maximumSegmentCount).contains(count) else { return [] }
    var names: [String] = []
    for number in 2...count {
      guard let name = try? segmentName(number, context) else { return [] }
      names.append(name.printable)
    }
    return names
  }

  private static func check(_ part: Trailer, number: UInt32, of first: Trailer, begin: UInt64) throws(ImageError) {
    guard part.segmentID == first.segmentID else {
      throw .corrupt("the file belongs to another image: its segment id is \(part.segmentID.hexadecimal)")
    }
    guard part.segmentNumber == number, part.segmentCount == first.segmentCount else {
      throw .corrupt(
        "the file is segment \(part.segmentNumber) of \(part.segmentCount), not \(number) of \(first.segmentCount)")
    }
    guard part.runningDataForkOffset == begin else {
      throw .corrupt(
        "segment \(number) begins at byte \(part.runningDataForkOffset.hex) of the data fork, not at \(begin.hex), "
          + "where the one before it ends")
    }
  }

  /// The name of a segment beside the first: its extension gives way to the number.
  private static func segmentName(_ number: UInt32, _ context: OpenContext) throws(ImageError) -> FilePath {
    guard let first = context.path?.lastComponent else {
      throw ImageError(.forbidden, "the image has segments in other files, and its own folder is not known")
    }
    let digits = String(number)
    let padded = String(repeating: "0", count: max(0, 3 - digits.count)) + digits
    var bytes = FilePath(root: nil, [first]).utf8Bytes
    if let dot = bytes.lastIndex(of: UInt8(ascii: ".")), dot > 0 { bytes.removeSubrange(dot...) }
    // "./" keeps a colon in the name from being taken for a protocol.
    guard let name = FilePath(bytes: Array("./".utf8) + bytes + Array(".\(padded).dmgpart".utf8)) else {
      throw .invalidArgument("the image's name holds a NUL")
    }
    return name
  }
}

/// The data forks of all segments, one after another. Read-only.
final class SegmentedStore: ByteStore {
  private struct Part: Sendable {
    var store: any ByteStore
    /// Where the part begins in the whole.
    var start: UInt64
    /// Its bytes in its file.
    var range: FileRange
    var end: UInt64 { start + range.byteCount }
  }

  let name: String
  let isWritable = false
  private let parts: [Part]
  private let totalByteCount: UInt64

  /// - Parameter segments: at least one; their data forks follow one another, and the sum was checked.
  init(_ segments: [Segment]) {
    var parts: [Part] = []
    var end: UInt64 = 0
    for segment in segments where segment.trailer.dataFork.byteCount > 0 {
      parts.append(Part(store: segment.store, start: end, range: segment.trailer.dataFork))
      end += segment.trailer.dataFork.byteCount
    }
    name = segments[0].store.name
    self.parts = parts
    totalByteCount = end
  }

  func byteCount() throws(ImageError) -> UInt64 { totalByteCount }

  func allocatedByteCount() throws(ImageError) -> UInt64 {
    var sum: UInt64 = 0
    for part in parts { sum += try part.store.allocatedByteCount() }
    return sum
  }

  func read(into buffer: inout MutableRawSpan, at offset: UInt64) throws(ImageError) -> Int {
    guard offset < totalByteCount else { return 0 }
    let wanted = Int(min(UInt64(buffer.byteCount), totalByteCount - offset))
    var done = 0
    var index = firstPart(endingAfter: offset)
    while done < wanted, index < parts.count {
      let part = parts[index]
      let inside = offset + UInt64(done) - part.start
      let count = Int(min(UInt64(wanted - done), part.range.byteCount - inside))
      let got = try buffer.withPart(done..<done + count) { span throws(ImageError) in
        try part.store.read(into: &span, at: part.range.offset + inside)
      }
      done += got
      // The file became shorter since it was opened.
      guard got == count else { return done }
      index += 1
    }
    return done
  }

  private func firstPart(endingAfter offset: UInt64) -> Int {
    var low = 0
    var high = parts.count
    while low < high {
      let middle = (low + high) / 2
      if parts[middle].end <= offset { low = middle + 1 } else { high = middle }
    }
    return low
  }

  func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) { throw readOnly() }
  func punch(_ range: Range<UInt64>) throws(ImageError) { throw readOnly() }
  func zero(_ range: Range<UInt64>) throws(ImageError) { throw readOnly() }
  func allocate(_ range: Range<UInt64>) throws(ImageError) { throw readOnly() }
  func flush() throws(ImageError) {}
  func resize(to byteCount: UInt64) throws(ImageError) { throw readOnly() }

  private func readOnly() -> ImageError {
    ImageError(.unsupported, "disk images with segments are read-only", file: name)
  }
}
