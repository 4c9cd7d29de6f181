import FuzzSupport
import PlatterCore
import PlatterVMDK

/// The first byte picks what the rest is: the text of a descriptor, or a list of patches (2 bytes of place, 1 of
/// length, then the bytes) to a small valid extent: hosted sparse, streamOptimized or VMFSSPARSE.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzVMDK(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let input = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  guard let choice = input.first else { return 0 }
  let rest = Array(input.dropFirst())
  let bytes =
    switch choice % 4 {
    case 0: Array("# Disk DescriptorFile\n".utf8) + rest
    case 1: Seed.sparse.patched(by: rest)
    case 2: Seed.stream.patched(by: rest)
    default: Seed.vmfsSparse.patched(by: rest)
    }
  for isForFactsOnly in [false, true] {
    do throws(ImageError) {
      let map = try VMDK.open(MemoryStore(bytes, name: "fuzz"), OpenContext(isForFactsOnly: isForFactsOnly))
      _ = map.facts
      walk(map)
      if map.byteCount < 1 << 40 { _ = try (map as? any CheckableMap)?.check(workers: 1) { _ in true } }
    } catch {}
  }
  return 0
}

private enum Seed {
  private static let text =
    "# Disk DescriptorFile\nversion=1\nencoding=\"GBK\"\nCID=12345678\nparentCID=00000001\n"
    + "createType=\"monolithicSparse\"\nparentFileNameHint=\"a\\b.vmdk\"\nRW 8192 SPARSE \"x.vmdk\"\n"
    + "ddb.adapterType = \"ide\"\n"

  /// Header, descriptor at 1, redundant directory at 2 with tables at 3 and 7, directory at 11 with tables at 12 and
  /// 16, grains of 8 sectors from 24 on.
  static let sparse: [UInt8] = {
    var file = [UInt8](repeating: 0, count: 40 * 512)
    putHeader(&file, at: 0, flags: 7, compression: 0, redundant: 2, directory: 11)
    file.put(Array(text.utf8), at: 512)
    for (directory, table) in [(2, 3), (11, 12)] {
      file.put(UInt32(table), at: directory * 512)
      file.put(UInt32(table + 4), at: directory * 512 + 4)
      file.put(UInt32(24), at: table * 512)
      file.put(UInt32(1), at: table * 512 + 4)
      file.put(UInt32(32), at: (table + 4) * 512 + 8)
    }
    return file
  }()

  /// Header, descriptor at 1, a grain at 8, the directory at 16 with tables at 17 and 21, marker, footer and end
  /// marker.
  static let stream: [UInt8] = {
    var file = [UInt8](repeating: 0, count: 28 * 512)
    putHeader(&file, at: 0, flags: 0x30001, compression: 1, redundant: 0, directory: .max)
    putHeader(&file, at: 26 * 512, flags: 0x30001, compression: 1, redundant: 0, directory: 16)
    file.put(Array(text.utf8), at: 512)
    file.put(UInt64(8), at: 8 * 512)
    file.put(UInt32(20), at: 8 * 512 + 8)
    file.put(UInt32(17), at: 16 * 512)
    file.put(UInt32(21), at: 16 * 512 + 4)
    file.put(UInt32(8), at: 17 * 512 + 4)
    file.put(UInt64(1), at: 25 * 512)
    file.put(UInt32(3), at: 25 * 512 + 12)
    return file
  }()

  static let vmfsSparse: [UInt8] = {
    var file = [UInt8](repeating: 0, count: (5 + 32 + 8) * 512)
    file.put(Array("COWD".utf8), at: 0)
    for (offset, value) in [(4, 1), (8, 3), (12, 8192), (16, 1), (20, 4), (24, 2)] {
      file.put(UInt32(value), at: offset)
    }
    file.put(UInt32(5), at: 2048)
    for entry in 0..<8 { file.put(UInt32(37 + entry), at: 2560 + entry * 4) }
    return file
  }()

  private static func putHeader(
    _ file: inout [UInt8], at place: Int, flags: UInt32, compression: UInt16, redundant: UInt64, directory: UInt64
  ) {
    file.put(UInt32(0x564d_444b), at: place)
    file.put(UInt32(1), at: place + 4)
    file.put(flags, at: place + 8)
    for (offset, value) in [(12, 8192), (20, 8), (28, 1), (36, 1)] as [(Int, UInt64)] {
      file.put(value, at: place + offset)
    }
    file.put(UInt32(512), at: place + 44)
    file.put(redundant, at: place + 48)
    file.put(directory, at: place + 56)
    file.put(UInt64(8), at: place + 64)
    file.put([0x0a, 0x20, 0x0d, 0x0a], at: place + 73)
    file.put(compression, at: place + 77)
  }
}
