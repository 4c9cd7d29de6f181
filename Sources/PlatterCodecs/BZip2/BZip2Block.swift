import PlatterCore

/// One bzip2 block in the making, then its text on the way out. Reused from block to block; 6 MB.
@safe final class BZip2Block {
  private let codes = BZip2Codes()
  private let rotations = BZip2Rotations()
  /// The last column, later the text.
  private let column: UnsafeMutablePointer<UInt8>
  /// The table of each group.
  private let tables: UnsafeMutablePointer<UInt8>
  private let list: UnsafeMutableRawPointer
  private(set) var text: BZip2Text
  private var expectedChecksum: UInt32 = 0

  init() {
    unsafe column = .allocate(capacity: BZip2.maximumBlockByteCount + BZip2Symbols.slack)
    unsafe tables = .allocate(capacity: BZip2.maximumGroupCount)
    unsafe list = .allocate(byteCount: BZip2Symbols.listByteCount, alignment: 16)
    // What is moved beside the list and read after the column shall not be undefined.
    _ = unsafe list.initializeMemory(as: UInt8.self, repeating: 0, count: BZip2Symbols.listByteCount)
    unsafe column.initialize(repeating: 0, count: BZip2Symbols.slack)
    unsafe text = BZip2Text(column, count: 0)
  }

  deinit {
    unsafe column.deallocate()
    unsafe tables.deallocate()
    unsafe list.deallocate()
  }

  /// Decodes a block up to its text, which `write` then gives.
  ///
  /// - Parameters:
  ///   - bits: stand behind the block's magic number.
  ///   - limit: the stream's block size.
  func start(_ bits: inout BZip2Bits, limit: Int) throws(ImageError) {
    expectedChecksum = UInt32(bits.take(32))
    guard bits.take(1) == 0 else {
      throw .unsupported("bzip2 block is randomised, as only versions before 0.9.5 wrote it")
    }
    let textRow = bits.take(24)
    let bytesInUse = try Self.bytesInUse(&bits)
    let tableCount = bits.take(3)
    guard (2...BZip2.maximumTableCount).contains(tableCount) else {
      throw BZip2.damaged("a block with \(tableCount) tables")
    }
    let groupCount = try chooseTables(&bits, tableCount)
    for table in 0..<tableCount { try codes.read(table, symbolCount: bytesInUse.count + 2, &bits) }
    var symbols = unsafe BZip2Symbols(codes, column: column, limit: limit, list: list, bytesInUse: bytesInUse)
    let count = try unsafe symbols.decode(&bits, tables: UnsafeBufferPointer(start: tables, count: groupCount))
    guard textRow < count else {
      throw BZip2.damaged("a block of \(count) bytes whose text is in row \(textRow)")
    }
    unsafe rotations.restore(column, count: count, textRow: textRow)
    // For the readers of whole words.
    unsafe (column + count).update(repeating: 0, count: BZip2Symbols.slack)
    unsafe text = BZip2Text(column, count: count)
  }

  /// A bit for each sixteen bytes, then a bit for each byte of those.
  private static func bytesInUse(_ bits: inout BZip2Bits) throws(ImageError) -> [UInt8] {
    let rows = bits.take(16)
    var bytes: [UInt8] = []
    for row in 0..<16 where rows >> (15 - row) & 1 == 1 {
      let columns = bits.take(16)
      for column in 0..<16 where columns >> (15 - column) & 1 == 1 { bytes.append(UInt8(row * 16 + column)) }
    }
    guard !bytes.isEmpty else { throw BZip2.damaged("a block that uses no byte") }
    return bytes
  }

  /// The tables' numbers, moved to front and written in unary.
  ///
  /// - Returns: how many groups there are, the useless ones not counted.
  private func chooseTables(_ bits: inout BZip2Bits, _ tableCount: Int) throws(ImageError) -> Int {
    let groupCount = bits.take(15)
    guard groupCount > 0 else { throw BZip2.damaged("a block without symbols") }
    var order: [UInt8] = (0..<UInt8(tableCount)).map { $0 }
    for group in 0..<groupCount {
      var index = 0
      while bits.take(1) == 1 {
        index += 1
        guard index < tableCount else { throw BZip2.damaged("a table past the last one is chosen") }
      }
      let table = order.remove(at: index)
      order.insert(table, at: 0)
      if group < BZip2.maximumGroupCount { unsafe tables[group] = table }
    }
    guard !bits.isOverrun else { throw BZip2.cutShort }
    return min(groupCount, BZip2.maximumGroupCount)
  }

  /// Appends as much of the text as `target` has room for, and compares its checksum at the end.
  ///
  /// - Returns: the checksum once all of the text is written, else nil.
  func write(to target: inout OutputTarget) throws(ImageError) -> UInt32? {
    try text.write(to: &target)
    guard text.isFinished else { return nil }
    let checksum = text.checksum.value
    guard checksum == expectedChecksum else { throw BZip2.damaged("a block with the wrong checksum") }
    return checksum
  }
}
