package import PlatterCore

extension Header {
  /// The fixed part and everything behind it in cluster 0: extensions in their order, end mark, name of the backing file.
  ///
  /// The backing name's place follows from the rest, so the fields that say it are set here.
  ///
  /// - Returns: the used bytes, at most a cluster.
  /// - Throws: `.unsupported` where it does not fit into the cluster; nothing is written then.
  package mutating func serialise(_ extensions: HeaderExtensions, backingName: [UInt8] = []) throws(ImageError)
    -> [UInt8]
  {
    let tail = extensions.encoded
    let nameOffset = Int(headerByteCount) + tail.count
    guard UInt64(nameOffset + backingName.count) <= clusterByteCount else {
      throw .unsupported(
        "header, extensions and the backing file's name need \(nameOffset + backingName.count) bytes, more than a "
          + "cluster (\(clusterByteCount))")
    }
    backingNameOffset = backingName.isEmpty ? 0 : UInt64(nameOffset)
    backingNameByteCount = UInt32(backingName.count)
    return fields() + tail + backingName
  }

  private func fields() -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: Int(headerByteCount))
    bytes.withMutableRawBytes { bytes in
      bytes.storeBigEndian(Self.magic, at: 0)
      bytes.storeBigEndian(version, at: 4)
      bytes.storeBigEndian(backingNameOffset, at: 8)
      bytes.storeBigEndian(backingNameByteCount, at: 16)
      bytes.storeBigEndian(clusterBits, at: 20)
      bytes.storeBigEndian(virtualByteCount, at: 24)
      bytes.storeBigEndian(encryption.rawValue, at: 32)
      bytes.storeBigEndian(l1EntryCount, at: 36)
      bytes.storeBigEndian(l1Offset, at: 40)
      bytes.storeBigEndian(refcountTableOffset, at: 48)
      bytes.storeBigEndian(refcountTableClusterCount, at: 56)
      bytes.storeBigEndian(snapshotCount, at: 60)
      bytes.storeBigEndian(snapshotTableOffset, at: 64)
      guard version >= 3 else { return }
      bytes.storeBigEndian(incompatibleFeatures.rawValue, at: 72)
      bytes.storeBigEndian(compatibleFeatures.rawValue, at: 80)
      bytes.storeBigEndian(autoclearFeatures.rawValue, at: 88)
      bytes.storeBigEndian(refcountOrder, at: 96)
      bytes.storeBigEndian(headerByteCount, at: 100)
      guard headerByteCount > Self.version3MinimumByteCount else { return }
      bytes.storeBytes(of: compression.rawValue, toByteOffset: Self.version3MinimumByteCount, as: UInt8.self)
      let known = Self.version3MinimumByteCount + 1
      bytes.copy(unknownBytes.rawBytes.extracting(0..<min(unknownBytes.count, bytes.byteCount - known)), to: known)
    }
    return bytes
  }

  /// A header without features, tables or disk.
  package init(version: UInt32, clusterBits: UInt32) {
    self.version = version
    self.clusterBits = clusterBits
    backingNameOffset = 0
    backingNameByteCount = 0
    virtualByteCount = 0
    encryption = .none
    l1EntryCount = 0
    l1Offset = 0
    refcountTableOffset = 0
    refcountTableClusterCount = 0
    snapshotCount = 0
    snapshotTableOffset = 0
    incompatibleFeatures = []
    compatibleFeatures = []
    autoclearFeatures = []
    refcountOrder = 4
    headerByteCount = version >= 3 ? Self.version3ByteCount : UInt32(Self.version2ByteCount)
    compression = .deflate
    unknownBytes = version >= 3 ? [UInt8](repeating: 0, count: 7) : []
  }
}

extension HeaderExtensions {
  /// The extensions as they lie in the file, and the end mark.
  var encoded: [UInt8] {
    var bytes: [UInt8] = []
    for item in items {
      bytes += withBigEndianBytes(item.type) + withBigEndianBytes(UInt32(item.bytes.count)) + item.bytes
      bytes += [UInt8](repeating: 0, count: (8 - item.bytes.count % 8) % 8)
    }
    return bytes + [UInt8](repeating: 0, count: 8)
  }
}

extension FeatureNames {
  /// What QEMU's images name (observed: qemu-img 7.2), so that older readers can say what they lack.
  package static let standard: [UInt8] = {
    let names: [(Kind, UInt8, String)] = [
      (.incompatible, 0, "dirty bit"), (.incompatible, 1, "corrupt bit"), (.incompatible, 2, "external data file"),
      (.incompatible, 3, "compression type"), (.incompatible, 4, "extended L2 entries"),
      (.compatible, 0, "lazy refcounts"), (.autoclear, 0, "bitmaps"), (.autoclear, 1, "raw external data"),
    ]
    var bytes: [UInt8] = []
    for (kind, bit, name) in names {
      bytes += [kind.rawValue, bit] + Array(name.utf8)
      bytes += [UInt8](repeating: 0, count: nameByteCount - name.utf8.count)
    }
    return bytes
  }()
}
