import PlatterCodecs
import TestSupport
import Testing

/// Deflate's usual effort looks whether a unit is noise before it packs it. That may save time, never cost space.
@Suite struct NoiseTests {
  private static let unit = 64 << 10

  private static func packed(_ bytes: [UInt8], level: Int = 1, room: Int? = nil) -> Int? {
    let encoder = DeflateEncoder(level: level)
    return pack(bytes, room: room ?? bytes.count - 1) { encoder.encode($0, into: &$1) }?.count
  }

  /// Things that look much like noise, and still get smaller.
  enum Almost: String, CaseIterable, Sendable, CustomTestStringConvertible {
    case twice, quarters, lateRepeat, oddRepeat, hexadecimal, sixBits, aPercentOfZeros, textAtEnd

    var testDescription: String { rawValue }
    var bytes: [UInt8] {
      let noise = Samples.noise(unit, seed: 11)
      switch self {
      // Deflate sees no further back than 32 KiB.
      case .twice: return Array(noise.prefix(30_000) + noise.prefix(30_000))
      case .quarters: return (0..<4).flatMap { _ in noise.prefix(unit / 4) }
      // Its distance is no multiple of anything.
      case .lateRepeat: return Array(noise.prefix(unit - 3001) + noise.suffix(6002).prefix(3001))
      case .oddRepeat: return Array(noise.prefix(40_003) + noise[20_000..<20_000 + unit - 40_003])
      case .hexadecimal: return noise.map { Array("0123456789abcdef".utf8)[Int($0 & 15)] }
      case .sixBits: return noise.map { $0 & 63 }
      case .aPercentOfZeros: return noise.enumerated().map { $0.offset % 64 == 0 ? 0 : $0.element }
      case .textAtEnd: return Array(noise.prefix(unit - 4096)) + Samples.text(4096, seed: 3)
      }
    }
  }

  @Test("what is almost noise is packed as with more effort", arguments: Almost.allCases)
  func almost(_ kind: Almost) throws {
    let counts = [1, 3].map { Self.packed(kind.bytes, level: $0) }
    let usual = try #require(counts[0])
    let more = try #require(counts[1])
    #expect(usual < more + more / 10)
  }

  @Test("noise is not packed, of any length", arguments: [100, 4096, 16 << 10, unit, unit + 1, 2 << 20])
  func noise(count: Int) {
    let packed = (1...8).compactMap { Self.packed(Samples.noise(count, seed: $0)) }
    #expect(packed == [])
  }

  @Test("where there is room for more than the unit, noise gets its stream too", arguments: [16 << 10, unit])
  func room(count: Int) throws {
    let packed = Self.packed(Samples.noise(count, seed: 4), room: count + 100)
    #expect(try #require(packed) > count)
  }
}
