import CCrypto
import PlatterCore

/// SHA-256, by the system's library.
@safe struct Digest: ~Copyable {
  private let context: OpaquePointer?

  init() {
    unsafe context = unsafe EVP_MD_CTX_new()
    unsafe EVP_DigestInit_ex(context, EVP_sha256(), nil)
  }

  deinit { unsafe EVP_MD_CTX_free(context) }

  mutating func add(_ bytes: RawSpan) {
    unsafe bytes.withUnsafeBytes { bytes in _ = unsafe EVP_DigestUpdate(context, bytes.baseAddress, bytes.count) }
  }

  /// The digest in lower-case hexadecimal digits. Ends the computation.
  mutating func finish() -> String {
    var bytes = [UInt8](repeating: 0, count: 32)
    unsafe EVP_DigestFinal_ex(context, &bytes, nil)
    return bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
  }
}

/// The corpus's digest of a disk: plain up to 2 GiB, above that over the 64 KiB units that are not zero.
struct DiskDigest: ~Copyable {
  static let unit = 1 << 16
  private static let largestPlain: UInt64 = 2 << 30

  private var digest = Digest()
  private let isSparse: Bool
  private var unitIndex: UInt64 = 0

  init(diskByteCount: UInt64) { isSparse = diskByteCount > Self.largestPlain }

  /// Adds the next bytes of the disk: whole units, but for the disk's end.
  mutating func add(_ bytes: RawSpan) {
    guard isSparse else { return digest.add(bytes) }
    var offset = 0
    while offset < bytes.byteCount {
      let part = bytes.extracting(offset..<min(offset + Self.unit, bytes.byteCount))
      if !part.isAllZero {
        var index = [UInt8](repeating: 0, count: 8)
        index.withMutableRawBytes { $0.storeLittleEndian(unitIndex, at: 0) }
        digest.add(index.rawBytes)
        digest.add(part)
        let padding = [UInt8](repeating: 0, count: Self.unit - part.byteCount)
        if !padding.isEmpty { digest.add(padding.rawBytes) }
      }
      unitIndex += 1
      offset += Self.unit
    }
  }

  /// Adds units that are all zero, without looking at them.
  mutating func addZeroUnits(_ count: UInt64) {
    guard !isSparse else {
      unitIndex += count
      return
    }
    let zeros = [UInt8](repeating: 0, count: Self.unit)
    for _ in 0..<count { digest.add(zeros.rawBytes) }
  }

  mutating func finish() -> String { (isSparse ? "z64k:" : "") + digest.finish() }
}
