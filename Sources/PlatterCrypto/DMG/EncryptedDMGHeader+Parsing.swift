import PlatterCore

extension EncryptedDMGHeader {
  static func readVersion2(_ store: any ByteStore, _ head: [UInt8], _ length: UInt64) throws(ImageError)
    -> EncryptedDMGHeader
  {
    let fields = DMGFields(head.rawBytes, "header")
    try fields.demand(2, at: 8, "version")
    try fields.demand(16, at: 12, "initialisation vector length")
    try fields.demand(5, at: 16, "cipher mode")
    try fields.demand(0x8000_0001, at: 20, "cipher")
    try fields.demand(0x5b, at: 28, "vector algorithm")
    try fields.demand(160, at: 32, "vector key size")
    var header = try EncryptedDMGHeader(
      version: 2, keyBits: fields.number(24), blockByteCount: fields.number(52), dataOffset: fields.number(64),
      dataByteCount: fields.number(56), dataLimit: length)
    let itemCount: UInt32 = try fields.number(72)
    guard itemCount >= 1, itemCount <= maximumItemCount else {
      throw .corrupt("encrypted disk image: \(itemCount) key items are outside 1 to \(maximumItemCount)")
    }
    let items = try store.readFully("table of key items", at: 76, count: Int(itemCount) * 20)
    let entries = DMGFields(items.rawBytes, "table of key items")
    for index in 0..<Int(itemCount) {
      let kind: UInt32 = try entries.number(index * 20)
      guard kind == 1 else {
        header.otherItemCount += 1
        continue
      }
      let offset: UInt64 = try entries.number(index * 20 + 4)
      let byteCount: UInt64 = try entries.number(index * 20 + 12)
      guard byteCount >= 104, byteCount <= 1 << 16 else {
        throw .corrupt("encrypted disk image: key item \(index) has \(byteCount) bytes, not 104 to 65536")
      }
      let body = try store.readFully("key item \(index)", at: offset, count: Int(byteCount))
      header.wrappings.append(try Wrapping(parsing: body.rawBytes))
    }
    return header
  }

  /// Source: published descriptions; no file of Apple's was at hand.
  static func readVersion1(_ store: any ByteStore, _ length: UInt64) throws(ImageError) -> EncryptedDMGHeader {
    guard let footerOffset = length.subtracting(UInt64(EncryptedDMG.footerByteCount)) else {
      throw .truncated("encrypted disk image has \(length) bytes, less than its footer")
    }
    let footer = try store.readFully("footer", at: footerOffset, count: EncryptedDMG.footerByteCount)
    let end = DMGFields(footer.rawBytes, "footer")
    guard try end.field(12, 8) == EncryptedDMG.tailSignature else {
      throw .corrupt("encrypted disk image: no signature at either end")
    }
    try end.demand(1, at: 8, "version")
    let headerOffset: UInt64 = try end.number(0)
    guard headerOffset <= footerOffset, footerOffset - headerOffset >= 0x4e8 else {
      throw .corrupt(
        "encrypted disk image: header at \(headerOffset.hex) lies past the end of the file (\(length.hex))")
    }
    let bytes = try store.readFully("header", at: headerOffset, count: 0x4e8)
    let fields = DMGFields(bytes.rawBytes, "header")
    var header = try EncryptedDMGHeader(
      version: 1, keyBits: fields.number(0x64), blockByteCount: fields.number(0x10), dataOffset: 0,
      dataByteCount: headerOffset.roundedDown(toMultipleOf: 512), dataLimit: headerOffset)
    let saltByteCount: UInt32 = try fields.number(0x34)
    guard saltByteCount <= Self.saltByteCount else {
      throw .corrupt("encrypted disk image: a salt of \(saltByteCount) bytes is longer than \(Self.saltByteCount)")
    }
    let cipherKey = try blob(fields, at: 0x88, maximum: 296)
    let codeKey = try blob(fields, at: 0x1b4, maximum: 300)
    header.wrappings = [
      Wrapping(
        iterations: try Wrapping.iterations(fields.number(0x2c)), salt: try fields.field(0x38, Int(saltByteCount)),
        content: .separate(cipherKey: cipherKey, codeKey: codeKey))
    ]
    return header
  }

  fileprivate static func blob(_ fields: borrowing DMGFields, at offset: Int, maximum: UInt32) throws(ImageError)
    -> [UInt8]
  {
    let byteCount: UInt32 = try fields.number(offset)
    guard byteCount > 0, byteCount <= maximum, byteCount % UInt32(TripleDES.blockByteCount) == 0 else {
      throw .corrupt("encrypted disk image: a wrapped key of \(byteCount) bytes is not 8 to \(maximum) in blocks of 8")
    }
    return try fields.field(offset + 4, Int(byteCount))
  }
}

extension EncryptedDMGHeader.Wrapping {
  /// The body of a passphrase item.
  init(parsing bytes: RawSpan) throws(ImageError) {
    let fields = DMGFields(bytes, "key item")
    try fields.demand(0x67, at: 0, "key derivation")
    try fields.demand(0, at: 4, "upper half of the iteration count")
    iterations = try Self.iterations(UInt64(try fields.number(8, as: UInt32.self)))
    let saltByteCount: UInt32 = try fields.number(12)
    guard saltByteCount <= EncryptedDMGHeader.saltByteCount else {
      throw .corrupt(
        "encrypted disk image: a salt of \(saltByteCount) bytes is longer than \(EncryptedDMGHeader.saltByteCount)")
    }
    salt = try fields.field(16, Int(saltByteCount))
    try fields.demand(UInt32(TripleDES.blockByteCount), at: 48, "vector length of the wrapped key")
    try fields.demand(192, at: 84, "key size of the wrapped key")
    try fields.demand(0x11, at: 88, "cipher of the wrapped key")
    try fields.demand(7, at: 92, "padding of the wrapped key")
    try fields.demand(6, at: 96, "cipher mode of the wrapped key")
    content = .pair(
      iv: try fields.field(52, TripleDES.blockByteCount),
      blob: try EncryptedDMGHeader.blob(fields, at: 100, maximum: EncryptedDMGHeader.maximumBlobByteCount))
  }

  static func iterations(_ iterations: UInt64) throws(ImageError) -> UInt64 {
    guard iterations >= 1, iterations <= EncryptedDMG.maximumIterations else {
      throw .corrupt(
        "encrypted disk image: \(iterations) iterations are outside 1 to \(EncryptedDMG.maximumIterations)")
    }
    return iterations
  }
}
