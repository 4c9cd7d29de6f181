import PlatterCodecs
import PlatterCore
package import TestSupport

/// Images for the bottom of a chain, laid out from their specifications: the plain case of each format.
package enum BaseImage {
  package static let formats = ["raw", "qcow2", "qed", "vmdk", "vhdx"]

  /// - Parameter content: whole sectors.
  package static func make(_ format: String, _ content: [UInt8], backing: String? = nil) -> PagedBytes {
    switch format {
    case "qcow2": qcow2(content, backing)
    case "qed": qed(content)
    case "vmdk": vmdk(content)
    case "vhdx": vhdx(content)
    default: PagedBytes(content)
    }
  }

  /// The pieces of a disk that are not all zeros.
  private static func pieces(_ content: [UInt8], _ size: Int) -> [(index: Int, bytes: [UInt8])] {
    stride(from: 0, to: content.count, by: size).compactMap { start in
      let bytes = content.part(start..<min(start + size, content.count))
      return bytes.rawBytes.isAllZero ? nil : (start / size, bytes)
    }
  }

  private static func qcow2(_ content: [UInt8], _ backing: String?) -> PagedBytes {
    var image = QCOW2Builder(byteCount: UInt64(content.count), clusterBits: 9)
    if let backing {
      image.backingName = Array(backing.utf8)
      image.backingFormat = "raw"
    }
    for (index, bytes) in pieces(content, 512) { image.entries[index] = .data(bytes) }
    return PagedBytes(image.build().bytes)
  }

  /// Header, L1 table, L2 tables of one cluster each, then data [QED specification].
  private static func qed(_ content: [UInt8]) -> PagedBytes {
    let cluster = 4096
    let perTable = cluster / 8
    var file = PagedBytes()
    let tables = content.count / (cluster * perTable) + 1
    var end = UInt64((2 + tables) * cluster)
    var header: [UInt8] = Array("QED\0".utf8)
    for value in [UInt32(cluster), 1, 1] { header += littleEndian(value) }
    for value in [UInt64(0), 0, 0, UInt64(cluster), UInt64(content.count)] { header += littleEndian(value) }
    file.write(header.rawBytes, at: 0)
    for index in 0..<tables { file.put(littleEndian(UInt64((2 + index) * cluster)), at: cluster + index * 8) }
    for (index, bytes) in pieces(content, cluster) {
      file.put(littleEndian(end), at: (2 + index / perTable) * cluster + index % perTable * 8)
      file.put(bytes, at: Int(end))
      end += UInt64(cluster)
    }
    file.resize(to: end)
    return file
  }

  /// Header, descriptor, grain directory, grain tables, grains of 4 KiB [Virtual Disk Format 5.0, hosted sparse extent].
  private static func vmdk(_ content: [UInt8]) -> PagedBytes {
    let grain = 4096
    let sectors = content.count / 512
    let tables = sectors / (512 * 8) + 1
    let text =
      "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n"
      + "RW \(sectors) SPARSE \"base.vmdk\"\n"
    let directory = 24
    var header = littleEndian(UInt32(0x564d_444b)) + littleEndian(UInt32(1)) + littleEndian(UInt32(1))
    for value in [UInt64(sectors), 8, 1, 20] { header += littleEndian(value) }
    let overhead = (directory + 8 + tables * 4 + 7) / 8 * 8
    header += littleEndian(UInt32(512)) + littleEndian(UInt64(0)) + littleEndian(UInt64(directory))
    header += littleEndian(UInt64(overhead)) + [0, 0x0a, 0x20, 0x0d, 0x0a, 0, 0]
    var file = PagedBytes()
    file.put(header, at: 0)
    file.put(Array(text.utf8), at: 512)
    for index in 0..<tables {
      file.put(littleEndian(UInt32(directory + 8 + index * 4)), at: directory * 512 + index * 4)
    }
    var end = overhead
    for (index, bytes) in pieces(content, grain) {
      file.put(littleEndian(UInt32(end)), at: (directory + 8) * 512 + index * 4)
      file.put(bytes, at: end * 512)
      end += 8
    }
    file.resize(to: UInt64(end * 512))
    return file
  }

  /// Both headers, both region tables, metadata, one BAT region, blocks of 1 MiB [MS-VHDX].
  private static func vhdx(_ content: [UInt8]) -> PagedBytes {
    let megabyte = 1 << 20
    var file = PagedBytes()
    file.put(Array("vhdxfile".utf8), at: 0)
    for slot in 1...2 {
      var header = Array("head".utf8) + littleEndian(UInt32(0)) + littleEndian(UInt64(slot))
      header += [UInt8](repeating: 7, count: 32) + [UInt8](repeating: 0, count: 16)
      header += littleEndian(UInt16(0)) + littleEndian(UInt16(1)) + littleEndian(UInt32(megabyte))
      header += littleEndian(UInt64(megabyte))
      file.put(withChecksum(header.resized(to: 4096)), at: slot << 16)
    }
    var regions = Array("regi".utf8) + littleEndian(UInt32(0)) + littleEndian(UInt32(2)) + littleEndian(UInt32(0))
    for (guid, place) in [("2dc27766f62342009d64115e9bfd4a08", 3), ("8b7ca20647904b9ab8fe575f050f886e", 2)] {
      regions += guidBytes(guid) + littleEndian(UInt64(place * megabyte))
      regions += littleEndian(UInt32(megabyte)) + littleEndian(UInt32(1))
    }
    for copy in 3...4 { file.put(withChecksum(regions.resized(to: 1 << 16)), at: copy << 16) }
    let items: [(String, [UInt8], UInt32)] = [
      ("caa16737fa364d43b3b633f0aa44e76b", littleEndian(UInt32(megabyte)) + littleEndian(UInt32(0)), 4),
      ("2fa54224cd1b4876b2115dbed83bf4b8", littleEndian(UInt64(content.count)), 6),
      ("8141bf1da96f4709ba47f233a8faab5f", littleEndian(UInt32(512)), 6),
      ("cda348c7445d44719cc9e9885251c556", littleEndian(UInt32(512)), 6),
      ("beca12abb2e6452393efc309e000c746", [UInt8](repeating: 1, count: 16), 6),
    ]
    var table = Array("metadata".utf8) + [0, 0] + littleEndian(UInt16(items.count))
    table = table.resized(to: 32)
    var place = 1 << 16
    for (guid, bytes, flags) in items {
      table += guidBytes(guid) + littleEndian(UInt32(place)) + littleEndian(UInt32(bytes.count))
      table += littleEndian(flags) + littleEndian(UInt32(0))
      file.put(bytes, at: 2 * megabyte + place)
      place += bytes.count
    }
    file.put(table, at: 2 * megabyte)
    var end = 4 * megabyte
    for (index, bytes) in pieces(content, megabyte) {
      file.put(littleEndian(UInt64(end) | 6), at: 3 * megabyte + index * 8)
      file.put(bytes, at: end)
      end += megabyte
    }
    file.resize(to: UInt64(end))
    return file
  }

  private static func guidBytes(_ text: String) -> [UInt8] {
    let digits = text.compactMap(\.hexDigitValue)
    let bytes = stride(from: 0, to: 32, by: 2).map { UInt8(digits[$0] * 16 + digits[$0 + 1]) }
    return [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map { bytes[$0] }
  }

  /// With the checksum at byte 4, which counts as 0 in it.
  private static func withChecksum(_ bytes: [UInt8]) -> [UInt8] {
    var bytes = bytes
    bytes.put(littleEndian(CRC32C.checksum(of: bytes.rawBytes)), at: 4)
    return bytes
  }

  private static func littleEndian<T: FixedWidthInteger>(_ value: T) -> [UInt8] { bigEndianBytes(value).reversed() }
}

extension PagedBytes {
  mutating func put(_ bytes: [UInt8], at offset: Int) { write(bytes.rawBytes, at: UInt64(offset)) }
}
