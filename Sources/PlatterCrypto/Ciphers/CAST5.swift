#if Encryption
  import CCrypto
  import PlatterCore

  /// CAST-128 with its full key [RFC 2144], by libcrypto's own functions for it. They are in the library itself, so that a
  /// static program has them; the way through EVP needs a provider that is loaded from a file.
  struct CAST5: BlockTransform {
    static let keyByteCount = 16
    static let blockByteCount = 8

    /// A CAST_KEY.
    private let schedule: SecretBytes
    private let direction: Int32

    init(key: RawSpan, isEncrypting: Bool) throws(ImageError) {
      precondition(key.byteCount == Self.keyByteCount)
      direction = isEncrypting ? CAST_ENCRYPT : CAST_DECRYPT
      schedule = try SecretBytes(count: MemoryLayout<CAST_KEY>.size) { schedule in
        unsafe schedule.withUnsafeMutableBytes { schedule in
          unsafe key.withUnsafeBytes { key in
            unsafe CAST_set_key(
              schedule.baseAddress?.assumingMemoryBound(to: CAST_KEY.self), Int32(key.count),
              key.baseAddress?.assumingMemoryBound(to: UInt8.self))
          }
        }
      }
    }

    func run(_ blocks: inout MutableRawSpan) {
      unsafe blocks.withUnsafeMutableBytes { blocks in
        unsafe schedule.bytes.withUnsafeBytes { schedule in
          guard let base = unsafe blocks.baseAddress?.assumingMemoryBound(to: UInt8.self) else { return }
          let key = unsafe schedule.baseAddress?.assumingMemoryBound(to: CAST_KEY.self)
          for start in stride(from: 0, through: blocks.count - Self.blockByteCount, by: Self.blockByteCount) {
            unsafe CAST_ecb_encrypt(base + start, base + start, key, direction)
          }
        }
      }
    }
  }
#endif
