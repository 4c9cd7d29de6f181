import PlatterCore

// bzip2. Bits are packed from the top of each byte, integers have their highest bit first, and nothing but the start of a
// stream lies at a whole byte.
//
//     "BZh" '1'...'9'      start of a stream, with the size of its blocks in 100 kB
//     0x314159265359       block: CRC-32, flag, row of the text, bytes in use, tables, table choices, symbols
//     0x177245385090       end of the stream: CRC-32 of the blocks' CRC-32s, then zeros up to a whole byte
//
// A block's bytes went through four steps, which are undone here from last to first:
//
//     four equal bytes have a count of more of them (0...255) behind them      BZip2Text
//     the rotations of the text are sorted, and their last column is kept     BZip2Rotations
//     move to front; runs of the front are numbers with the digits 1 and 2    BZip2Symbols
//     Huffman with two to six tables, chosen anew for every 50 symbols         BZip2Codes
//
// Invariants of this folder: a block's column never has more bytes than its stream's block size, which is at most
// `maximumBlockByteCount`; every buffer is made for that, and nothing grows with what a stream says.

/// Constants of the format, and how its damages are called.
enum BZip2 {
  static let name = "bzip2"
  static let blockMagic: UInt64 = 0x3141_5926_5359
  static let endMagic: UInt64 = 0x1772_4538_5090
  static let headerByteCount = 4

  static let maximumBlockByteCount = 900_000  // the digit 9
  /// Packed bytes of one block: 900,000 symbols of 20 bits need 2.25 MB. Code lengths may go up and down without end, which
  /// nobody needs.
  static let maximumPackedBlockByteCount = 5 << 19  // ours; the format has none
  static let maximumCodeBitCount = 20  // libbz2
  static let maximumTableCount = 6
  static let groupSymbolCount = 50
  /// Groups of a block of the largest size; a stream may name more, which are never used.
  static let maximumGroupCount = maximumBlockByteCount / groupSymbolCount + 2
  /// All 256 bytes but the front, two digits of runs, and the end of the block.
  static let maximumSymbolCount = 258

  /// Whether these bytes begin a stream.
  static func startsStream(_ bytes: RawSpan) -> Bool {
    guard bytes.byteCount >= headerByteCount, bytes.bigEndian(at: 0, as: UInt16.self) == 0x425A else { return false }
    return bytes[2] == 0x68 && blockByteCount(bytes) != nil
  }

  /// The block size that a stream's header states.
  static func blockByteCount(_ header: RawSpan) -> Int? {
    let digit = header[3]
    return (0x31...0x39).contains(digit) ? Int(digit - 0x30) * 100_000 : nil
  }

  static func damaged(_ how: String) -> ImageError { .corrupt("bzip2 stream is damaged: \(how)") }
  static func tooLong(_ byteCount: Int) -> ImageError {
    .corrupt("bzip2 stream gives more than the \(byteCount) bytes of its unit")
  }
  static let cutShort = ImageError.corrupt("bzip2 stream is cut short")
}
