import FuzzSupport
import PlatterCodecs
import PlatterCore
import PlatterVHDX

/// The input is a list of patches to a small valid file (4 bytes of place, 1 of length, then the bytes), after which
/// the checksums of headers, region tables and the first log entry are made right again, so that what lies behind them
/// is reached.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzVHDX(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let input = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  let store = MemoryStore(Seed.file(patchedBy: input), name: "fuzz")
  do throws(ImageError) {
    let map = try VHDX.open(store, OpenContext())
    _ = map.facts
    walk(map)
    _ = try (map as? any CheckableMap)?.check(workers: 1) { _ in true }
    // Into the file as well, unless the log makes it larger than memory should be.
    var context = OpenContext()
    context.isWritable = true
    if try map.stores[0].byteCount() <= 64 << 20 { walk(try VHDX.open(store, context)) }
  } catch {}
  return 0
}

/// A file of 5 MiB: log, metadata with a parent locator, BAT, one block.
private enum Seed {
  private static let base: [UInt8] = {
    var file = [UInt8](repeating: 0, count: 5 << 20)
    file.put(Array("vhdxfile".utf8), at: 0)
    for slot in 1...2 {
      let start = slot << 16
      file.put(Array("head".utf8), at: start)
      file[start + 8] = UInt8(slot)
      file[start + 48] = 0x33
      file[start + 66] = 1
      file.put(littleEndian: 1 << 20, count: 4, at: start + 68)
      file.put(littleEndian: 1 << 20, count: 8, at: start + 72)
    }
    for copy in 0..<2 {
      let start = (192 + 64 * copy) << 10
      file.put(Array("regi".utf8), at: start)
      file[start + 8] = 2
      file.put(
        [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0, 0x42, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 8], at: start + 16)
      file.put(littleEndian: 3 << 20, count: 8, at: start + 32)
      file.put(littleEndian: 1 << 20, count: 4, at: start + 40)
      file.put(
        [0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 5, 0x0f, 0x88, 0x6e], at: start + 48)
      file.put(littleEndian: 2 << 20, count: 8, at: start + 64)
      file.put(littleEndian: 1 << 20, count: 4, at: start + 72)
    }
    file.putMetadata(at: 2 << 20)
    file.put(littleEndian: 4 << 20 | 6, count: 8, at: 3 << 20)
    file.putLogEntry(at: 1 << 20)
    return file
  }()

  static func file(patchedBy input: [UInt8]) -> [UInt8] {
    var file = base
    var position = 0
    while position + 5 <= input.count {
      var place = 0
      for index in 0..<4 { place = place << 8 | Int(input[position + index]) }
      place %= file.count
      let count = min(Int(input[position + 4]) % 33, input.count - position - 5, file.count - place)
      file.put(Array(input[position + 5..<position + 5 + count]), at: place)
      position += 5 + count
    }
    for (start, count) in [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 65536), (256 << 10, 65536)] {
      file.putChecksum(of: start..<start + count)
    }
    let entryByteCount = file.rawBytes.littleEndian(at: 1 << 20 + 8, as: UInt32.self) ?? 0
    file.putChecksum(of: 1 << 20..<1 << 20 + Int(min(entryByteCount, 1 << 20)))
    return file
  }
}

extension Array where Element == UInt8 {
  fileprivate mutating func put(littleEndian value: UInt64, count: Int, at offset: Int) {
    for index in 0..<count { self[offset + index] = UInt8(truncatingIfNeeded: value >> (index * 8)) }
  }

  fileprivate mutating func putChecksum(of range: Range<Int>) {
    guard range.count >= 8 else { return }
    put([0, 0, 0, 0], at: range.lowerBound + 4)
    let checksum = CRC32C.checksum(of: rawBytes.extracting(range))
    put(littleEndian: UInt64(checksum), count: 4, at: range.lowerBound + 4)
  }

  fileprivate mutating func putMetadata(at region: Int) {
    let locator = parentLocator
    let items: [(guid: [UInt8], content: [UInt8], flags: UInt8)] = [
      (
        [0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b],
        [0, 0, 0x10, 0, 2, 0, 0, 0], 4
      ),
      (
        [0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8],
        [0, 0, 0x40, 0, 0, 0, 0, 0], 6
      ),
      (
        [0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45, 0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46],
        [UInt8](repeating: 7, count: 16), 6
      ),
      (
        [0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47, 0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f],
        [0, 2, 0, 0], 6
      ),
      (
        [0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44, 0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56],
        [0, 2, 0, 0], 6
      ),
      ([0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c], locator, 4),
    ]
    put([UInt8]("metadata".utf8), at: region)
    self[region + 10] = UInt8(items.count)
    var next = 64 << 10
    for (index, item) in items.enumerated() {
      let start = region + 32 + index * 32
      put(item.guid, at: start)
      put(littleEndian: UInt64(next), count: 4, at: start + 16)
      put(littleEndian: UInt64(item.content.count), count: 4, at: start + 20)
      self[start + 24] = item.flags
      put(item.content, at: region + next)
      next += item.content.count
    }
  }

  private var parentLocator: [UInt8] {
    let pairs = [("parent_linkage", "{11111111-2222-3333-4444-555555555555}"), ("relative_path", ".\\a.vhdx")]
    var bytes = [UInt8](repeating: 0, count: 20 + pairs.count * 12)
    bytes.put([0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a, 0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13], at: 0)
    bytes[18] = UInt8(pairs.count)
    for (index, pair) in pairs.enumerated() {
      let start = 20 + index * 12
      let texts = [pair.0, pair.1].map { text in text.utf8.flatMap { [$0, UInt8(0)] } }
      bytes.put(littleEndian: UInt64(bytes.count), count: 4, at: start)
      bytes.put(littleEndian: UInt64(bytes.count + texts[0].count), count: 4, at: start + 4)
      bytes.put(littleEndian: UInt64(texts[0].count), count: 2, at: start + 8)
      bytes.put(littleEndian: UInt64(texts[1].count), count: 2, at: start + 10)
      bytes += texts[0] + texts[1]
    }
    return bytes
  }

  /// One page for the BAT, and a zero range behind it.
  fileprivate mutating func putLogEntry(at log: Int) {
    put([UInt8]("loge".utf8), at: log)
    put(littleEndian: 8192, count: 4, at: log + 8)
    self[log + 16] = 1
    self[log + 24] = 2
    self[log + 32] = 0x33
    put([UInt8]("desc".utf8), at: log + 64)
    put([7, 0, 0x40], at: log + 72)
    put(littleEndian: 3 << 20, count: 8, at: log + 80)
    self[log + 88] = 1
    put([UInt8]("zero".utf8), at: log + 96)
    put(littleEndian: 8192, count: 8, at: log + 104)
    put(littleEndian: 3 << 20 + 4096, count: 8, at: log + 112)
    self[log + 120] = 1
    put([UInt8]("data".utf8), at: log + 4096)
    self[log + 8188] = 1
  }
}
