#if !Encryption
  package import PlatterCore

  /// What stands in the place of libcrypto in a build without the package trait Encryption: headers are read, and
  /// everything that needs a hash or a cipher is refused.
  enum LibCrypto {
    static let isLeftOut = ImageError(.unsupported, "built without encryption (the package trait Encryption)")

    static func failure(_ what: String) -> ImageError { isLeftOut }

    static func cipher(_ name: String) -> CipherReference? { nil }

    static func cipher(_ name: String, called title: String) throws(ImageError) -> CipherReference { throw isLeftOut }

    static func stretch(
      _ passphrase: RawSpan, _ salt: RawSpan, _ rounds: Int32, _ hash: HashAlgorithm, into key: inout MutableRawSpan
    ) throws(ImageError) -> Bool {
      throw isLeftOut
    }

    static func wipe(_ base: UnsafeMutableRawPointer, _ byteCount: Int) {
      unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
    }
  }

  struct CipherReference: Sendable {}

  /// A hash that nobody can make.
  package struct Digest: ~Copyable, Sendable {
    package let algorithm: HashAlgorithm

    package init(_ algorithm: HashAlgorithm) throws(ImageError) { throw LibCrypto.isLeftOut }

    package mutating func update(_ bytes: RawSpan) {}
    package mutating func finish() -> [UInt8] { [] }
    package mutating func finish(into value: inout MutableRawSpan) {}

    package static func value(of bytes: RawSpan, _ algorithm: HashAlgorithm) throws(ImageError) -> [UInt8] {
      throw LibCrypto.isLeftOut
    }
  }

  /// A keyed hash that nobody can make.
  package struct HMAC: ~Copyable, Sendable {
    package init(_ algorithm: HashAlgorithm, key: RawSpan) throws(ImageError) { throw LibCrypto.isLeftOut }

    package mutating func update(_ bytes: RawSpan) {}
    package mutating func finish() -> [UInt8] { [] }
    package mutating func finish(into value: inout MutableRawSpan) {}

    package static func value(of bytes: RawSpan, key: RawSpan, _ algorithm: HashAlgorithm) throws(ImageError) -> [UInt8]
    {
      throw LibCrypto.isLeftOut
    }
  }

  /// Whether two runs of bytes are equal; nobody makes secrets to compare here.
  package func isEqualInConstantTime(_ one: RawSpan, _ other: RawSpan) -> Bool {
    guard one.byteCount == other.byteCount else { return false }
    var difference: UInt8 = 0
    for index in 0..<one.byteCount { difference |= one[index] ^ other[index] }
    return difference == 0
  }

  final class CipherContextPool: Sendable {
    init(_ cipher: CipherReference, name: String, key: RawSpan, isEncrypting: Bool) throws(ImageError) {
      throw LibCrypto.isLeftOut
    }

    func run(_ bytes: inout MutableRawSpan, vectors: [UInt8], unitByteCount: Int) throws(ImageError) {
      throw LibCrypto.isLeftOut
    }
  }

  struct CAST5: BlockTransform {
    init(key: RawSpan, isEncrypting: Bool) throws(ImageError) { throw LibCrypto.isLeftOut }

    func run(_ blocks: inout MutableRawSpan) {}
  }
#endif
