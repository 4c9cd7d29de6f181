import PlatterCore

/// Features that a reader must understand [QCOW2 specification, incompatible_features].
package struct IncompatibleFeatures: OptionSet, Sendable {
  package let rawValue: UInt64
  package init(rawValue: UInt64) { self.rawValue = rawValue }
  /// Refcounts may lag behind.
  package static let dirty = Self(rawValue: 1 << 0)
  /// Something is broken: read only.
  package static let corrupt = Self(rawValue: 1 << 1)
  package static let dataFile = Self(rawValue: 1 << 2)
  /// The header's compression type is not deflate.
  package static let compressionType = Self(rawValue: 1 << 3)
  package static let extendedL2 = Self(rawValue: 1 << 4)
  package static let known: Self = [.dirty, .corrupt, .dataFile, .compressionType, .extendedL2]
}

/// Features that may be ignored.
package struct CompatibleFeatures: OptionSet, Sendable {
  package let rawValue: UInt64
  package init(rawValue: UInt64) { self.rawValue = rawValue }
  package static let lazyRefcounts = Self(rawValue: 1 << 0)
}

/// Features whose bit a writer that does not know them clears first.
package struct AutoclearFeatures: OptionSet, Sendable {
  package let rawValue: UInt64
  package init(rawValue: UInt64) { self.rawValue = rawValue }
  /// The bitmaps are consistent with the disk.
  package static let bitmaps = Self(rawValue: 1 << 0)
  package static let rawDataFile = Self(rawValue: 1 << 1)
  package static let known: Self = [.bitmaps, .rawDataFile]
}

/// Names that the image itself gives to feature bits, so that a reader can say what it does not know.
package struct FeatureNames: Sendable, Equatable {
  package enum Kind: UInt8, Sendable {
    case incompatible = 0
    case compatible = 1
    case autoclear = 2
  }

  static let entryByteCount = 48
  static let nameByteCount = 46
  private let bytes: [UInt8]

  /// - Parameter bytes: the extension's data; what a last entry lacks of its size is taken for zeros, as QEMU does.
  package init(parsing bytes: [UInt8]) {
    let missing = (Self.entryByteCount - bytes.count % Self.entryByteCount) % Self.entryByteCount
    self.bytes = bytes + [UInt8](repeating: 0, count: missing)
  }

  /// The image's name for a bit, or nil where it gives none.
  package func name(_ kind: Kind, bit: Int) -> String? {
    var offset = 0
    while offset + Self.entryByteCount <= bytes.count {
      if bytes[offset] == kind.rawValue, Int(bytes[offset + 1]) == bit {
        let name = bytes[(offset + 2)..<(offset + 2 + Self.nameByteCount)].prefix { $0 != 0 }
        return name.isEmpty ? nil : String(decoding: name, as: UTF8.self)
      }
      offset += Self.entryByteCount
    }
    return nil
  }

  /// The set bits that the image has names for, then the others as one mask, in QEMU's words.
  package func describe(_ features: IncompatibleFeatures) -> String {
    var parts: [String] = []
    var nameless: UInt64 = 0
    for bit in 0..<64 where features.rawValue >> bit & 1 == 1 {
      if let name = name(.incompatible, bit: bit) { parts.append(name) } else { nameless |= 1 << bit }
    }
    if nameless != 0 { parts.append("Unknown incompatible feature: \(String(nameless, radix: 16))") }
    return parts.joined(separator: ", ")
  }
}
