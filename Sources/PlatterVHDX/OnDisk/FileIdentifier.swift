import PlatterCore

/// The first 64 KiB of the file [MS-VHDX 2.2.1]. Never rewritten after creation.
package struct FileIdentifier: Sendable, Equatable {
  static let byteCount = 520
  static let creatorByteCount = 512

  /// Bytes 8..<520: the program that made the file, UTF-16LE, up to a NUL or the field's end. Informative only.
  package var creator: String

  init(parsing bytes: RawSpan) throws(ImageError) {
    // Bytes 0..<8: "vhdxfile".
    guard bytes.hasSignature("vhdxfile") else {
      throw .corrupt("the file identifier does not begin with \"vhdxfile\"")
    }
    var units: [UInt16] = []
    for index in 0..<Self.creatorByteCount / 2 {
      guard let unit: UInt16 = bytes.littleEndian(at: 8 + index * 2), unit != 0 else { break }
      units.append(unit)
    }
    creator = String(decoding: units, as: UTF16.self)
  }
}
