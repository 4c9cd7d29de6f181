import PlatterCore

/// Geometry of refcounts [QCOW2 specification, Refcounts]: a table of blocks of one cluster each, a count of
/// `1 << order` bits for every cluster of the file.
struct RefcountGeometry: Sendable, Equatable {
  /// Bits 9 to 63 of a table entry: where the block lies; 0 for none, which means that all its counts are 0.
  static let offsetMask: UInt64 = 0xffff_ffff_ffff_fe00

  let order: UInt64
  let clusterByteCount: UInt64

  init(_ header: Header) {
    order = UInt64(header.refcountOrder)
    clusterByteCount = header.clusterByteCount
  }

  /// Clusters that one block counts.
  var countsPerBlock: UInt64 { (clusterByteCount * 8) >> order }

  /// The largest count.
  var maximum: UInt64 { order == 6 ? .max : (1 << (1 << order)) - 1 }

  /// The count with this number in a block, or in a part of one that starts with a whole byte. Traps outside of it.
  /// Counts below 8 bits fill a byte from its lowest bits on.
  func count(_ index: Int, in bytes: RawSpan) -> UInt64 {
    if order < 3 {
      let bit = index << Int(order)
      return UInt64(bytes[bit / 8] >> UInt8(bit % 8)) & maximum
    }
    let width = 1 << (Int(order) - 3)
    var value: UInt64 = 0
    for byte in index * width..<(index + 1) * width { value = value << 8 | UInt64(bytes[byte]) }
    return value
  }

  /// The first counts of a block, or of a part of one; those that 32 bits cannot say are `UInt32.max`. Traps outside of it.
  func counts(in bytes: RawSpan, count: Int) -> [UInt32] {
    var counts = [UInt32](repeating: 0, count: count)
    switch order {
    case 3: for index in 0..<count { counts[index] = UInt32(bytes[index]) }
    case 4: for index in 0..<count { counts[index] = UInt32(bytes.bigEndian(at: index * 2, as: UInt16.self) ?? 0) }
    case 5: for index in 0..<count { counts[index] = bytes.bigEndian(at: index * 4) ?? 0 }
    default: for index in 0..<count { counts[index] = UInt32(clamping: self.count(index, in: bytes)) }
    }
    return counts
  }
}

extension RefcountGeometry {
  /// Stores a count; returns the bytes that changed. Traps outside the block.
  func set(_ index: Int, in bytes: inout MutableRawSpan, to value: UInt64) -> Range<Int> {
    if order < 3 {
      let bit = index << Int(order)
      let shift = UInt8(bit % 8)
      let mask = UInt8(maximum) << shift
      let old = bytes.bytes[bit / 8]
      bytes.storeBytes(of: old & ~mask | UInt8(value) << shift, toByteOffset: bit / 8, as: UInt8.self)
      return bit / 8..<bit / 8 + 1
    }
    let width = 1 << (Int(order) - 3)
    for byte in 0..<width {
      bytes.storeBytes(
        of: UInt8(truncatingIfNeeded: value >> UInt64((width - 1 - byte) * 8)), toByteOffset: index * width + byte,
        as: UInt8.self)
    }
    return index * width..<(index + 1) * width
  }
}
