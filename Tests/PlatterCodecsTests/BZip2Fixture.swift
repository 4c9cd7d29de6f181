/// A bzip2 stream of one block, built from the format's description, field by field. As it stands: the text "banana".
struct BZip2Fixture {
  /// The block's bytes after their runs were counted.
  var text = Array("banana".utf8)
  /// What the bytes decode to, for the checksum; the text itself where nil.
  var content: [UInt8]?
  var level: UInt8 = 0x39
  var isRandomised = false
  /// The row of the text, where it shall not be the right one.
  var textRow: Int?
  var tableCount = 2
  /// Bits of the code of each symbol, by table; 9 bits each where nil.
  var lengths: [[Int]]?
  /// Tables of the groups, before they are moved to front and in addition to those needed.
  var surplusGroups = 0
  var groupCount: Int?
  var checksumChange: UInt32 = 0
  var combinedChange: UInt32 = 0
  var endMagic: UInt64 = 0x1772_4538_5090
  /// The bits of the end of the block, where others shall be written.
  var endCode: Int?

  /// Bits from the top of each byte.
  struct BitWriter {
    var bytes: [UInt8] = []
    private var count = 0

    mutating func put(_ value: Int, _ bitCount: Int) {
      for bit in (0..<bitCount).reversed() {
        if count % 8 == 0 { bytes.append(0) }
        bytes[bytes.count - 1] |= UInt8(value >> bit & 1) << UInt8(7 - count % 8)
        count += 1
      }
    }
  }

  init() {}

  func with(_ change: (inout BZip2Fixture) -> Void) -> BZip2Fixture {
    var fixture = self
    change(&fixture)
    return fixture
  }

  var bytes: [UInt8] {
    var out = BitWriter()
    for byte in Array("BZh".utf8) + [level] { out.put(Int(byte), 8) }
    let checksum = Self.checksum(content ?? text)
    putBlock(&out, Int(checksum ^ checksumChange))
    out.put(Int(endMagic), 48)
    out.put(Int(checksum ^ combinedChange), 32)
    return out.bytes
  }

  private func putBlock(_ out: inout BitWriter, _ checksum: Int) {
    out.put(0x3141_5926_5359, 48)
    out.put(checksum, 32)
    out.put(isRandomised ? 1 : 0, 1)
    let (column, row) = Self.lastColumn(text)
    out.put(textRow ?? row, 24)
    let inUse = Set(text).sorted()
    let rows = Set(inUse.map { Int($0) / 16 })
    for row in 0..<16 { out.put(rows.contains(row) ? 1 : 0, 1) }
    for row in rows.sorted() {
      for column in 0..<16 { out.put(inUse.contains(UInt8(row * 16 + column)) ? 1 : 0, 1) }
    }
    let symbols = Self.symbols(column, inUse)
    let lengths = lengths ?? [[Int]](repeating: [Int](repeating: 9, count: inUse.count + 2), count: tableCount)
    out.put(tableCount, 3)
    let groups = (symbols.count + 49) / 50 + surplusGroups
    out.put(groupCount ?? groups, 15)
    // Tables in turn: always the last one of the list is moved to its front.
    for _ in 0..<groups { out.put(1 << tableCount - 2, tableCount) }
    for table in 0..<tableCount { Self.putLengths(lengths[table], &out) }
    for (index, symbol) in symbols.enumerated() {
      let table = lengths[tableCount - 1 - index / 50 % tableCount]
      let isEnd = index == symbols.count - 1
      out.put(isEnd ? endCode ?? Self.codes(table)[symbol] : Self.codes(table)[symbol], table[symbol])
    }
  }

  private static func putLengths(_ lengths: [Int], _ out: inout BitWriter) {
    var present = lengths[0]
    out.put(present, 5)
    for length in lengths {
      while present != length {
        out.put(present < length ? 0b10 : 0b11, 2)
        present += present < length ? 1 : -1
      }
      out.put(0, 1)
    }
  }

  /// Canonical: by length, then by symbol.
  private static func codes(_ lengths: [Int]) -> [Int] {
    var codes = [Int](repeating: 0, count: lengths.count)
    var code = 0
    for length in 1...20 {
      code <<= 1
      for symbol in lengths.indices where lengths[symbol] == length {
        codes[symbol] = code
        code += 1
      }
    }
    return codes
  }

  /// The last column of the sorted rotations, and the row of the text.
  private static func lastColumn(_ text: [UInt8]) -> ([UInt8], Int) {
    let rotations = text.indices.sorted { first, second in
      let (one, other) = (text[first...] + text[..<first], text[second...] + text[..<second])
      return one.elementsEqual(other) ? first < second : one.lexicographicallyPrecedes(other)
    }
    return (rotations.map { text[($0 + text.count - 1) % text.count] }, rotations.firstIndex(of: 0) ?? 0)
  }

  /// Moved to front, with runs of the front as numbers in the digits 1 and 2, and the end.
  private static func symbols(_ column: [UInt8], _ inUse: [UInt8]) -> [Int] {
    var list = inUse
    var symbols: [Int] = []
    var run = 0
    func digits() -> [Int] {
      var left = run
      var digits: [Int] = []
      while left > 0 {
        digits.append(left % 2 == 1 ? 0 : 1)
        left = (left - 1) / 2
      }
      return digits
    }
    for byte in column {
      guard let index = list.firstIndex(of: byte), index > 0 else {
        run += 1
        continue
      }
      symbols += digits() + [index + 1]
      run = 0
      list.remove(at: index)
      list.insert(byte, at: 0)
    }
    return symbols + digits() + [inUse.count + 1]
  }

  /// Bit by bit.
  static func checksum(_ bytes: [UInt8]) -> UInt32 {
    var register: UInt32 = .max
    for byte in bytes {
      register ^= UInt32(byte) << 24
      for _ in 0..<8 { register = register & 1 << 31 == 0 ? register << 1 : register << 1 ^ 0x04C1_1DB7 }
    }
    return ~register
  }
}
