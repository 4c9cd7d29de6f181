package import PlatterCore

/// Spreads a key over many stripes, so that losing any one of them loses the key [LUKS1 on-disk format, AFsplitter].
///
///     merge: d = 0; for all stripes but the last: d = diffuse(d XOR stripe); key = d XOR last stripe
package enum AntiForensic {
  /// The key from its stripes.
  /// - Parameter material: at least `keyByteCount * stripes` bytes; what follows is ignored.
  package static func merge(_ material: RawSpan, keyByteCount: Int, stripes: Int, hash: HashAlgorithm)
    throws(ImageError) -> SecretBytes
  {
    precondition(keyByteCount > 0 && stripes > 0 && material.byteCount / stripes >= keyByteCount)
    var digest = try Digest(hash)
    return try SecretBytes(count: keyByteCount) { key in
      for stripe in 0..<stripes - 1 {
        key.exclusiveOr(material.extracting(stripe * keyByteCount..<(stripe + 1) * keyByteCount))
        diffuse(&key, &digest)
      }
      key.exclusiveOr(material.extracting((stripes - 1) * keyByteCount..<stripes * keyByteCount))
    }
  }

  /// Stripes that give the key when merged: all but the last are random.
  ///
  /// - Parameter paddedByteCount: length of the answer; zeros follow the stripes.
  package static func split(_ key: SecretBytes, stripes: Int, hash: HashAlgorithm, paddedByteCount: Int)
    throws(ImageError) -> SecretBytes
  {
    let keyByteCount = key.count
    let usedByteCount = keyByteCount * stripes
    precondition(stripes > 0 && paddedByteCount >= usedByteCount)
    return try SecretBytes(count: paddedByteCount) { material throws(ImageError) in
      try material.withPart(0..<usedByteCount - keyByteCount) { part throws(ImageError) in try Random.fill(&part) }
      // Merging with a last stripe of zeros gives what the last stripe must cancel.
      let mask = try merge(material.bytes, keyByteCount: keyByteCount, stripes: stripes, hash: hash)
      material.withPart(usedByteCount - keyByteCount..<usedByteCount) { last in
        last.exclusiveOr(mask.bytes)
        last.exclusiveOr(key.bytes)
      }
    }
  }

  /// Replaces each piece of hash length (the last may be shorter) by the hash of its big-endian number and itself.
  private static func diffuse(_ key: inout MutableRawSpan, _ digest: inout Digest) {
    let hashByteCount = digest.algorithm.byteCount
    var number = [UInt8](repeating: 0, count: 4)
    var value = [UInt8](repeating: 0, count: hashByteCount)
    var start = 0
    var index: UInt32 = 0
    while start < key.byteCount {
      let count = min(hashByteCount, key.byteCount - start)
      number.withMutableRawBytes { $0.storeBigEndian(index, at: 0) }
      digest.update(number.rawBytes)
      digest.update(key.bytes.extracting(start..<start + count))
      value.withMutableRawBytes { digest.finish(into: &$0) }
      key.copy(value.rawBytes.extracting(0..<count), to: start)
      start += count
      index += 1
    }
    value.withMutableRawBytes { $0.wipe() }
  }
}

extension MutableRawSpan {
  /// XORs `other`, of the same length, into the bytes.
  mutating func exclusiveOr(_ other: RawSpan) {
    precondition(other.byteCount == byteCount)
    unsafe withUnsafeMutableBytes { bytes in
      unsafe other.withUnsafeBytes { other in
        for index in bytes.indices { unsafe bytes[index] ^= other[index] }
      }
    }
  }
}
