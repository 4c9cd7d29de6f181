import PlatterCore

/// How a differencing file names its parent: pairs of text [MS-VHDX 2.6.2.6].
package struct ParentLocator: Sendable, Equatable {
  static let type = GUID(0xb04a_efb7_d19e_4a81, 0xb789_25b8_e944_5913)
  static let maximumPairCount = 256  // Microsoft's

  package var linkage: GUID
  package var linkage2: GUID?
  /// As stored, with backslashes.
  package var relativePath: String?
  package var volumePath: String?
  package var absolutePath: String?

  init(parsing bytes: RawSpan) throws(ImageError) {
    let type = try GUID(parsing: bytes, at: 0)
    guard type == Self.type else {
      throw .unsupported("the parent locator has type \(type), which is not that of a VHDX parent")
    }
    let count: UInt16 = try bytes.number(at: 18)
    guard count <= Self.maximumPairCount else {
      throw .corrupt("the parent locator has \(count) pairs; at most \(Self.maximumPairCount) are allowed")
    }
    let pairs = try Self.pairs(bytes, count: Int(count))
    guard let linkage = try Self.guid("parent_linkage", pairs) else {
      throw .corrupt("the parent locator has no parent_linkage")
    }
    self.linkage = linkage
    linkage2 = try Self.guid("parent_linkage2", pairs)
    relativePath = pairs["relative_path"]
    volumePath = pairs["volume_path"]
    absolutePath = pairs["absolute_win32_path"]
    guard relativePath != nil || volumePath != nil || absolutePath != nil else {
      throw .corrupt("the parent locator names no file")
    }
  }

  private static func pairs(_ bytes: RawSpan, count: Int) throws(ImageError) -> [String: String] {
    var pairs: [String: String] = [:]
    // Texts may lie in any order, but not on top of each other: this bounds what a small item can expand to.
    var remaining = bytes.byteCount
    for index in 0..<count {
      let start = 20 + index * 12
      let keyOffset: UInt32 = try bytes.number(at: start)
      let valueOffset: UInt32 = try bytes.number(at: start + 4)
      let keyByteCount: UInt16 = try bytes.number(at: start + 8)
      let valueByteCount: UInt16 = try bytes.number(at: start + 10)
      remaining -= Int(keyByteCount) + Int(valueByteCount)
      guard remaining >= 0 else { throw .corrupt("the texts of the parent locator overlap at pair \(index)") }
      let key = try text(bytes, keyOffset, keyByteCount, "key \(index)")
      let value = try text(bytes, valueOffset, valueByteCount, "value \(index)")
      guard pairs.updateValue(value, forKey: key) == nil else {
        throw .corrupt("the parent locator has two values at pair \(index) for one key")
      }
    }
    return pairs
  }

  private static func text(_ bytes: RawSpan, _ offset: UInt32, _ byteCount: UInt16, _ name: String)
    throws(ImageError) -> String
  {
    guard byteCount > 0, byteCount % 2 == 0, let part = bytes.bytes(at: Int(offset), count: Int(byteCount)) else {
      throw .corrupt(
        "\(name) of the parent locator (\(byteCount) bytes at \(UInt64(offset).hex)) is no text inside its "
          + "\(bytes.byteCount) bytes")
    }
    var units: [UInt16] = []
    for index in 0..<part.count / 2 { units.append(try part.rawBytes.number(at: index * 2)) }
    guard !units.contains(0) else { throw .corrupt("\(name) of the parent locator holds a NUL") }
    return String(decoding: units, as: UTF16.self)
  }

  private static func guid(_ key: String, _ pairs: [String: String]) throws(ImageError) -> GUID? {
    guard let text = pairs[key] else { return nil }
    guard let guid = GUID(text: text) else { throw .corrupt("\(key) of the parent locator is no GUID") }
    return guid
  }
}
