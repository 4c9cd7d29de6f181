import PlatterCore
import PlatterVHDX
import Testing

@Suite struct CheckTests {
  private func check(_ builder: VHDXBuilder, appending count: Int = 0) throws -> CheckReport {
    let map = try open(MemoryStore(builder.build() + [UInt8](repeating: 0, count: count)))
    return try map.check(workers: 2) { _ in true }
  }

  @Test("a sound file has no findings, and its blocks are counted")
  func sound() throws {
    var builder = VHDXBuilder()
    builder.blocks = [0: .present([1]), 1: .entry(2), 2: .present([2]), 3: .entry(3)]
    let report = try check(builder)
    #expect(report.corruptions == 0 && report.leaks == 0 && report.messages.isEmpty)
    #expect(report.totalClusters == 4)
    #expect(report.allocatedClusters == 2)
    #expect(report.fragmentedClusters == 0)
    #expect(report.imageEndOffset == 6 << 20)
  }

  @Test("a sound child has no findings")
  func soundChild() throws {
    let report = try check(child { $0.blocks = [1: .partial([3: [UInt8](repeating: 1, count: 512)])] })
    #expect(report.corruptions == 0 && report.leaks == 0 && report.messages.isEmpty)
    #expect(report.allocatedClusters == 1)
  }

  @Test("two blocks in one place are found")
  func sharedBlock() throws {
    var builder = VHDXBuilder()
    builder.blocks = [0: .present([1]), 2: .entry(6 | 4 << 20)]
    let report = try check(builder)
    #expect(report.corruptions == 1)
    #expect(report.messages == ["block 2 at 0x400000 shares the MiB at 0x400000 with another block"])
  }

  @Test("blocks that overlap in part are found")
  func overlap() throws {
    var builder = VHDXBuilder()
    builder.blockByteCount = 2 << 20
    builder.blocks = [0: .present([1]), 1: .entry(6 | 5 << 20)]
    let report = try check(builder, appending: 1 << 20)
    #expect(report.corruptions == 1)
    #expect(report.messages.first?.contains("shares the MiB at 0x500000") == true)
  }

  @Test("a payload block on top of a sector bitmap is found")
  func sharedBitmap() throws {
    let report = try check(
      child { $0.blocks = [0: .partial([0: [UInt8](repeating: 1, count: 512)]), 1: .entry(6 | 5 << 20)] })
    #expect(report.corruptions == 1)
    #expect(report.messages.first?.hasPrefix("sector bitmap 0 at 0x500000 shares") == true)
  }

  @Test(
    "entries that no reader could follow are counted, each with a sentence",
    arguments: [4, 6, 6 | 1 << 20, 6 | 2 << 20, 6 | 3 << 20, 6 | 1 << 40, 7 | 4 << 20, 8, 2 | 4 << 20] as [UInt64])
  func badEntries(entry: UInt64) throws {
    var builder = VHDXBuilder()
    builder.blocks = [1: .entry(entry), 3: .entry(entry)]
    let report = try check(builder)
    #expect(report.corruptions == 2)
    #expect(report.messages.allSatisfy { $0.contains("BAT entry 1 (block 1)") || $0.contains("BAT entry 3 (block 3)") })
    #expect(report.messages.count == 2)
  }

  @Test("a bitmap where there is no parent, and entries of no block, are found")
  func strayEntries() throws {
    var builder = VHDXBuilder()
    builder.blockByteCount = 256 << 20
    builder.diskByteCount = 17 * 256 << 20
    builder.batEntries = [16: 6 | 4 << 20]
    let report = try check(builder, appending: 1 << 20)
    #expect(report.corruptions == 1)
    #expect(report.messages.first?.contains("is present, but the file has no parent") == true)
    let unused = try check(child { $0.batEntries = [7: 2] })
    #expect(unused.corruptions == 1)
    #expect(unused.messages == ["BAT entry 7 is 0x2, but belongs to no block"])
  }

  @Test("a bitmap that no block needs is told of, but is no fault")
  func idleBitmap() throws {
    let top = child { $0.blocks = [0: .present([1])] }
    var idle = top
    idle.batEntries = [top.entryIndex(ofBitmap: 0): 6 | 5 << 20]
    let report = try check(idle, appending: 1 << 20)
    #expect(report.corruptions == 0 && report.leaks == 0)
    #expect(report.messages.count == 1)
  }

  @Test("room for a block that nobody owns is a leak; gaps before the first block are not")
  func leaks() throws {
    var builder = VHDXBuilder()
    builder.blocks = [0: .entry(6 | 6 << 20), 1: .entry(6 | 9 << 20)]
    let report = try check(builder, appending: 8 << 20)
    #expect(report.corruptions == 0)
    #expect(report.leaks == 4)
    #expect(report.messages == ["2 MiB at 0x700000 belong to nothing", "2 MiB at 0xa00000 belong to nothing"])
    #expect(report.fragmentedClusters == 1)
  }

  @Test("the place that an unmapped block keeps is no leak, wherever it says it is", arguments: [1, 3, 5] as [UInt64])
  func reservedSpace(state: UInt64) throws {
    var builder = VHDXBuilder()
    builder.blocks = [0: .present([1]), 1: .entry(state | 5 << 20), 2: .entry(state | .max << 20)]
    let report = try check(builder, appending: 1 << 20)
    #expect(report.corruptions == 0 && report.leaks == 0)
  }

  @Test("a log that lies past the end of a clean file is found")
  func logPastEnd() throws {
    var builder = VHDXBuilder()
    builder.headers[1].logOffset = 1 << 30
    #expect(try check(builder).corruptions == 1)
  }

  @Test("a check can be cancelled, and tells how far it is")
  func progress() throws {
    let map = try open(VHDXBuilder().store())
    let error = #expect(throws: ImageError.self) { try map.check(workers: 1) { $0 != 1 } }
    #expect(error?.code == .cancelled)
  }
}
