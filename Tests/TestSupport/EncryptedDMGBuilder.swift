import CCrypto
import PlatterCore
import PlatterCrypto

/// Encrypts whole blocks with libcrypto itself, apart from the code under test.
package func encrypted(_ bytes: [UInt8], _ cipher: String, key: [UInt8], iv: [UInt8]) throws -> [UInt8] {
  var output = [UInt8](repeating: 0, count: bytes.count)
  var count: Int32 = 0
  let context = unsafe EVP_CIPHER_CTX_new()
  defer { unsafe EVP_CIPHER_CTX_free(context) }
  let method = unsafe EVP_CIPHER_fetch(nil, cipher, nil)
  defer { unsafe EVP_CIPHER_free(method) }
  let isDone =
    unsafe EVP_EncryptInit_ex2(context, method, key, iv, nil) == 1
    && EVP_CIPHER_CTX_set_padding(context, 0) == 1
    && EVP_EncryptUpdate(context, &output, &count, bytes, Int32(bytes.count)) == 1
  guard isDone, Int(count) == bytes.count else { throw ImageError(.unsupported, "libcrypto refuses \(cipher)") }
  return output
}

/// An encrypted disk image of Apple's, written down field by field from the published layout.
package struct EncryptedDMGBuilder {
  package var keyBits = 256
  package var blockByteCount = 512
  package var iterations: UInt32 = 7
  package var passphrase: [UInt8] = Array("test123".utf8)
  package var plain: [UInt8] = []
  /// Bytes of the last block's padding that are left out of the file.
  package var cutByteCount = 0
  package var generator = SeededGenerator(seed: 0xd46)

  package init() {}

  private mutating func blocks(_ cipherKey: [UInt8], _ codeKey: [UInt8]) throws -> [UInt8] {
    var file: [UInt8] = []
    for (index, start) in stride(from: 0, to: plain.count, by: blockByteCount).enumerated() {
      var block = Array(plain[start..<min(start + blockByteCount, plain.count)])
      block += [UInt8](repeating: 0, count: blockByteCount - block.count)
      let number = bigEndian(UInt32(index))
      let code = try HMAC.value(of: number.rawBytes, key: codeKey.rawBytes, .sha1)
      file += try encrypted(block, "AES-\(keyBits)-CBC", key: cipherKey, iv: Array(code.prefix(16)))
    }
    file.removeLast(cutByteCount)
    return file
  }

  package mutating func version2(_ change: (inout [UInt8]) -> Void = { _ in }) throws -> [UInt8] {
    let cipherKey = generator.bytes(keyBits / 8)
    let codeKey = generator.bytes(20)
    let salt = generator.bytes(20)
    let iv = generator.bytes(8)
    let wrapping = try PBKDF2.key(
      passphrase: passphrase.rawBytes, salt: salt.rawBytes, iterations: UInt64(iterations), hash: .sha1, byteCount: 24)
    let wrappingKey = wrapping.bytes.array()
    var blob = cipherKey + codeKey + Array("CKIE\0".utf8)
    blob = padded(blob)
    blob = try encrypted(blob, "DES-EDE3-CBC", key: wrappingKey, iv: iv)

    var file = Array("encrcdsa".utf8)
    for number in [2, 16, 5, 0x8000_0001, UInt32(keyBits), 0x5b, 160] as [UInt32] { file += bigEndian(number) }
    file += generator.bytes(16)
    file += bigEndian(UInt32(blockByteCount))
    file += bigEndian(UInt64(plain.count)) + bigEndian(4096 as UInt64)
    // A certificate comes first: readers must look at every item.
    file += bigEndian(2 as UInt32)
    file += bigEndian(2 as UInt32) + bigEndian(2048 as UInt64) + bigEndian(308 as UInt64)
    file += bigEndian(1 as UInt32) + bigEndian(1024 as UInt64) + bigEndian(616 as UInt64)
    file += [UInt8](repeating: 0, count: 1024 - file.count)

    file += bigEndian(0x67 as UInt32) + bigEndian(0 as UInt32) + bigEndian(iterations)
    file += bigEndian(20 as UInt32) + salt + [UInt8](repeating: 0, count: 12)
    file += bigEndian(8 as UInt32) + iv + [UInt8](repeating: 0, count: 24)
    for number in [192, 0x11, 7, 6, UInt32(blob.count)] as [UInt32] { file += bigEndian(number) }
    file += blob
    file += [UInt8](repeating: 0, count: 4096 - file.count)
    file += try blocks(cipherKey, codeKey)
    change(&file)
    return file
  }

  package mutating func version1() throws -> [UInt8] {
    let cipherKey = generator.bytes(keyBits / 8)
    let codeKey = generator.bytes(20)
    let salt = generator.bytes(20)
    let wrapping = try PBKDF2.key(
      passphrase: passphrase.rawBytes, salt: salt.rawBytes, iterations: UInt64(iterations), hash: .sha1, byteCount: 24)
    let wrappingKey = wrapping.bytes.array()
    var header = [UInt8](repeating: 0, count: 0x4e8)
    func put(_ bytes: [UInt8], _ offset: Int) { header.replaceSubrange(offset..<offset + bytes.count, with: bytes) }
    put(bigEndian(UInt32(blockByteCount)), 0x10)
    put(bigEndian(UInt64(iterations)), 0x2c)
    put(bigEndian(20 as UInt32) + salt, 0x34)
    put(bigEndian(UInt32(keyBits)), 0x64)
    for (key, offset) in [(cipherKey, 0x88), (codeKey, 0x1b4)] {
      let wrapped = try wrappedTwice(key, wrappingKey)
      put(bigEndian(UInt32(wrapped.count)) + wrapped, offset)
    }
    let data = try blocks(cipherKey, codeKey)
    return data + header + bigEndian(UInt64(data.count)) + bigEndian(1 as UInt32) + Array("cdsaencr".utf8)
  }

  /// Under a nonce first, then turned round and under the constant vector [after RFC 3217].
  private mutating func wrappedTwice(_ key: [UInt8], _ wrappingKey: [UInt8]) throws -> [UInt8] {
    let nonce = generator.bytes(8)
    let inner = try encrypted(padded([0, 0, 0, 0] + key), "DES-EDE3-CBC", key: wrappingKey, iv: nonce)
    return try encrypted(
      padded(Array((nonce + inner).reversed())), "DES-EDE3-CBC", key: wrappingKey,
      iv: [0x4a, 0xdd, 0xa2, 0x2c, 0x79, 0xe8, 0x21, 0x05])
  }
}

private func padded(_ bytes: [UInt8]) -> [UInt8] {
  let count = 8 - bytes.count % 8
  return bytes + [UInt8](repeating: UInt8(count), count: count)
}

/// The bytes of a number, highest first.
package func bigEndian<T: FixedWidthInteger>(_ number: T) -> [UInt8] {
  stride(from: T.bitWidth - 8, through: 0, by: -8).map { UInt8(truncatingIfNeeded: number >> T($0)) }
}
