import PlatterCodecs
import PlatterCore

/// What one unit of a new image becomes.
enum UnitVerdict {
  /// Nothing: it reads as it should without.
  case nothing
  case zero
  case data
  /// Packed bytes in the reader's buffer.
  case packed(Range<Int>)
}

/// The part of a copy by units that needs no order: reads blocks, looks for zeros and for what the image below has, packs.
/// Belongs to one worker.
struct UnitReader: ~Copyable {
  private let source: any UnitSource
  /// What the target reads where it has nothing of its own; nil for zeros.
  private let backing: DiskImage?
  private let unit: UInt64
  private let skipsZeros: Bool
  private let gaps: GapRule
  private let packer: UnitPacker?
  private let scratch = Scratch()
  private var below: AlignedBuffer
  /// The block's units.
  var buffer: AlignedBuffer
  /// Packed units, one behind the other.
  private(set) var packed: AlignedBuffer

  /// - Parameter gapByteCount: zeros that the sources hold as data are left out in gaps of at least this length.
  /// - Throws: `.unsupported` where this build was made without the codec of `packing`.
  init(
    _ source: any UnitSource, unit: UInt64, blockByteCount: UInt64, backing: DiskImage?, skipsZeros: Bool,
    gapByteCount: UInt64 = 0, packing: UnitPacker.Effort?
  ) throws(ImageError) {
    self.source = source
    self.unit = unit
    self.backing = backing
    self.skipsZeros = skipsZeros
    // Packed units have no neighbours in the file that a gap would tear apart.
    gaps = GapRule(unit: unit, byteCount: packing == nil ? gapByteCount : 0)
    packer = if let packing { try UnitPacker(packing) } else { nil }
    buffer = AlignedBuffer(byteCount: Int(blockByteCount))
    below = AlignedBuffer(byteCount: backing == nil ? 0 : Int(blockByteCount))
    packed = AlignedBuffer(byteCount: packing == nil ? 0 : Int(blockByteCount))
  }

  func unitCount(_ block: UnitBlock) -> Int {
    Int((block.range.upperBound - block.range.lowerBound).dividedRoundingUp(by: unit))
  }

  /// Reads a block; what no source fills is zero, up to the end of its last unit.
  /// - Returns: false where the disk has ended before it.
  mutating func read(_ block: inout UnitBlock) throws(ImageError) -> Bool {
    let byteCount = unitCount(block) * Int(unit)
    let isThere = try buffer.withMutableBytes { bytes throws(ImageError) in
      try bytes.withPart(0..<byteCount) { part throws(ImageError) in try source.read(&block, into: &part, scratch) }
    }
    if isThere, let backing { try readBelow(backing, block) }
    return isThere
  }

  private mutating func readBelow(_ backing: DiskImage, _ block: UnitBlock) throws(ImageError) {
    let byteCount = unitCount(block) * Int(unit)
    let end = min(block.range.upperBound, max(backing.byteCount, block.range.lowerBound))
    let present = Int(end - block.range.lowerBound)
    try below.withMutableBytes { bytes throws(ImageError) in
      if present > 0 {
        var part = bytes._mutatingExtracting(0..<present)
        try backing.read(into: &part, at: block.range.lowerBound, scratch)
      }
      bytes.zero(present..<byteCount)
    }
  }

  /// Says what becomes of each unit of the block that was read last, and packs those that get smaller.
  mutating func judge(_ block: UnitBlock) -> [UnitVerdict] {
    var verdicts: [UnitVerdict] = []
    var used = 0
    var gap = GapRule.Gap()
    for index in 0..<unitCount(block) {
      let range = index * Int(unit)..<(index + 1) * Int(unit)
      if let verdict = withoutData(range), gaps.allow(range, of: block, buffer.bytes, &gap) {
        verdicts.append(verdict)
        continue
      }
      let count = pack(range, at: used)
      verdicts.append(count.map { .packed(used..<used + $0) } ?? .data)
      used += count ?? 0
    }
    return verdicts
  }

  /// The verdict on a unit that takes no space; nil for all others.
  private func withoutData(_ range: Range<Int>) -> UnitVerdict? {
    let content = buffer.bytes.extracting(range)
    if backing != nil {
      if content.firstDifference(from: below.bytes.extracting(range)) == nil { return .nothing }
      return skipsZeros && content.isAllZero ? .zero : nil
    }
    return skipsZeros && content.isAllZero ? .nothing : nil
  }

  /// Packs a unit of the buffer behind `used` packed bytes.
  /// - Returns: its packed bytes; nil where it does not get smaller, or nothing is to be packed.
  mutating func pack(_ range: Range<Int>, at used: Int) -> Int? {
    guard let packer else { return nil }
    return packer.pack(buffer, range, into: &packed, used..<used + Int(unit) - 1)
  }
}

/// Packs units with one codec. Belongs to one worker.
final class UnitPacker {
  enum Effort: Sendable {
    case deflate(level: Int, window: DeflateEncoder.Window)
    /// Nil for the encoder's usual effort.
    case zstd(level: Int?)

    /// Measured on clusters of 64 KiB: smaller than what qemu-img makes, in a fifth of its time.
    static let usualDeflateLevel = 1
  }

  private let deflate: DeflateEncoder?
  private let zstd: ZstdEncoder?

  /// - Throws: `.unsupported` where this build was made without the codec.
  init(_ effort: Effort) throws(ImageError) {
    switch effort {
    case .deflate(let level, let window):
      deflate = DeflateEncoder(level: level, window: window)
      zstd = nil
    case .zstd(let level):
      try PackedCodec.zstd.requireSupport()
      deflate = nil
      zstd = ZstdEncoder(level: level)
    }
  }

  /// Bytes written to `room` of `target`; nil where they would not fit.
  func pack(_ bytes: RawSpan, into target: inout MutableRawSpan, _ room: Range<Int>) -> Int? {
    var part = target._mutatingExtracting(room)
    return deflate?.encode(bytes, into: &part) ?? zstd?.encode(bytes, into: &part)
  }

  /// The same for a part of a buffer.
  func pack(
    _ source: borrowing AlignedBuffer, _ range: Range<Int>, into target: inout AlignedBuffer, _ room: Range<Int>
  ) -> Int? {
    let bytes = source.bytes.extracting(range)
    return target.withMutableBytes { target in pack(bytes, into: &target, room) }
  }
}
