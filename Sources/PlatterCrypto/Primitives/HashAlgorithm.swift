package import PlatterCore

/// The hash functions that disk images use.
package enum HashAlgorithm: String, Sendable, CaseIterable {
  // MD5 and SHA-1 are for reading what others made.
  case md5, sha1, sha224, sha256, sha384, sha512, ripemd160

  /// The name that QEMU and LUKS headers use.
  package var name: String { rawValue }

  /// Bytes of a hash value.
  package var byteCount: Int {
    switch self {
    case .md5: 16
    case .sha1, .ripemd160: 20
    case .sha224: 28
    case .sha256: 32
    case .sha384: 48
    case .sha512: 64
    }
  }

  /// Whether it is too weak for new images.
  package var isForReadingOnly: Bool { self == .md5 || self == .sha1 }

  /// The algorithm with this name; throws `.unsupported` where there is none.
  package init(named name: String) throws(ImageError) {
    guard let algorithm = HashAlgorithm(rawValue: name) else {
      throw .unsupported("hash algorithm \"\(name.printableForError)\" is not supported")
    }
    self = algorithm
  }
}

extension String {
  /// The text with everything but printable ASCII shown as `?`: names in images are hostile.
  var printableForError: String {
    String(String.UnicodeScalarView(unicodeScalars.map { (0x20..<0x7f).contains($0.value) ? $0 : "?" }))
  }
}
