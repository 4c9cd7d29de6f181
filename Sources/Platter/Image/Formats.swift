package import PlatterCore
import PlatterDMG
import PlatterLUKS
import PlatterQCOW2
import PlatterQED
import PlatterRaw
import PlatterVHDX
import PlatterVMDK

/// The formats that this library opens, and those it knows by sight only.
package enum Formats {
  /// In the order in which ties between probes are decided.
  package static let all: [any ImageFormat.Type] = [
    QCOW2.self, QED.self, VMDK.self, VHDX.self, LUKS.self, DMG.self, Raw.self,
  ]

  /// The surest answer that a probe can give.
  package static let certain = 100

  /// The format with this name; throws `.unsupported` for another.
  package static func named(_ name: String) throws(ImageError) -> any ImageFormat.Type {
    for format in all where format.name == name { return format }
    throw ImageError(.unsupported, "Unknown driver '\(name)'")
  }

  /// A format that the content speaks for.
  package struct Match: Sendable {
    package var format: any ImageFormat.Type
    package var score: Int
  }

  /// All formats that the content speaks for, the surest first. Raw is always among them.
  package static func probe(_ store: any ByteStore) throws(ImageError) -> [Match] {
    let head = try store.readPrefix(count: ProbeHead.byteCount)
    var matches: [Match] = []
    for format in all {
      let score = try format.probe(head.rawBytes, store)
      if score > 0 { matches.append(Match(format: format, score: score)) }
    }
    var sorted: [Match] = []
    for match in matches {
      let place = sorted.firstIndex { $0.score < match.score } ?? sorted.endIndex
      sorted.insert(match, at: place)
    }
    return sorted
  }

  /// The name of a format that is known by its signature but not supported, or nil.
  package static func unsupportedSignature(_ head: RawSpan) -> String? {
    let magic: UInt32 = head.bigEndian(at: 0) ?? 0
    if magic == 0x5146_49fb, let version = head.bigEndian(at: 4, as: UInt32.self), version == 1 { return "qcow" }
    if head.bigEndian(at: 0, as: UInt64.self) == 0x636f_6e65_6374_6978 { return "vpc" }
    if head.littleEndian(at: 64, as: UInt32.self) == 0xbeda_107f { return "vdi" }
    if let text = head.bytes(at: 0, count: 16),
      text == Array("WithoutFreeSpace".utf8) || text == Array("WithouFreSpacExt".utf8)
    {
      return "parallels"
    }
    if let text = head.bytes(at: 0, count: 4), text == Array("shdw".utf8) { return "asif" }
    return nil
  }
}
