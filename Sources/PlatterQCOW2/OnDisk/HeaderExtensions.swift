package import PlatterCore

/// The chain of extensions behind the header [QCOW2 specification, Header extensions]. All are kept with their bytes
/// and in their order, unknown ones too, so that a rewritten header loses nothing.
package struct HeaderExtensions: Sendable, Equatable {
  package struct Item: Sendable, Equatable {
    package var type: UInt32
    package var bytes: [UInt8]
    package init(type: UInt32, bytes: [UInt8]) {
      self.type = type
      self.bytes = bytes
    }
  }

  package enum Kind {
    package static let end: UInt32 = 0
    package static let backingFormat: UInt32 = 0xe279_2aca
    package static let dataFile: UInt32 = 0x4441_5441
    package static let featureNames: UInt32 = 0x6803_f857
    package static let bitmaps: UInt32 = 0x2385_2875
    package static let crypto: UInt32 = 0x0537_be77
  }

  static let maximumCount = 4096  // ours; QEMU writes at most seven
  static let maximumBackingFormatByteCount = 15  // QEMU's
  static let maximumDataFileNameByteCount = 1023  // QEMU's

  package var items: [Item] = []

  package init() {}

  /// - Parameters:
  ///   - bytes: cluster 0, or what the file has of it.
  ///   - header: says where the extensions start and which backing file's name they end before.
  package init(parsing bytes: RawSpan, _ header: Header) throws(ImageError) {
    var offset = Int(header.headerByteCount)
    let limit = Int(header.backingNameOffset != 0 ? header.backingNameOffset : header.clusterByteCount)
    while offset < limit {
      guard limit - offset >= 8 else {
        throw .corrupt("header extension at \(UInt64(offset).hex) has only \(limit - offset) bytes left of 8")
      }
      guard let type = bytes.bigEndian(at: offset, as: UInt32.self),
        let length = bytes.bigEndian(at: offset + 4, as: UInt32.self)
      else {
        throw .truncated("header extension at \(UInt64(offset).hex) lies past the end of the file")
      }
      if type == Kind.end { return }
      guard UInt64(length) <= UInt64(limit - offset - 8) else {
        throw .corrupt(
          "header extension \(UInt64(type).hex) at \(UInt64(offset).hex) has \(length) bytes, past the end of the "
            + "header area (\(UInt64(limit).hex))")
      }
      guard let data = bytes.bytes(at: offset + 8, count: Int(length)) else {
        throw .truncated(
          "header extension \(UInt64(type).hex) (\(length) bytes at \(UInt64(offset).hex)) lies past the end of the "
            + "file")
      }
      guard items.count < Self.maximumCount else {
        throw .corrupt("the header has more than \(Self.maximumCount) extensions")
      }
      items.append(Item(type: type, bytes: data))
      // The limit is at most 2 MiB, so this cannot overflow.
      offset += 8 + (Int(length) + 7) / 8 * 8
    }
  }

  /// The bytes of the last extension of a type, or nil. The last counts, as in QEMU.
  package func bytes(of type: UInt32) -> [UInt8]? { items.last { $0.type == type }?.bytes }

  package var featureNames: FeatureNames { FeatureNames(parsing: bytes(of: Kind.featureNames) ?? []) }

  /// The format that the image records for its backing file, or nil.
  package func backingFormat() throws(ImageError) -> String? {
    guard let bytes = bytes(of: Kind.backingFormat), !bytes.isEmpty else { return nil }
    guard bytes.count <= Self.maximumBackingFormatByteCount else {
      throw .corrupt(
        "the backing format's name has \(bytes.count) bytes, more than \(Self.maximumBackingFormatByteCount)")
    }
    return String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
  }

  /// The name of the external data file, or nil.
  package func dataFileName() throws(ImageError) -> [UInt8]? {
    guard let bytes = bytes(of: Kind.dataFile), !bytes.isEmpty else { return nil }
    guard bytes.count <= Self.maximumDataFileNameByteCount else {
      throw .corrupt(
        "the data file's name has \(bytes.count) bytes, more than \(Self.maximumDataFileNameByteCount)")
    }
    guard !bytes.contains(0) else { throw .corrupt("the data file's name holds a NUL byte") }
    return bytes
  }
}
