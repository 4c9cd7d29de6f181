import PlatterCore
import PlatterCrypto

extension [UInt8] {
  /// Bytes from hexadecimal digits; spaces do not count.
  init(hex text: String) {
    let digits = text.filter { !$0.isWhitespace }
    precondition(digits.count % 2 == 0)
    self = []
    var index = digits.startIndex
    while index < digits.endIndex {
      let next = digits.index(index, offsetBy: 2)
      guard let byte = UInt8(digits[index..<next], radix: 16) else { preconditionFailure("not hexadecimal: \(text)") }
      append(byte)
      index = next
    }
  }

  var hex: String { map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined() }
}

extension SecretBytes {
  /// A copy; `f().bytes` of a value that nobody holds crashes the compiler (6.3.1).
  var array: [UInt8] { bytes.array() }
  var hex: String { array.hex }
}

func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

// The products take spans; a span of a temporary array is more than the compiler stands inside `#expect`.

func hashed(_ bytes: [UInt8], _ algorithm: HashAlgorithm) throws(ImageError) -> [UInt8] {
  try Digest.value(of: bytes.rawBytes, algorithm)
}

func derived(_ passphrase: [UInt8], _ salt: [UInt8], _ iterations: UInt64, _ hash: HashAlgorithm, _ byteCount: Int)
  throws(ImageError) -> SecretBytes
{
  try PBKDF2.key(
    passphrase: passphrase.rawBytes, salt: salt.rawBytes, iterations: iterations, hash: hash, byteCount: byteCount)
}

func merged(_ material: [UInt8], _ keyByteCount: Int, _ stripes: Int, _ hash: HashAlgorithm) throws(ImageError)
  -> [UInt8]
{
  let key = try AntiForensic.merge(material.rawBytes, keyByteCount: keyByteCount, stripes: stripes, hash: hash)
  return key.bytes.array()
}

func secret(_ bytes: [UInt8]) throws(ImageError) -> SecretBytes { try SecretBytes(copying: bytes.rawBytes) }

extension Digest {
  mutating func update(_ bytes: [UInt8]) { update(bytes.rawBytes) }
}

extension HMAC {
  mutating func update(_ bytes: [UInt8]) { update(bytes.rawBytes) }
}
