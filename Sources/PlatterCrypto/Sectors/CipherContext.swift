#if Encryption
  import CCrypto
  import PlatterCore
  import Synchronization

  /// An EVP_CIPHER_CTX with one owner at a time.
  @safe struct CipherContext: @unchecked Sendable {
    let pointer: OpaquePointer

    /// Starts a new unit (sector) under its vector, then runs `byteCount` bytes through. Cipher modes with padding off give
    /// as many bytes as they take.
    @inline(__always)
    func run(
      iv: UnsafePointer<UInt8>?, _ bytes: UnsafeMutablePointer<UInt8>, _ byteCount: Int32
    ) -> Bool {
      var produced: Int32 = 0
      // Only the vector is new: the key schedule stays. This is the cheapest way that EVP offers (70 ns).
      return unsafe EVP_CipherInit_ex2(pointer, nil, nil, iv, -1, nil) == 1
        && EVP_CipherUpdate(pointer, bytes, &produced, bytes, byteCount) == 1 && produced == byteCount
    }
  }

  /// Contexts under one key and direction, lent to one thread at a time. Keeps no copy of the key beside libcrypto's own,
  /// which libcrypto wipes.
  final class CipherContextPool: Sendable {
    private struct State {
      var prototype: CipherContext
      var free: [CipherContext] = []
    }

    /// Contexts kept when nobody uses them.
    private static let maximumFreeCount = 64
    private let state: Mutex<State>

    /// - Throws: `.unsupported` where libcrypto refuses the key (XTS with two equal halves, when encrypting).
    init(_ cipher: CipherReference, name: String, key: RawSpan, isEncrypting: Bool) throws(ImageError) {
      guard let context = unsafe EVP_CIPHER_CTX_new() else { throw LibCrypto.failure("a cipher context") }
      let isReady = unsafe key.withUnsafeBytes { key in
        unsafe EVP_CIPHER_get_key_length(cipher.pointer) == Int32(key.count)
          && EVP_CipherInit_ex2(
            context, cipher.pointer, key.baseAddress?.assumingMemoryBound(to: UInt8.self), nil, isEncrypting ? 1 : 0,
            nil)
            == 1
          && EVP_CIPHER_CTX_set_padding(context, 0) == 1
      }
      guard isReady else {
        unsafe EVP_CIPHER_CTX_free(context)
        throw LibCrypto.failure("this key for cipher \"\(name)\"")
      }
      state = Mutex(State(prototype: unsafe CipherContext(pointer: context)))
    }

    deinit {
      state.withLock { state in
        for context in state.free + [state.prototype] { unsafe EVP_CIPHER_CTX_free(context.pointer) }
      }
    }

    /// Runs units of equal length through a context in place, each under its own vector, or all without one.
    ///
    /// - Parameters:
    ///   - bytes: a whole number of units, less than 2 GiB each.
    ///   - vectors: one after another; none for modes without.
    func run(_ bytes: inout MutableRawSpan, vectors: [UInt8], unitByteCount: Int) throws(ImageError) {
      let unitCount = bytes.byteCount / unitByteCount
      guard unitCount > 0 else { return }
      let vectorByteCount = vectors.count / unitCount
      try unsafe bytes.withUnsafeMutableBytes { bytes throws(ImageError) in
        guard let base = unsafe bytes.baseAddress?.assumingMemoryBound(to: UInt8.self) else { return }
        try withContext { context in
          unsafe vectors.withUnsafeBufferPointer { vectors in
            for unit in 0..<unitCount {
              let vector =
                unsafe vectorByteCount == 0 ? nil : vectors.baseAddress.map { unsafe $0 + unit * vectorByteCount }
              guard unsafe context.run(iv: vector, base + unit * unitByteCount, Int32(unitByteCount)) else {
                return false
              }
            }
            return true
          }
        }
      }
    }

    /// Lends a context for the length of a call.
    private func withContext(_ body: (CipherContext) -> Bool) throws(ImageError) {
      guard let context = take() else { throw LibCrypto.failure("another cipher context") }
      let isDone = body(context)
      give(back: context)
      guard isDone else { throw LibCrypto.failure("a sector") }
    }

    private func take() -> CipherContext? {
      state.withLock { state in
        if let context = state.free.popLast() { return context }
        guard let copy = unsafe EVP_CIPHER_CTX_new() else { return nil }
        guard unsafe EVP_CIPHER_CTX_copy(copy, state.prototype.pointer) == 1 else {
          unsafe EVP_CIPHER_CTX_free(copy)
          return nil
        }
        return unsafe CipherContext(pointer: copy)
      }
    }

    private func give(back context: CipherContext) {
      let isKept = state.withLock { state in
        guard state.free.count < Self.maximumFreeCount else { return false }
        state.free.append(context)
        return true
      }
      if !isKept { unsafe EVP_CIPHER_CTX_free(context.pointer) }
    }
  }
#endif
