import CCrypto
import PlatterCore

/// The door to libcrypto: fetching algorithms by name. Everything fetched lives as long as the process.
enum LibCrypto {
  /// A cipher by libcrypto's name, or nil where this libcrypto has none.
  static func cipher(_ name: String, isLegacy: Bool = false) -> CipherReference? {
    let library = isLegacy ? legacy : nil
    if isLegacy, library == nil { return nil }
    let cipher = unsafe EVP_CIPHER_fetch(library?.pointer, name, nil)
    // A failed fetch leaves a reason in a queue of the thread's, which nobody will read.
    guard let cipher = unsafe cipher else { ERR_clear_error(); return nil }
    return unsafe CipherReference(pointer: cipher)
  }

  /// A library context that has the old ciphers, apart from the default one, so that loading them changes nothing for
  /// others in the process. Nil where the provider is not installed.
  private static let legacy: LibraryReference? = {
    guard let context = unsafe OSSL_LIB_CTX_new() else { return nil }
    guard unsafe OSSL_PROVIDER_load(context, "legacy") != nil, unsafe OSSL_PROVIDER_load(context, "default") != nil
    else {
      unsafe OSSL_LIB_CTX_free(context)
      ERR_clear_error()
      return nil
    }
    return unsafe LibraryReference(pointer: context)
  }()

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

@safe private struct LibraryReference: @unchecked Sendable {
  let pointer: OpaquePointer
}
