// A raw image: guest byte n is byte n of the file. Anything can be one, so it is what remains when no other format
// knows the file.
//
// Driver options: "offset" and "size" pick a part of the file.

package import PlatterCore
import Synchronization

/// The raw format.
package enum Raw: ImageFormat {
  package static let name = "raw"

  /// The lowest answer above "no", always.
  package static func probe(_ head: RawSpan, _ store: any ByteStore) throws(ImageError) -> Int { 1 }

  package static func open(_ store: any ByteStore, _ context: OpenContext) throws(ImageError) -> any ImageMap {
    try naming(store.name) { () throws(ImageError) in
      let fileByteCount = try store.byteCount()
      let offset = try byteCount(of: "offset", context) ?? 0
      guard offset <= fileByteCount else {
        throw .invalidArgument("option \"offset\" (\(offset)) is larger than the file (\(fileByteCount) bytes)")
      }
      let rest = fileByteCount - offset
      let size = try byteCount(of: "size", context)
      if let size, size > rest {
        throw .invalidArgument(
          "options \"offset\" (\(offset)) and \"size\" (\(size)) reach past the end of the file "
            + "(\(fileByteCount) bytes)")
      }
      return RawMap(store, offset: offset, byteCount: size ?? rest)
    }
  }

  private static func byteCount(of option: String, _ context: OpenContext) throws(ImageError) -> UInt64? {
    guard let text = context.options[option] else { return nil }
    guard let value = parse(text) else {
      throw .invalidArgument("option \"\(option)\" is no number of bytes: \"\(text)\"")
    }
    return value
  }

  /// A whole number of bytes with an optional unit letter: "512", "64k", "1G"; nil for anything else.
  private static func parse(_ text: String) -> UInt64? {
    let units: [Character] = ["k", "m", "g", "t", "p", "e"]
    guard let last = text.last?.lowercased().first, !last.isNumber else { return UInt64(text) }
    guard let number = UInt64(text.dropLast()) else { return nil }
    if last == "b" { return number }
    guard let power = units.firstIndex(of: last) else { return nil }
    return number.multiplied(by: 1 << (10 * UInt64(power + 1)))
  }
}

/// A part of a file as a disk.
final class RawMap: ImageMap {
  var formatName: String { Raw.name }
  var byteCount: UInt64 { size.load(ordering: .relaxed) }
  let stores: [any ByteStore]
  /// Where the disk starts in the file.
  private let offset: UInt64
  private let size: Atomic<UInt64>

  init(_ store: any ByteStore, offset: UInt64, byteCount: UInt64) {
    stores = [store]
    self.offset = offset
    size = Atomic(byteCount)
  }

  func map(_ range: Range<UInt64>, limit: Int, into extents: inout [Extent]) throws(ImageError) -> UInt64 {
    extents.appendJoining(
      .data(
        start: range.lowerBound, byteCount: range.upperBound - range.lowerBound, store: 0,
        offset: offset + range.lowerBound, isSparse: true))
    return range.upperBound
  }
}

extension RawMap: InPlaceMap {
  var mapUnit: UInt64 { 1 }

  func release(_ range: Range<UInt64>, as result: Release) throws(ImageError) -> ReleaseAnswer {
    let host = range.lowerBound + offset..<range.upperBound + offset
    switch result {
    case .zeroKeepingSpace: try stores[0].zero(host)
    case .zero, .discard: try stores[0].punch(host)
    case .absent: return .cannot
    }
    return .done
  }

  func resize(to byteCount: UInt64, _ barrier: Barrier) throws(ImageError) {
    guard offset == 0 else { throw .invalidArgument("a part of a file (option \"offset\") cannot be resized") }
    try stores[0].resize(to: byteCount)
    size.store(byteCount, ordering: .relaxed)
  }
}
