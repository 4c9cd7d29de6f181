import PlatterCore
import PlatterQCOW2
import TestSupport
import Testing

/// Counts that say that something is free which is not, or cannot be read.
@Suite struct AllocationDamageTests {
  private static let image: [UInt8] = {
    var image = QCOW2Builder(byteCount: 40 * 4096, clusterBits: 12)
    image.entries = [0: .data(filled(1, 4096))]
    return image.build().bytes
  }()

  private func number(_ bytes: [UInt8], at offset: Int) -> Int {
    bytes[offset..<offset + 8].reduce(0) { $0 << 8 | Int($1) }
  }

  /// Scripts look for these sentences in QEMU's programs.
  @Test(
    "the image is marked corrupt, and nothing is written over",
    arguments: [
      (true, "Preventing invalid allocation of data cluster at offset 0"),
      (false, "Refblock offset 0x2200 unaligned (reftable index: 0x0)"),
    ])
  func marked(isFreeHeader: Bool, sentence: String) throws {
    var bytes = Self.image
    let table = number(bytes, at: 48)
    if isFreeHeader {
      bytes[number(bytes, at: table) + 1] = 0
    } else {
      bytes[table + 6] = 0x22
    }
    let store = MemoryStore(bytes)
    let map = try writer(store)
    let error = #expect(throws: ImageError.self) {
      try map.prepareToWrite(noBarrier)
      _ = try map.allocate(4096..<8192)
    }
    #expect(error?.message == sentence + "; the image is marked corrupt")
    var expected = bytes
    expected[79] |= 2
    #expect(Array(store.bytes.prefix(bytes.count)) == expected)
  }
}
