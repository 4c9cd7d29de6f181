import PlatterCore
import PlatterQCOW2
import TestSupport
import Testing

/// An image whose snapshots share clusters with the present disk more often than its refcounts can say.
struct Surplus: Sendable, CustomTestStringConvertible {
  /// Width of the refcounts, as a power of two.
  var order: UInt32
  /// Snapshots that share data clusters, each with tables of its own.
  var sharingData: Int
  /// Snapshots that share the L2 table of the present disk, and so all that it names.
  var sharingTable: Int
  var testDescription: String { "\(1 << order) bits, data \(sharingData + 1) times, tables \(sharingTable + 1) times" }

  static let all = [
    Surplus(order: 0, sharingData: 1, sharingTable: 0), Surplus(order: 0, sharingData: 0, sharingTable: 1),
    Surplus(order: 0, sharingData: 0, sharingTable: 0), Surplus(order: 1, sharingData: 4, sharingTable: 0),
    Surplus(order: 1, sharingData: 0, sharingTable: 4), Surplus(order: 2, sharingData: 9, sharingTable: 9),
  ]

  var names: [String] { (1..<(1 + sharingData + sharingTable)).map(String.init) }

  func build() -> [UInt8] {
    var image = variedImage()
    image.refcountOrder = order
    image.bitmaps = []
    image.snapshots = names.map { .init(id: $0, name: $0) }
    let hosts = image.build().hostOffsets
    for index in 0..<sharingData {
      image.snapshots[index].entries = [0: .raw(hosts[0] ?? 0), 9: .raw(hosts[9] ?? 0), 12: .data([UInt8(index + 1)])]
    }
    let built = image.build()
    var bytes = built.bytes
    for offset in built.snapshotL1Offsets[sharingData...] { bytes.lie(at: offset, built.l2Offsets[0] ?? 0) }
    return bytes
  }
}

/// The present disk and the snapshots with these names.
func disks(_ bytes: [UInt8], _ names: [String]) throws -> [[[UInt8]?]] {
  let map = try open(bytes)
  return [contents(of: map, bytes)] + (try names.map { contents(of: try map.snapshot(named: $0), bytes) })
}

/// A repair capped the counts, and said that it could not go on.
@Suite("More references than the refcounts can say") struct SurplusRepairTests {
  @Test("version 3: the refcounts become wider, and no byte is copied", arguments: Surplus.all)
  func widened(_ surplus: Surplus) throws {
    let broken = surplus.build()
    #expect(status(try check(broken)) == 2)
    let (fixed, report) = try repair(broken)
    #expect(status(report) == 0, "\(report.messages)")
    #expect(report.messages.contains { $0.contains("refcounts have 16 bits now") }, "\(report.messages)")
    #expect(try check(fixed).messages == [])
    #expect(fixed.word(at: 96) >> 32 == 4)
    // New refcount block and table; the sum is rounded up to what a packed unit might reach.
    #expect(fixed.count <= broken.count + 3 * 4096)
    #expect(try disks(fixed, surplus.names) == disks(broken, surplus.names))
    #expect(try repair(fixed).bytes == fixed)
  }

  @Test("the width that is enough stays", arguments: UInt32(2)...6)
  func kept(order: UInt32) throws {
    let broken = Surplus(order: order, sharingData: 1, sharingTable: 1).build()
    let (fixed, report) = try repair(broken)
    #expect(status(report) == 0, "\(report.messages)")
    #expect(fixed.word(at: 96) >> 32 == UInt64(order))
  }

  @Test("-r leaks leaves the width alone")
  func leaksOnly() throws {
    let broken = Surplus(order: 0, sharingData: 1, sharingTable: 0).build()
    let (fixed, report) = try repair(broken, .leaks)
    #expect(status(report) == 2)
    #expect(fixed[96..<100] == broken[96..<100])
  }

  /// 98,304 guest clusters that are one packed unit, in an image whose refcounts have 16 bits and cannot have more.
  static func version2() -> QCOW2Builder.Built {
    let count = 1 << 15
    var image = QCOW2Builder(byteCount: UInt64(3 * count) << 18, clusterBits: 18)
    image.version = 2
    image.entries = [0: .packed(deflateStored(filled(9, 3000))), count: .raw(0), 2 * count: .raw(0)]
    let built = image.build()
    let word = built.bytes[Int(built.l2Offsets[0] ?? 0)...].prefix(8)
    let table = [UInt8]((0..<count).map { _ in word }.joined())
    for offset in built.l2Offsets.values { image.lies.append((Int(offset), table)) }
    return image.build()
  }

  @Test("version 2: surplus references share copies of their packed unit")
  func copied() throws {
    let built = Self.version2()
    let (fixed, report) = try repair(built.bytes)
    #expect(status(report) == 0, "\(report.messages)")
    // As few copies as there can be, and one for the last round.
    #expect(fixed.count <= built.bytes.count + 4 << 18)
    let unit = Array(built.bytes[Int(built.hostOffsets[0] ?? 0)...].prefix(3000))
    let map = try open(fixed)
    for guest in stride(from: UInt64(0), to: map.byteCount >> 18, by: 997) {
      var found: [Extent] = []
      _ = try map.map(guest << 18..<(guest + 1) << 18, limit: 1, into: &found)
      let run = try #require(found.first)
      #expect(run.kind == .packed)
      #expect(Array(fixed[Int(run.offset)...].prefix(3000)) == unit)
    }
  }
}

@Suite("qemu-img agrees on wider refcounts", .requires(.qemuImg)) struct SurplusInteropTests {
  @Test("what is repaired is clean for qemu-img too", arguments: Surplus.all)
  func widened(_ surplus: Surplus) throws {
    let theirs = try qemuCheck(try repair(surplus.build()).bytes)
    #expect(theirs.status == 0, "\(theirs.text)")
  }

  @Test("version 2 as well")
  func copied() throws {
    let theirs = try qemuCheck(try repair(SurplusRepairTests.version2().bytes).bytes)
    #expect(theirs.status == 0, "\(theirs.text)")
  }
}
