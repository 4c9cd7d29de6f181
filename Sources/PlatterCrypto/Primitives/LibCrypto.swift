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
