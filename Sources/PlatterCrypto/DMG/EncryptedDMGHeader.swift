package import PlatterCore

/// How an encrypted disk image is laid out, and its keys as they are wrapped under passphrases.
///
/// Invariants of a value: block size 512 bytes to 1 MiB, in sectors; the blocks lie inside the file and number less than 2^32;
/// key size 128 or 256 bits; wrapped blobs are whole blocks of triple DES.
package struct EncryptedDMGHeader: Sendable {
  /// Limits of ours; Apple's tools write 512 or 4096, and one item or two.
  static let blockByteCounts: ClosedRange<UInt32> = 512...1 << 20
  static let maximumItemCount: UInt32 = 64
  static let maximumBlobByteCount: UInt32 = 512
  static let saltByteCount: UInt32 = 32
  /// Bytes of the key that numbers are hashed under.
  static let codeKeyByteCount = 20

  package var version: Int
  package var keyBits: Int
  package var blockByteCount: Int
  /// Where the encrypted blocks start.
  package var dataOffset: UInt64
  /// Bytes of the decrypted image.
  package var dataByteCount: UInt64
  /// Where the encrypted blocks end at the latest.
  var dataLimit: UInt64
  var wrappings: [Wrapping]
  /// Key items that take something else than a passphrase.
  var otherItemCount = 0

  /// Keys wrapped under a passphrase.
  struct Wrapping: Sendable {
    var iterations: UInt64
    var salt: [UInt8]
    var content: Content

    enum Content: Sendable {
      /// Version 2: both keys in one blob.
      case pair(iv: [UInt8], blob: [UInt8])
      /// Version 1: each key in a blob of its own.
      case separate(cipherKey: [UInt8], codeKey: [UInt8])
    }
  }

  /// Reads and checks the header of either version.
  package init(reading store: any ByteStore) throws(ImageError) {
    let length = try store.byteCount()
    let head = try store.readPrefix(count: 76)
    if head.starts(with: EncryptedDMG.headSignature) {
      self = try Self.readVersion2(store, head, length)
    } else {
      self = try Self.readVersion1(store, length)
    }
  }

  init(
    version: Int, keyBits: UInt32, blockByteCount: UInt32, dataOffset: UInt64, dataByteCount: UInt64, dataLimit: UInt64
  ) throws(ImageError) {
    guard keyBits == 128 || keyBits == 256 else {
      throw .unsupported("encrypted disk image: AES with a key of \(keyBits) bits is not supported")
    }
    guard Self.blockByteCounts.contains(blockByteCount), blockByteCount % 512 == 0 else {
      throw .corrupt("encrypted disk image: block size \(blockByteCount) is not 512 to 1048576 in whole sectors")
    }
    // The last block is padded; only the cipher's blocks of it that hold data must be there.
    guard let padded = dataByteCount.roundedUp(toMultipleOf: 16), let end = dataOffset.adding(padded), end <= dataLimit
    else {
      throw .truncated(
        "encrypted disk image: \(dataByteCount.hex) bytes of data at \(dataOffset.hex) lie past their end "
          + "(\(dataLimit.hex))")
    }
    guard dataByteCount.dividedRoundingUp(by: UInt64(blockByteCount)) <= 1 << 32 else {
      throw .corrupt("encrypted disk image: \(dataByteCount.hex) bytes take more than 2^32 blocks")
    }
    self.version = version
    self.keyBits = Int(keyBits)
    self.blockByteCount = Int(blockByteCount)
    self.dataOffset = dataOffset
    self.dataByteCount = dataByteCount
    self.dataLimit = dataLimit
    wrappings = []
  }

  package var facts: Property {
    [
      "format": .text(version == 2 ? "encrcdsa" : "cdsaencr"), "version": .unsigned(UInt64(version)),
      "cipher-alg": .text("aes-\(keyBits)"), "cipher-mode": .text("cbc"),
      "block-size": .unsigned(UInt64(blockByteCount)), "data-offset": .unsigned(dataOffset),
      "data-length": .unsigned(dataByteCount),
      "passphrase-iters": .list(wrappings.map { .unsigned($0.iterations) }),
      "other-keys": .unsigned(UInt64(otherItemCount)),
    ]
  }
}

/// Fields of a structure whose length was checked: a missing one is an error of the file all the same.
struct DMGFields: ~Escapable {
  private let bytes: RawSpan
  private let what: String

  @_lifetime(copy bytes)
  init(_ bytes: RawSpan, _ what: String) {
    self.bytes = bytes
    self.what = what
  }

  func number<T: FixedWidthInteger & BitwiseCopyable>(_ offset: Int, as type: T.Type = T.self) throws(ImageError) -> T {
    guard let value = bytes.bigEndian(at: offset, as: T.self) else { throw cut }
    return value
  }

  func field(_ offset: Int, _ count: Int) throws(ImageError) -> [UInt8] {
    guard let field = bytes.bytes(at: offset, count: count) else { throw cut }
    return field
  }

  /// Demands one value of a 32-bit field.
  func demand(_ value: UInt32, at offset: Int, _ name: String) throws(ImageError) {
    let found: UInt32 = try number(offset)
    guard found == value else {
      throw .unsupported("encrypted disk image: \(name) \(UInt64(found).hex) is not supported")
    }
  }

  private var cut: ImageError { .truncated("encrypted disk image: \(what) is cut short") }
}
