import PlatterCore

/// The bytes of a block's last column, from its symbols: Huffman and move-to-front in one pass.
@safe struct BZip2Symbols {
  /// Bytes after the column that may be overwritten.
  static let slack = 64
  /// Bytes around the list, for its moves of 16 bytes.
  private static let listSlack = 16

  private let codes: BZip2Codes
  private let column: UnsafeMutablePointer<UInt8>
  private let limit: Int
  /// The first eight bytes of the list, the front lowest.
  private var front: UInt64
  /// The others.
  private let list: UnsafeMutableRawPointer
  private let endSymbol: Int
  private var count = 0
  /// Which digit of a run's number is next.
  private var digit = 0

  /// What became of a symbol.
  private enum Outcome {
    case more, end, noCode, tooMany
  }

  /// - Parameters:
  ///   - column: room for `limit` bytes and the slack.
  ///   - list: room for 288 bytes.
  ///   - bytesInUse: which bytes occur, in order.
  init(
    _ codes: BZip2Codes, column: UnsafeMutablePointer<UInt8>, limit: Int, list: UnsafeMutableRawPointer,
    bytesInUse: [UInt8]
  ) {
    self.codes = codes
    unsafe self.column = column
    self.limit = limit
    unsafe self.list = list + Self.listSlack
    front = 0
    for (index, byte) in bytesInUse.enumerated() {
      if index < 8 {
        front |= UInt64(byte) << UInt64(index * 8)
      } else {
        unsafe self.list.storeBytes(of: byte, toByteOffset: index - 8, as: UInt8.self)
      }
    }
    endSymbol = bytesInUse.count + 1
  }

  static var listByteCount: Int { 2 * listSlack + 256 }

  /// Decodes all symbols of the block.
  ///
  /// - Parameter tables: the table of each group of 50 symbols.
  /// - Returns: bytes of the column.
  mutating func decode(_ reader: inout BZip2Bits, tables: UnsafeBufferPointer<UInt8>) throws(ImageError) -> Int {
    // A copy, so that the loop works on registers.
    var bits = reader
    defer { reader = bits }
    for index in tables.indices {
      let table = unsafe Int(tables[index])
      for _ in 0..<BZip2.groupSymbolCount / 2 {
        // Two codes have 40 bits at most.
        bits.refill()
        var outcome = take(table, &bits)
        if outcome == .more { outcome = take(table, &bits) }
        guard outcome != .more else { continue }
        guard !bits.isOverrun else { throw BZip2.cutShort }
        switch outcome {
        case .noCode: throw BZip2.damaged("bits that are no code")
        case .tooMany: throw BZip2.damaged("block of more than \(limit) bytes")
        default: return count
        }
      }
      guard !bits.isOverrun else { throw BZip2.cutShort }
    }
    throw BZip2.damaged("more symbols than tables are chosen for")
  }

  @inline(__always)
  private mutating func take(_ table: Int, _ bits: inout BZip2Bits) -> Outcome {
    var entry = unsafe Int(codes.lookup[table &<< BZip2Codes.lookupBitCount | bits.peek(BZip2Codes.lookupBitCount)])
    if entry == 0 {
      entry = codes.longEntry(table, bits)
      guard entry != 0 else { return .noCode }
    }
    bits.skip(entry & 31)
    let symbol = entry &>> 5
    if symbol <= 1 { return repeatFront(symbol) }
    guard symbol < endSymbol else { return .end }
    guard count < limit else { return .tooMany }
    digit = 0
    unsafe column[count] = moveToFront(symbol &- 1)
    count &+= 1
    return .more
  }

  /// A digit, 1 or 2, of the number of times that the front comes again, lowest digit first.
  @inline(__always)
  private mutating func repeatFront(_ symbol: Int) -> Outcome {
    guard digit < BZip2.maximumCodeBitCount else { return .tooMany }
    let times = (symbol &+ 1) &<< digit
    guard times <= limit &- count else { return .tooMany }
    digit &+= 1
    let bytes = SIMD16<UInt8>(repeating: UInt8(truncatingIfNeeded: front))
    let start = unsafe UnsafeMutableRawPointer(column + count)
    var offset = 0
    repeat {
      unsafe start.storeBytes(of: bytes, toByteOffset: offset, as: SIMD16<UInt8>.self)
      offset &+= 16
    } while offset < times
    count &+= times
    return .more
  }

  /// Takes the byte at `index` (1 to 255) of the list to its front.
  @inline(__always)
  private mutating func moveToFront(_ index: Int) -> UInt8 {
    guard index < 8 else { return moveFromList(index &- 8) }
    let shift = UInt64(truncatingIfNeeded: index &* 8)
    let byte = front &>> shift & 0xFF
    let moved = (2 as UInt64) &<< (shift &+ 7) &- 1
    front = front & ~moved | front &<< 8 & moved | byte
    return UInt8(truncatingIfNeeded: byte)
  }

  @inline(__always)
  private mutating func moveFromList(_ index: Int) -> UInt8 {
    let byte = unsafe list.load(fromByteOffset: index, as: UInt8.self)
    // From the end, in words that reach below the list: the slack there holds nothing.
    var end = index
    while end > 0 {
      let word = unsafe list.loadUnaligned(fromByteOffset: end &- 16, as: SIMD16<UInt8>.self)
      unsafe list.storeBytes(of: word, toByteOffset: end &- 15, as: SIMD16<UInt8>.self)
      end &-= 16
    }
    unsafe list.storeBytes(of: UInt8(truncatingIfNeeded: front &>> 56), toByteOffset: 0, as: UInt8.self)
    front = front &<< 8 | UInt64(byte)
    return byte
  }
}
