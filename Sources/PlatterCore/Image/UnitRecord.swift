/// What becomes of every unit of a new image, in guest order: a row of runs, kept as a few bytes each.
///
/// Memory: up to 4 bytes for a packed unit (3 where units are at most 64 KiB), next to nothing for runs of equal units.
package struct UnitRecord: Sendable {
  package enum Kind: UInt64, Sendable {
    /// Reads as the image below, or zeros without one.
    case absent
    /// Said to be zero.
    case zero
    /// Stored as it is.
    case plain
    /// Stored packed.
    case packed
  }

  /// Neighbouring units of one kind; packed units come one by one.
  package struct Run: Sendable, Equatable {
    package var kind: Kind
    /// Number of the first unit.
    package var first: UInt64
    package var count: UInt64
    /// Packed only: the unit's packed bytes.
    package var byteCount = 0

    package init(kind: Kind, first: UInt64, count: UInt64, byteCount: Int = 0) {
      self.kind = kind
      self.first = first
      self.count = count
      self.byteCount = byteCount
    }
  }

  private static let chunkByteCount = 64 << 10

  /// Numbers of 7 bits a byte, lowest first, the highest bit set but in the last: `value << 2 | kind`, where the value is
  /// a count of units, or of a packed unit's bytes.
  private var chunks: [[UInt8]] = []
  private var pending: (kind: Kind, count: UInt64) = (.absent, 0)
  /// Units told of so far.
  package private(set) var unitCount: UInt64 = 0
  package private(set) var plainCount: UInt64 = 0
  package private(set) var packedCount: UInt64 = 0

  package init() {}

  /// Says what the next `count` units are.
  package mutating func append(_ kind: Kind, count: UInt64 = 1) {
    precondition(kind != .packed)
    if kind != pending.kind { endRun() }
    pending = (kind, pending.count + count)
    unitCount += count
    if kind == .plain { plainCount += count }
  }

  /// The next unit is packed into so many bytes.
  package mutating func appendPacked(byteCount: Int) {
    endRun()
    put(UInt64(byteCount), .packed)
    unitCount += 1
    packedCount += 1
  }

  private mutating func endRun() {
    if pending.count > 0 { put(pending.count, pending.kind) }
    pending.count = 0
  }

  private mutating func put(_ value: UInt64, _ kind: Kind) {
    if chunks.last.map({ $0.count > Self.chunkByteCount - 10 }) ?? true {
      var chunk: [UInt8] = []
      chunk.reserveCapacity(Self.chunkByteCount)
      chunks.append(chunk)
    }
    let last = chunks.count - 1
    var rest = value << 2 | kind.rawValue
    while rest > 0x7f {
      chunks[last].append(UInt8(truncatingIfNeeded: rest) | 0x80)
      rest >>= 7
    }
    chunks[last].append(UInt8(rest))
  }

  /// Walks the runs from the first unit on.
  package struct Cursor: Sendable {
    private let record: UnitRecord
    private var chunk = 0
    private var index = 0
    private var unit: UInt64 = 0

    fileprivate init(_ record: UnitRecord) { self.record = record }

    package mutating func next() -> Run? {
      if chunk < record.chunks.count, index == record.chunks[chunk].count {
        chunk += 1
        index = 0
      }
      guard chunk < record.chunks.count else {
        // The run that is still open has no bytes yet.
        guard unit < record.unitCount else { return nil }
        defer { unit = record.unitCount }
        return Run(kind: record.pending.kind, first: unit, count: record.unitCount - unit)
      }
      var value: UInt64 = 0
      var shift: UInt64 = 0
      var byte: UInt8
      repeat {
        byte = record.chunks[chunk][index]
        index += 1
        value |= UInt64(byte & 0x7f) << shift
        shift += 7
      } while byte & 0x80 != 0
      let kind = Kind(rawValue: value & 3) ?? .absent
      value >>= 2
      let count = kind == .packed ? 1 : value
      defer { unit += count }
      return Run(kind: kind, first: unit, count: count, byteCount: kind == .packed ? Int(value) : 0)
    }
  }

  package func cursor() -> Cursor { Cursor(self) }
}
