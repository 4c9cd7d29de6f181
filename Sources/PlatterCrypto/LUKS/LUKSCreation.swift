package import PlatterCore

/// How a new volume is encrypted, as the options of `create` say it.
package struct LUKSSettings: Sendable {
  package var suite: SectorCipherSuite
  /// Of key slots and stripes.
  package var hash: HashAlgorithm
  /// Processor time that opening shall take.
  package var milliseconds: UInt64

  package static let maximumMilliseconds: UInt64 = 3_600_000  // ours

  /// The options, in QEMU's order.
  /// - Parameter prefix: stands before each name: "encrypt." in qcow2.
  package static func options(prefix: String = "") -> [CreationOption] {
    [
      CreationOption("\(prefix)cipher-alg", .text, "Name of encryption cipher algorithm"),
      CreationOption("\(prefix)cipher-mode", .text, "Name of encryption cipher mode"),
      CreationOption("\(prefix)ivgen-alg", .text, "Name of IV generator algorithm"),
      CreationOption("\(prefix)ivgen-hash-alg", .text, "Name of IV generator hash algorithm"),
      CreationOption("\(prefix)hash-alg", .text, "Name of encryption hash algorithm"),
      CreationOption("\(prefix)iter-time", .number, "Time to spend in PBKDF in milliseconds"),
    ]
  }

  /// - Throws: `.invalidArgument` for a value that is none, or too weak for new volumes.
  package init(_ request: CreationRequest, prefix: String = "") throws(ImageError) {
    let reader = Reader(request: request, prefix: prefix)
    let cipher = try reader.value("cipher-alg", "aes-256") { BlockCipher(named: $0) }
    let mode = try reader.value("cipher-mode", "xts") { CipherMode(rawValue: $0) }
    let vectorHash = try reader.value("ivgen-hash-alg", "sha256") { HashAlgorithm(rawValue: $0) }
    let generator = try reader.value("ivgen-alg", "plain64") { name -> IVGenerator? in
      switch name {
      case "plain": .plain
      case "plain64": .plain64
      case "essiv": .essiv(vectorHash)
      default: nil
      }
    }
    suite = SectorCipherSuite(cipher, mode, generator)
    hash = try reader.value("hash-alg", "sha256") { HashAlgorithm(rawValue: $0) }
    milliseconds = try Self.milliseconds(request.text("\(prefix)iter-time"), of: "\(prefix)iter-time")
    try LUKSCreation.checkStrength(suite, hash)
  }

  /// The value of `iter-time`; 0 asks for the fewest iterations.
  static func milliseconds(_ text: String?, of name: String) throws(ImageError) -> UInt64 {
    guard let text else { return LUKSCreation.defaultMilliseconds }
    let time = try CreationValue.number(text, of: name)
    guard time <= maximumMilliseconds else {
      throw .invalidArgument("\(name) \(time) is more than \(maximumMilliseconds) milliseconds")
    }
    return time
  }

  private struct Reader {
    var request: CreationRequest
    var prefix: String

    func value<T>(_ name: String, _ standard: String, _ parse: (String) -> T?) throws(ImageError) -> T {
      let text = request.text(prefix + name) ?? standard
      guard let value = parse(text) else {
        throw .invalidArgument("Parameter '\(name)' does not accept value '\(text.printableForError)'")
      }
      return value
    }
  }
}

/// How a new volume is encrypted, the work of opening it counted.
package struct LUKSCreation: Sendable {
  package var suite: SectorCipherSuite
  package var hash: HashAlgorithm
  /// Iterations of the key slot and of the key's digest.
  package var slotIterations: UInt64
  package var digestIterations: UInt64

  /// QEMU's `iter-time` where nobody says another.
  package static let defaultMilliseconds: UInt64 = 2000

  /// QEMU's defaults.
  package static func defaultSuite() throws(ImageError) -> SectorCipherSuite {
    try SectorCipherSuite(luksCipher: "aes", mode: "xts-plain64", keyByteCount: 64)
  }

  /// Measures how fast this machine is, which takes about a tenth of a second.
  /// - Throws: `.invalidArgument` for what is too weak for new volumes; `.unsupported` for what libcrypto lacks.
  package init(_ settings: LUKSSettings) throws(ImageError) {
    let (suite, hash) = (settings.suite, settings.hash)
    let slot = try PBKDF2.iterations(
      takingMilliseconds: settings.milliseconds, hash: hash, byteCount: suite.keyByteCount)
    let digest = try PBKDF2.iterations(
      takingMilliseconds: settings.milliseconds / 8, hash: hash, byteCount: LUKSHeader.digestByteCount)
    try self.init(suite: suite, hash: hash, slotIterations: slot, digestIterations: digest)
  }

  /// With counts instead of a time.
  package init(suite: SectorCipherSuite, hash: HashAlgorithm, slotIterations: UInt64, digestIterations: UInt64)
    throws(ImageError)
  {
    try Self.checkStrength(suite, hash)
    let allowed = PBKDF2.minimumIterationsForCreation...PBKDF2.maximumIterations
    guard allowed.contains(slotIterations), allowed.contains(digestIterations) else {
      throw .invalidArgument(
        "\(slotIterations) and \(digestIterations) iterations are not both in \(allowed.lowerBound) to "
          + "\(allowed.upperBound)")
    }
    self.suite = suite
    self.hash = hash
    self.slotIterations = slotIterations
    self.digestIterations = digestIterations
  }

  static func checkStrength(_ suite: SectorCipherSuite, _ hash: HashAlgorithm) throws(ImageError) {
    guard !hash.isForReadingOnly else {
      throw .invalidArgument("hash algorithm \"\(hash.name)\" is too weak for a new encrypted image")
    }
    if let hash = suite.generator.hash, hash.isForReadingOnly {
      throw .invalidArgument("hash algorithm \"\(hash.name)\" is too weak for a new encrypted image")
    }
    guard suite.mode != .ecb else {
      throw .invalidArgument("cipher mode \"ecb\" is too weak for a new encrypted image: equal sectors would show")
    }
  }
}
