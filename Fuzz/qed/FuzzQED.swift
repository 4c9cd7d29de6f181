import PlatterCore
import PlatterQED

/// The input is a list of patches to a small valid file: 2 bytes of place, 1 of length, then the bytes.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzQED(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let input = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  let store = MemoryStore(Seed.file(patchedBy: input), name: "fuzz")
  do throws(ImageError) {
    let map = try QED.open(store, OpenContext())
    _ = map.facts
    walk(map)
    // A cluster of 64 MiB makes tables of any length, but none that is not in the file.
    _ = try (map as? any CheckableMap)?.check(workers: 1) { _ in true }
  } catch {}
  return 0
}

/// Maps the disk from its start, some steps far.
private func walk(_ map: any ImageMap) {
  var position: UInt64 = 0
  var steps = 0
  do throws(ImageError) {
    while position < map.byteCount, steps < 64 {
      var runs: [Extent] = []
      let end = try map.map(position..<map.byteCount, limit: 16, into: &runs)
      precondition(end > position && end <= map.byteCount && !runs.isEmpty && runs.count <= 16)
      precondition(runs[0].start == position && runs[runs.count - 1].end == end)
      position = end
      steps += 1
    }
  } catch {}
}

/// Five clusters of 4 KiB: header with a backing name, L1 table, L2 table, two data clusters.
private enum Seed {
  private static let base: [UInt8] = {
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

  static func file(patchedBy input: [UInt8]) -> [UInt8] {
    var file = base
    var position = 0
    while position + 3 <= input.count {
      let place = (Int(input[position]) << 8 | Int(input[position + 1])) % file.count
      let length = Int(input[position + 2])
      // Lengths from 240 on cut the file instead.
      if length >= 240 { return Array(file.prefix(place)) }
      let count = min(length % 17, input.count - position - 3, file.count - place)
      file.replaceSubrange(place..<place + count, with: input[position + 3..<position + 3 + count])
      position += 3 + count
    }
    return file
  }
}
