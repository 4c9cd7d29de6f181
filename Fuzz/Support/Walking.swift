package import PlatterCore

/// Maps a disk from its start, some steps far: a disk of 64 TiB is no fault.
package func walk(_ map: any ImageMap) {
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

extension [UInt8] {
  package mutating func put(_ bytes: [UInt8], at offset: Int) {
    replaceSubrange(offset..<offset + bytes.count, with: bytes)
  }

  package mutating func put<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int) {
    withMutableRawBytes { $0.storeLittleEndian(value, at: offset) }
  }

  /// The bytes with a list of patches applied: 2 bytes of place, 1 of length, then the bytes. A length from 240 on cuts
  /// the file there instead.
  package func patched(by input: [UInt8]) -> [UInt8] {
    var file = self
    var position = 0
    while position + 3 <= input.count {
      let place = (Int(input[position]) << 8 | Int(input[position + 1])) % file.count
      let length = Int(input[position + 2])
      if length >= 240 { return Array(file.prefix(place)) }
      let count = Swift.min(length % 17, input.count - position - 3, file.count - place)
      file.put(Array(input[position + 3..<position + 3 + count]), at: place)
      position += 3 + count
    }
    return file
  }
}
