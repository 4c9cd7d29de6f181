#if Encryption
  import CCrypto
  import PlatterCore

  /// The door to libcrypto: fetching algorithms by name. Everything fetched lives as long as the process.
  enum LibCrypto {
    /// A cipher by libcrypto's name, or nil where this libcrypto has none.
    static func cipher(_ name: String) -> CipherReference? {
      let cipher = unsafe EVP_CIPHER_fetch(nil, name, nil)
      // A failed fetch leaves a reason in a queue of the thread's, which nobody will read.
      guard let cipher = unsafe cipher else { ERR_clear_error(); return nil }
      return unsafe CipherReference(pointer: cipher)
    }

    /// The same for a cipher that there must be.
    ///
    /// - Parameter title: what users call it.
    /// - Throws: `.unsupported`.
    static func cipher(_ name: String, called title: String) throws(ImageError) -> CipherReference {
      guard let cipher = cipher(name) else {
        throw .unsupported("cipher \(title) is not offered by the cryptographic library")
      }
      return cipher
    }

    /// PBKDF2. The counts of all bytes must fit into 31 bits.
    ///
    /// - Returns: whether libcrypto did it.
    static func stretch(
      _ passphrase: RawSpan, _ salt: RawSpan, _ rounds: Int32, _ hash: HashAlgorithm, into key: inout MutableRawSpan
    ) throws(ImageError) -> Bool {
      let reference = try hash.reference()
      return unsafe key.withUnsafeMutableBytes { key in
        unsafe passphrase.withUnsafeBytes { passphrase in
          unsafe salt.withUnsafeBytes { salt in
            unsafe 1
              == PKCS5_PBKDF2_HMAC(
                passphrase.baseAddress?.assumingMemoryBound(to: CChar.self), Int32(passphrase.count),
                salt.baseAddress?.assumingMemoryBound(to: UInt8.self), Int32(salt.count), rounds, reference.pointer,
                Int32(key.count), key.baseAddress?.assumingMemoryBound(to: UInt8.self))
          }
        }
      }
    }

    /// Overwrites memory with zeros, in a way that the compiler does not leave out.
    static func wipe(_ base: UnsafeMutableRawPointer, _ byteCount: Int) { unsafe OPENSSL_cleanse(base, byteCount) }

    /// A failure inside libcrypto that no input explains.
    static func failure(_ what: String) -> ImageError {
      ERR_clear_error()
      return ImageError(.unsupported, "the cryptographic library refuses \(what)")
    }
  }

  /// An EVP_CIPHER, immutable and shared by all threads.
  @safe struct CipherReference: @unchecked Sendable {
    let pointer: OpaquePointer
  }

  extension HashAlgorithm {
    /// libcrypto's name.
    private var fetchName: String {
      switch self {
      case .md5: "MD5"
      case .sha1: "SHA1"
      case .sha224: "SHA2-224"
      case .sha256: "SHA2-256"
      case .sha384: "SHA2-384"
      case .sha512: "SHA2-512"
      case .ripemd160: "RIPEMD160"
      }
    }

    /// The fetched EVP_MD; each is fetched once a process.
    func reference() throws(ImageError) -> HashReference {
      guard let reference = Self.references[self] else {
        throw .unsupported("hash algorithm \"\(name)\" is not offered by this system's cryptographic library")
      }
      return reference
    }

    private static let references: [HashAlgorithm: HashReference] = {
      var references: [HashAlgorithm: HashReference] = [:]
      for algorithm in allCases {
        if let pointer = unsafe EVP_MD_fetch(nil, algorithm.fetchName, nil) {
          unsafe references[algorithm] = HashReference(pointer: pointer)
        } else {
          ERR_clear_error()
        }
      }
      return references
    }()
  }

  /// An EVP_MD, immutable and shared by all threads.
  @safe struct HashReference: @unchecked Sendable {
    let pointer: OpaquePointer
  }

  /// Whether two runs of bytes are equal. Takes the same time wherever they differ; a different length shows.
  package func isEqualInConstantTime(_ one: RawSpan, _ other: RawSpan) -> Bool {
    guard one.byteCount == other.byteCount else { return false }
    guard one.byteCount > 0 else { return true }
    return unsafe one.withUnsafeBytes { one in
      unsafe other.withUnsafeBytes { other in unsafe CRYPTO_memcmp(one.baseAddress, other.baseAddress, one.count) == 0 }
    }
  }
#endif
