package import PlatterCore

/// A block cipher with its key size, in the words of LUKS headers and of QEMU's `cipher-alg`.
package struct BlockCipher: Sendable, Hashable {
  package enum Family: String, Sendable, CaseIterable {
    case aes, serpent, twofish, cast5
  }

  package var family: Family
  /// 128, 192 or 256; cast5 has 128 only.
  package var keyBits: Int

  /// - Returns: nil where the family has no key of this size.
  package init?(_ family: Family, keyBits: Int) {
    switch (family, keyBits) {
    case (_, 128), (.aes, 192), (.aes, 256), (.serpent, 192), (.serpent, 256), (.twofish, 192), (.twofish, 256):
      self.family = family
      self.keyBits = keyBits
    default: return nil
    }
  }

  /// The cipher that `cipher-alg` names: "aes-256".
  package init?(named name: String) {
    let parts = name.split(separator: "-", maxSplits: 1)
    guard parts.count == 2, let family = Family(rawValue: String(parts[0])), let bits = Int(parts[1]) else {
      return nil
    }
    self.init(family, keyBits: bits)
    // "aes-0128" and "aes-+128" are numbers too.
    guard name == self.name else { return nil }
  }

  /// "aes-256"
  package var name: String { "\(family.rawValue)-\(keyBits)" }
  package var blockByteCount: Int { family == .cast5 ? 8 : 16 }
}

/// How blocks of a sector hang together.
package enum CipherMode: String, Sendable, CaseIterable {
  case ecb, cbc, xts, ctr
}

/// How a sector's number becomes its initialisation vector.
package enum IVGenerator: Sendable, Hashable {
  /// The low 32 bits, little-endian, then zeros.
  case plain
  /// 64 bits, little-endian, then zeros.
  case plain64
  /// `plain64`, encrypted under the hash of the key.
  case essiv(HashAlgorithm)

  /// QEMU's name: "essiv" without its hash.
  package var name: String {
    switch self {
    case .plain: "plain"
    case .plain64: "plain64"
    case .essiv: "essiv"
    }
  }

  package var hash: HashAlgorithm? {
    if case .essiv(let hash) = self { hash } else { nil }
  }
}

/// Cipher, mode and initialisation vectors: everything about encrypting sectors but the key.
///
/// A value names a suite; whether libcrypto can do it shows in `makeCipher`.
package struct SectorCipherSuite: Sendable, Hashable {
  package var cipher: BlockCipher
  package var mode: CipherMode
  package var generator: IVGenerator

  package init(_ cipher: BlockCipher, _ mode: CipherMode, _ generator: IVGenerator) {
    self.cipher = cipher
    self.mode = mode
    self.generator = generator
  }

  /// The suite that a LUKS header describes: "aes", "xts-plain64" and the bytes of its key.
  ///
  /// - Throws: `.unsupported`, naming the text that is not known; `.corrupt` where no such cipher has keys of that size.
  package init(luksCipher name: String, mode text: String, keyByteCount: Int) throws(ImageError) {
    guard let family = BlockCipher.Family(rawValue: name) else {
      throw .unsupported("LUKS header: cipher \"\(name.printableForError)\" is not supported")
    }
    let parts = text.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false).map { String($0) }
    guard let mode = CipherMode(rawValue: parts[0]), parts.count == 2 || parts[0] == "ecb" else {
      throw .unsupported("LUKS header: cipher mode \"\(text.printableForError)\" is not supported")
    }
    let keyBits = mode == .xts ? keyByteCount * 4 : keyByteCount * 8
    guard let cipher = BlockCipher(family, keyBits: keyBits) else {
      throw .corrupt(
        "LUKS header: cipher \"\(name.printableForError)\" in mode \"\(mode.rawValue)\" has no key of \(keyByteCount) bytes"
      )
    }
    self.init(cipher, mode, try Self.generator(parts.count == 2 ? parts[1] : "plain", in: text))
  }

  /// "plain", "plain64", "essiv:sha256"; QEMU also writes a hash where none is needed ("plain64:sha256").
  private static func generator(_ name: String, in text: String) throws(ImageError) -> IVGenerator {
    let parts = name.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false).map { String($0) }
    switch parts[0] {
    case "plain": return .plain
    case "plain64": return .plain64
    case "essiv":
      guard parts.count == 2 else {
        throw .corrupt("LUKS header: cipher mode \"\(text.printableForError)\" names no hash for essiv")
      }
      return .essiv(try HashAlgorithm(named: parts[1]))
    default:
      throw .unsupported(
        "LUKS header: IV generator \"\(parts[0].printableForError)\" of mode \"\(text.printableForError)\" is not supported"
      )
    }
  }

  /// The mode as a LUKS header writes it: "xts-plain64", "cbc-essiv:sha256".
  package var luksMode: String {
    let suffix = generator.hash.map { ":\($0.name)" } ?? ""
    return "\(mode.rawValue)-\(generator.name)\(suffix)"
  }

  /// Bytes of the key: XTS has two.
  package var keyByteCount: Int { mode == .xts ? cipher.keyBits / 4 : cipher.keyBits / 8 }
}

/// What numbers a sector; formats disagree.
package enum SectorNumbering: Sendable, Hashable {
  /// The place in the host file, counted in sectors from `base`: raw LUKS with its payload offset, qcow2 LUKS with 0.
  case host(base: UInt64)
  /// The place on the guest's disk: the old AES encryption of qcow2.
  case guest
}
