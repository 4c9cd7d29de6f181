#if Encryption
  import CCrypto
  package import PlatterCore

  /// A keyed hash at work. One context serves any number of messages.
  @safe package struct HMAC: ~Copyable, @unchecked Sendable {
    package let algorithm: HashAlgorithm
    private let context: OpaquePointer

    /// - Throws: `.unsupported` where this system's libcrypto does not offer the algorithm.
    package init(_ algorithm: HashAlgorithm, key: RawSpan) throws(ImageError) {
      let reference = try algorithm.reference()
      guard let method = unsafe Self.method?.pointer, let context = unsafe EVP_MAC_CTX_new(method) else {
        throw LibCrypto.failure("HMAC")
      }
      // An empty key is one byte of nothing: libcrypto takes a missing pointer for "the key as before".
      let isKeyed = unsafe key.withUnsafeBytes { key in
        var nothing: UInt8 = 0
        return unsafe withUnsafePointer(to: &nothing) { nothing in
          let bytes = unsafe key.baseAddress?.assumingMemoryBound(to: UInt8.self) ?? nothing
          guard let name = unsafe EVP_MD_get0_name(reference.pointer) else { return false }
          var parameters = unsafe [
            OSSL_PARAM_construct_utf8_string("digest", UnsafeMutablePointer(mutating: name), 0),
            OSSL_PARAM_construct_end(),
          ]
          return unsafe EVP_MAC_init(context, bytes, key.count, &parameters) == 1
        }
      }
      guard isKeyed else {
        unsafe EVP_MAC_CTX_free(context)
        throw LibCrypto.failure("HMAC with \"\(algorithm.name)\"")
      }
      self.algorithm = algorithm
      unsafe self.context = context
    }

    deinit { unsafe EVP_MAC_CTX_free(context) }

    private static let method: MethodReference? = {
      guard let method = unsafe EVP_MAC_fetch(nil, "HMAC", nil) else { return nil }
      return unsafe MethodReference(pointer: method)
    }()

    @safe private struct MethodReference: @unchecked Sendable {
      let pointer: OpaquePointer
    }

    /// More bytes of the message.
    package mutating func update(_ bytes: RawSpan) {
      let context = unsafe self.context
      let isDone = unsafe bytes.withUnsafeBytes { bytes in
        unsafe bytes.isEmpty
          || EVP_MAC_update(context, bytes.baseAddress?.assumingMemoryBound(to: UInt8.self), bytes.count) == 1
      }
      precondition(isDone)
    }

    /// The code of the message; the next message starts, under the same key.
    package mutating func finish() -> [UInt8] {
      var value = [UInt8](repeating: 0, count: algorithm.byteCount)
      value.withMutableRawBytes { finish(into: &$0) }
      return value
    }

    /// As `finish()`, into the first `algorithm.byteCount` bytes of `value`, which must have room for them.
    package mutating func finish(into value: inout MutableRawSpan) {
      precondition(value.byteCount >= algorithm.byteCount)
      let context = unsafe self.context
      let isDone = unsafe value.withUnsafeMutableBytes { value in
        var count = 0
        let bytes = unsafe value.baseAddress?.assumingMemoryBound(to: UInt8.self)
        return unsafe EVP_MAC_final(context, bytes, &count, value.count) == 1 && EVP_MAC_init(context, nil, 0, nil) == 1
      }
      precondition(isDone)
    }

    /// The code of one message.
    package static func value(of bytes: RawSpan, key: RawSpan, _ algorithm: HashAlgorithm) throws(ImageError) -> [UInt8]
    {
      var code = try HMAC(algorithm, key: key)
      code.update(bytes)
      return code.finish()
    }
  }
#endif
