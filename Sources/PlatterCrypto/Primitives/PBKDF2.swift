package import PlatterCore

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Keys from passphrases [RFC 8018, section 5.2], with HMAC as the random function.
package enum PBKDF2 {
  /// Most iterations that are ever run: about ten minutes.
  package static let maximumIterations: UInt64 = 1_000_000_000  // ours; the format allows 2^32
  /// Fewest iterations for a new key.
  package static let minimumIterationsForCreation: UInt64 = 1000  // QEMU's, and RFC 2898's

  /// - Parameters:
  ///   - iterations: 1 ... `maximumIterations`, which the caller has checked with a word on where they come from.
  ///   - byteCount: bytes of the key.
  /// - Throws: `.invalidArgument` for iterations out of range; `.unsupported` where the hash is not offered.
  package static func key(
    passphrase: RawSpan, salt: RawSpan, iterations: UInt64, hash: HashAlgorithm, byteCount: Int
  ) throws(ImageError) -> SecretBytes {
    guard iterations >= 1, iterations <= maximumIterations, let rounds = Int32(exactly: iterations),
      max(passphrase.byteCount, salt.byteCount, byteCount) <= Int(Int32.max)
    else {
      throw .invalidArgument("\(iterations) PBKDF2 iterations are outside 1 to \(maximumIterations)")
    }
    var isDone = false
    let key = try SecretBytes(count: byteCount) { key throws(ImageError) in
      isDone = try LibCrypto.stretch(passphrase, salt, rounds, hash, into: &key)
    }
    guard isDone else { throw LibCrypto.failure("PBKDF2 with \"\(hash.name)\"") }
    return key
  }

  /// How many iterations take this long on this machine, in processor time of this thread.
  ///
  /// - Returns: at least `minimumIterationsForCreation`, at most `maximumIterations`.
  package static func iterations(
    takingMilliseconds milliseconds: UInt64, hash: HashAlgorithm, byteCount: Int
  ) throws(ImageError) -> UInt64 {
    let sample = [UInt8](repeating: 0x5a, count: 32)
    var trial: UInt64 = 1 << 13
    while true {
      let start = processorNanoseconds()
      _ = try key(
        passphrase: sample.rawBytes, salt: sample.rawBytes, iterations: trial, hash: hash, byteCount: byteCount)
      let taken = max(1, processorNanoseconds() &- start)
      // A shorter sample than this is mostly noise.
      if taken >= 20_000_000 || trial >= 1 << 26 {
        let wanted = Double(trial) * Double(milliseconds) * 1e6 / Double(taken)
        return UInt64(min(max(wanted, Double(minimumIterationsForCreation)), Double(maximumIterations)))
      }
      trial *= 2
    }
  }

  private static func processorNanoseconds() -> UInt64 {
    var time = timespec()
    guard unsafe clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) == 0 else { return 0 }
    return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
  }
}
