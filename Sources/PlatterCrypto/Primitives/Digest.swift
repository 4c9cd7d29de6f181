#if Encryption
  import CCrypto
  package import PlatterCore

  /// A hash function at work: takes bytes piece by piece.
  @safe package struct Digest: ~Copyable, @unchecked Sendable {
    package let algorithm: HashAlgorithm
    private let context: OpaquePointer

    /// - Throws: `.unsupported` where this system's libcrypto does not offer the algorithm.
    package init(_ algorithm: HashAlgorithm) throws(ImageError) {
      let reference = try algorithm.reference()
      guard let context = unsafe EVP_MD_CTX_new() else { throw LibCrypto.failure("a hash context") }
      guard unsafe EVP_DigestInit_ex2(context, reference.pointer, nil) == 1 else {
        unsafe EVP_MD_CTX_free(context)
        throw LibCrypto.failure("hash algorithm \"\(algorithm.name)\"")
      }
      self.algorithm = algorithm
      unsafe self.context = context
    }

    deinit { unsafe EVP_MD_CTX_free(context) }

    /// Hashes more bytes.
    package mutating func update(_ bytes: RawSpan) {
      let context = unsafe self.context
      let isDone = unsafe bytes.withUnsafeBytes { bytes in
        unsafe bytes.isEmpty || EVP_DigestUpdate(context, bytes.baseAddress, bytes.count) == 1
      }
      // Fails only for a context that was never set up.
      precondition(isDone)
    }

    /// The hash value of all bytes since the start, or since the last `finish`; starts over.
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
        var count: UInt32 = 0
        let bytes = unsafe value.baseAddress?.assumingMemoryBound(to: UInt8.self)
        return unsafe EVP_DigestFinal_ex(context, bytes, &count) == 1 && EVP_DigestInit_ex2(context, nil, nil) == 1
      }
      precondition(isDone)
    }

    /// The hash value of some bytes.
    package static func value(of bytes: RawSpan, _ algorithm: HashAlgorithm) throws(ImageError) -> [UInt8] {
      var digest = try Digest(algorithm)
      digest.update(bytes)
      return digest.finish()
    }
  }
#endif
