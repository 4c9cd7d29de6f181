import PlatterCore
import SystemPackage

extension BitmapRecord {
  /// A new bitmap, without a table yet.
  init(name: [UInt8], granularityBits: UInt8, flags: Flags) {
    tableOffset = 0
    tableEntryCount = 0
    self.flags = flags
    self.granularityBits = granularityBits
    extra = []
    self.name = name
  }

  /// Bytes of the entry in the directory, padding included.
  var encodedByteCount: UInt64 { UInt64(Self.fixedByteCount + extra.count + name.count + 7) / 8 * 8 }

  /// The entry as it lies in the directory, padding included.
  var encoded: [UInt8] {
    var bytes = [UInt8](repeating: 0, count: Self.fixedByteCount)
    bytes.withMutableRawBytes { raw in
      raw.storeBigEndian(tableOffset, at: 0)
      raw.storeBigEndian(tableEntryCount, at: 8)
      raw.storeBigEndian(flags.rawValue, at: 12)
      raw.storeBigEndian(UInt8(1), at: 16)
      raw.storeBigEndian(granularityBits, at: 17)
      raw.storeBigEndian(UInt16(name.count), at: 18)
      raw.storeBigEndian(UInt32(extra.count), at: 20)
    }
    bytes += extra
    bytes += name
    bytes += [UInt8](repeating: 0, count: (8 - bytes.count % 8) % 8)
    return bytes
  }

  var printableName: String { FilePath(String(decoding: name, as: UTF8.self)).printable }
}
