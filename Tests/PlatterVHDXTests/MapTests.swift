import PlatterCore
import PlatterVHDX
import Testing

@Suite struct MapTests {
  @Test("present blocks give their bytes, every other state gives zeros")
  func states() throws {
    var builder = VHDXBuilder()
    builder.diskByteCount = 7 << 20
    let first = [UInt8].pattern(1, count: 1 << 20)
    let last = [UInt8].pattern(2, count: 1 << 20)
    builder.blocks = [
      0: .present(first), 1: .entry(0), 2: .entry(1), 3: .entry(2), 4: .entry(3 | 9 << 20), 5: .entry(5),
      6: .present(last),
    ]
    let map = try open(builder.store())
    #expect(try readGuest([map]) == first + [UInt8](repeating: 0, count: 5 << 20) + last)
    #expect(try runs(map).map(\.kind) == [.data, .absent, .zero, .data])
    #expect(map.allocationUnit == 1 << 20)
    #expect(map.backing == nil)
  }
}
