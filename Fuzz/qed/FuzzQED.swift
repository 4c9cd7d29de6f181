import FuzzSupport
import PlatterCore
import PlatterQED

/// The input is a list of patches to a small valid file: 2 bytes of place, 1 of length, then the bytes.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzQED(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let input = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  let store = MemoryStore(Seed.file.patched(by: input), name: "fuzz")
  do throws(ImageError) {
    let map = try QED.open(store, OpenContext())
    _ = map.facts
    walk(map)
    // A cluster of 64 MiB makes tables of any length, but none that is not in the file.
    _ = try (map as? any CheckableMap)?.check(workers: 1) { _ in true }
  } catch {}
  return 0
}

/// Five clusters of 4 KiB: header with a backing name, L1 table, L2 table, two data clusters.
private enum Seed {
  static let file: [UInt8] = {
    var file = [UInt8](repeating: 0, count: 5 << 12)
    file.withMutableRawBytes { file in
      file.storeLittleEndian(UInt32(0x0044_4551), at: 0)
      file.storeLittleEndian(UInt32(4096), at: 4)
      file.storeLittleEndian(UInt32(1), at: 8)
      file.storeLittleEndian(UInt32(1), at: 12)
      file.storeLittleEndian(UInt64(1), at: 16)
      file.storeLittleEndian(UInt64(4096), at: 40)
      file.storeLittleEndian(UInt64(64 << 20), at: 48)
      file.storeLittleEndian(UInt32(64), at: 56)
      file.storeLittleEndian(UInt32(4), at: 60)
      file.copy(Array("base".utf8).rawBytes, to: 64)
      file.storeLittleEndian(UInt64(8192), at: 4096)
      file.storeLittleEndian(UInt64(12288), at: 8192)
      file.storeLittleEndian(UInt64(1), at: 8200)
      file.storeLittleEndian(UInt64(16384), at: 8208)
    }
    return file
  }()
}
