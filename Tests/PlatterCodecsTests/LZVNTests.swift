import PlatterCodecs
import PlatterCore
import Testing

/// LZVN blocks written by hand from the table of opcodes.
@Suite struct LZVNTests {
  private static let end = "06 00000000000000"

  /// One block and the end mark.
  private static func stream(_ opcodes: String, rawByteCount: Int) -> [UInt8] {
    let payload = hex(opcodes)
    return Array("bvxn".utf8) + UInt32(rawByteCount).littleEndianBytes + UInt32(payload.count).littleEndianBytes
      + payload + Array("bvx$".utf8)
  }

  private func decode(_ opcodes: String, _ byteCount: Int, end: String = Self.end) throws(ImageError) -> String {
    let packed = Self.stream(opcodes + end, rawByteCount: byteCount)
    let pieces = try? decodeStream(.lzfse, packed, byteCount: byteCount, pieceByteCount: 1)
    do throws(ImageError) {
      let unit = try decodeUnit(.lzfse, packed, byteCount: byteCount)
      #expect(pieces == unit.bytes)
      // With room after the block, where words are copied.
      #expect(try decodeUnit(.lzfse, packed, byteCount: byteCount + 500) == unit)
      return String(decoding: unit.bytes, as: UTF8.self)
    } catch {
      #expect(pieces == nil)
      throw error
    }
  }

  private func expectRefused(_ opcodes: String, _ byteCount: Int = 100, end: String = Self.end) {
    let error = #expect(throws: ImageError.self) { try decode(opcodes, byteCount, end: end) }
    #expect(error?.code == .corrupt)
  }

  @Test("literals only: up to 15 in the opcode, 16 to 271 in the next byte")
  func literals() throws {
    #expect(try decode("e3 414243", 3) == "ABC")
    #expect(try decode("e0 00" + String(repeating: "41", count: 16), 16) == String(repeating: "A", count: 16))
    #expect(try decode("e0 ff" + String(repeating: "41", count: 271), 271) == String(repeating: "A", count: 271))
  }

  @Test("near: literals, 3 and more bytes, distance of 11 bits")
  func near() throws {
    #expect(try decode("48 01 41", 5) == "AAAAA")
    #expect(try decode("c0 03 414243", 6) == "ABCABC")
  }

  @Test("medium: the low bits of the word belong to the length, the rest is the distance")
  func medium() throws {
    #expect(try decode("b0 0900 4142", 6) == "ABABAB")
    #expect(try decode("b7 0b00 4142", 36) == String(repeating: "AB", count: 18))
  }

  @Test("far: any distance of 16 bits")
  func far() throws {
    #expect(try decode("47 0100 41", 4) == "AAAA")
  }

  @Test("same and match only take the distance before")
  func same() throws {
    #expect(try decode("80 02 4142 46 43 f2", 11) == "ABABACACACA")
    #expect(try decode("48 01 41 f0 00", 21) == String(repeating: "A", count: 21))
    #expect(try decode("48 01 41 ff f0ff", 5 + 15 + 271) == String(repeating: "A", count: 291))
  }

  @Test("06, 0E and 16 are end and no-ops, not 'same' without literals")
  func noOperations() throws {
    #expect(try decode("0e e1 41 16", 1) == "A")
  }

  @Test(
    "undefined opcodes are refused",
    arguments: [0x1E, 0x26, 0x2E, 0x36, 0x3E] + Array(0x70...0x7F) + Array(0xD0...0xDF))
  func undefined(opcode: Int) {
    let filler = String(repeating: "41", count: 8)
    for byteCount in 8...20 { expectRefused("48 01 41" + String(opcode, radix: 16) + filler, byteCount) }
  }

  @Test("a distance of 0, before the output, or as before where there is none, is refused")
  func distances() {
    for opcodes in ["40 00 41", "47 0000 41", "a8 0000 41"] { expectRefused(opcodes, 4) }
    for opcodes in ["40 02 41", "47 0200 41", "a8 0800 41", "47 ffff 41"] { expectRefused(opcodes, 4) }
    expectRefused("e1 41 f1", 2)
    expectRefused("46 41", 4)
  }

  @Test("a distance may not be taken from the block before, but bytes may")
  func acrossBlocks() throws {
    let first = Self.stream("48 01 41" + Self.end, rawByteCount: 5).dropLast(4)
    let bytes = first + Self.stream("00 05" + Self.end, rawByteCount: 3)
    #expect(try decodeUnit(.lzfse, Array(bytes), byteCount: 8).bytes == Array("AAAAAAAA".utf8))
    let same = first + Self.stream("f3" + Self.end, rawByteCount: 3)
    #expect(throws: ImageError.self) { try decodeUnit(.lzfse, Array(same), byteCount: 8) }
  }

  @Test("the end opcode must come, whole, and end the payload with all bytes given")
  func ends() {
    expectRefused("e1 41", 1, end: "")
    expectRefused("e1 41", 1, end: "06 000000000000")
    expectRefused("e1 41", 1, end: Self.end + "00")
    expectRefused("e1 41", 2)
    expectRefused("e2 4142", 1)
    expectRefused("e5 4142", 5, end: "")
  }

  @Test("every short distance repeats as copying byte after byte does", arguments: 1...20)
  func overlaps(distance: Int) throws {
    let seed = (0..<UInt8(distance)).map { $0 + 65 }
    let literals = seed.map { String($0, radix: 16) }.joined()
    let head = distance < 16 ? String(0xE0 + distance, radix: 16) : "e0" + "0\(distance - 16)"
    let tail = "38" + (distance < 16 ? "0" : "") + String(distance, radix: 16) + "f0 20"
    let expected = (0..<distance + 10 + 48).map { seed[$0 % distance] }
    #expect(try decode(head + literals + tail, expected.count) == String(decoding: expected, as: UTF8.self))
  }
}
