import CPlatter
package import PlatterCore

/// Random bytes; only the operating system's.
package enum Random {
  /// - Throws: `.io` where the system gives none.
  package static func fill(_ bytes: inout MutableRawSpan) throws(ImageError) {
    let status = unsafe bytes.withUnsafeMutableBytes { bytes -> Int32 in
      guard let base = bytes.baseAddress, bytes.count > 0 else { return 0 }
      return unsafe platter_random(base, bytes.count)
    }
    guard status == 0 else { throw ImageError(.io, "the system gives no random bytes") }
  }

  package static func bytes(_ count: Int) throws(ImageError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    try bytes.withMutableRawBytes { buffer throws(ImageError) in try fill(&buffer) }
    return bytes
  }
}
