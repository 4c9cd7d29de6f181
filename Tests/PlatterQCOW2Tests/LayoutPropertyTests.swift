import PlatterCore
import PlatterQCOW2
import TestSupport
import Testing

/// A geometry that random layouts are built in.
struct LayoutShape: Sendable, CustomTestStringConvertible {
  var version: UInt32
  var clusterBits: Int
  var refcountOrder: UInt32 = 4
  var extended = false
  var seed: UInt64
  var testDescription: String {
    "version \(version), cluster bits \(clusterBits)\(extended ? ", extended L2" : ""), seed \(seed)"
  }

  static let all: [LayoutShape] = [
    LayoutShape(version: 2, clusterBits: 9, seed: 1), LayoutShape(version: 3, clusterBits: 9, seed: 2),
    LayoutShape(version: 3, clusterBits: 12, refcountOrder: 0, seed: 3),
    LayoutShape(version: 3, clusterBits: 14, extended: true, seed: 4),
    LayoutShape(version: 2, clusterBits: 16, seed: 5), LayoutShape(version: 3, clusterBits: 16, seed: 6),
    LayoutShape(version: 3, clusterBits: 16, refcountOrder: 6, extended: true, seed: 7),
    LayoutShape(version: 3, clusterBits: 17, seed: 8),
    LayoutShape(version: 3, clusterBits: 18, extended: true, seed: 9),
  ]
}

/// An image with a bit of everything that its shape allows.
func randomImage(_ shape: LayoutShape, _ random: inout SeededGenerator) -> QCOW2Builder {
  let size = 1 << shape.clusterBits
  // Two L2 tables and a bit where clusters are small, one table where they are large; the last cluster is cut.
  let clusters = min(size / (shape.extended ? 16 : 8) * 2 + 3, 300)
  var image = QCOW2Builder(byteCount: UInt64(clusters * size) - 300, clusterBits: shape.clusterBits)
  image.version = shape.version
  image.refcountOrder = shape.refcountOrder
  image.hasExtendedL2 = shape.extended
  let budget = 8 << 20
  var used = 0
  for guest in 0..<clusters where Int.random(in: 0..<4, using: &random) != 0 {
    let choice = Int.random(in: 0..<(used < budget ? 12 : 4), using: &random)
    switch choice {
    case 0...1 where shape.version >= 3: image.entries[guest] = .zero
    case 2...3 where used < budget && shape.version >= 3: image.entries[guest] = .zeroAllocated
    case 4 where shape.refcountOrder > 0:
      image.entries[guest] = .packed(random.bytes(Int.random(in: 1..<size, using: &random)))
    case 5...7 where shape.extended:
      let states = String((0..<32).map { _ in ["a", "z", "-"].randomElement(using: &random) ?? "-" })
      image.entries[guest] = .subclusters(states, [UInt8(guest & 255)])
    case 8 where shape.extended:
      let states = String((0..<32).map { _ in ["z", "-"].randomElement(using: &random) ?? "-" })
      image.entries[guest] = .subclusters(states, nil)
    case 4...: image.entries[guest] = .data([UInt8(guest & 255)])
    default: continue
    }
    used += size
  }
  return image
}

/// What a sub-unit of the guest is, told apart as finely as runs are.
private enum Piece: Equatable {
  case absent(UInt64?)
  case zero(UInt64?)
  case data(UInt64)
  case packed(offset: UInt64, unit: UInt64)
}

@Suite struct LayoutPropertyTests {
  @Test("any layout maps to what the builder put there, however it is asked for", arguments: LayoutShape.all)
  func randomLayout(_ shape: LayoutShape) throws {
    var random = SeededGenerator(seed: shape.seed)
    let image = randomImage(shape, &random)
    let built = image.build()
    let expected = pieces(image, built)
    let map = try open(built.bytes)
    let unit = UInt64(shape.extended ? image.clusterByteCount / 32 : image.clusterByteCount)
    let whole = try runs(map)
    for limit in [1, 7] { #expect(try runs(map, limit: limit) == whole) }
    #expect(found(whole, unit: unit) == expected)
    for _ in 0..<200 {
      let from = UInt64.random(in: 0..<map.byteCount, using: &random)
      let range = from..<UInt64.random(in: from + 1...map.byteCount, using: &random)
      let part = try runs(map, range, limit: Int.random(in: 1...20, using: &random))
      #expect(part == whole.filter { $0.end > from && $0.start < range.upperBound }.map { $0.clipped(to: range) })
    }
  }

  /// The expectation, unit by unit, from what was asked of the builder and where it put it.
  private func pieces(_ image: QCOW2Builder, _ built: QCOW2Builder.Built) -> [Piece] {
    let size = UInt64(image.clusterByteCount)
    let unit = image.hasExtendedL2 ? size / 32 : size
    return (0..<(image.byteCount + unit - 1) / unit).map { index in
      let guest = Int(index * unit / size)
      let host = built.hostOffsets[guest]
      let inside = index * unit % size
      switch image.entries[guest] {
      case nil, .raw: return .absent(nil)
      case .zero: return .zero(nil)
      case .zeroAllocated: return .zero(host.map { $0 + inside })
      case .data: return .data((host ?? 0) + inside)
      case .packed: return .packed(offset: host ?? 0, unit: UInt64(guest) * size)
      case .subclusters(let states, _):
        switch Array(states)[Int(inside / unit)] {
        case "a": return .data((host ?? 0) + inside)
        case "z": return .zero(host.map { $0 + inside })
        default: return .absent(host.map { $0 + inside })
        }
      }
    }
  }

  private func found(_ runs: [Extent], unit: UInt64) -> [Piece] {
    runs.flatMap { run in
      stride(from: run.start, to: run.end, by: Int(unit)).map { position in
        let offset = run.hasOffset ? run.offset + (position - run.start) : nil
        return switch run.kind {
        case .absent: .absent(offset)
        case .zero: .zero(offset)
        case .data: .data(offset ?? 0)
        case .packed: .packed(offset: run.offset, unit: run.unitStart)
        }
      }
    }
  }
}
