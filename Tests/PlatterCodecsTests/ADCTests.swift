import PlatterCodecs
import PlatterCore
import Testing

@Suite struct ADCTests {
  private func decode(_ digits: String, _ byteCount: Int) throws(ImageError) -> [UInt8] {
    let packed = hex(digits)
    let unit = try decodeUnit(.adc, packed, byteCount: byteCount)
    #expect(unit.count == byteCount)
    let pieces = try decodeStream(.adc, packed, byteCount: byteCount, pieceByteCount: 1)
    #expect(pieces == unit.bytes)
    return unit.bytes
  }

  @Test("a short match counts from 3 and its offset from distance 1")
  func shortMatch() throws {
    #expect(try decode("83 41424344 04 03", 8) == Array("ABCDABCD".utf8))
    #expect(try decode("80 41 00 00", 4) == Array("AAAA".utf8))
  }

  @Test("a long match counts from 4, and distance 1 repeats a byte")
  func longMatch() throws {
    #expect(try decode("80 41 40 00 00", 5) == Array("AAAAA".utf8))
    #expect(try decode("80 41 7f 00 00", 68) == [UInt8](repeating: 0x41, count: 68))
  }

  @Test("every short distance repeats as copying byte after byte does", arguments: 1...20)
  func overlaps(distance: Int) throws {
    let seed = (0..<UInt8(distance)).map { $0 + 65 }
    let packed = [0x7F + UInt8(distance)] + seed + [0x7F, 0, UInt8(distance - 1)]
    let expected = (0..<distance + 67).map { seed[$0 % distance] }
    // Once with room after the match, where words are copied, and once without.
    #expect(try decodeUnit(.adc, packed, byteCount: distance + 67).bytes == expected)
    let padded = packed + [0xFF] + [UInt8](repeating: 1, count: 128)
    #expect(try Array(decodeUnit(.adc, padded, byteCount: distance + 195).bytes.prefix(distance + 67)) == expected)
  }

  @Test("the farthest match reaches 65536 bytes back", arguments: [65_535, 65_536, 65_537])
  func farthest(before: Int) throws {
    var bytes = Samples.noise(before, seed: 8)
    var packed: [UInt8] = []
    for start in stride(from: 0, to: before, by: 128) {
      let part = bytes[start..<min(start + 128, before)]
      packed += [0x7F + UInt8(part.count)] + part
    }
    packed += [0x40, 0xFF, 0xFF]
    guard before >= 65_536 else {
      #expect(throws: ImageError.self) { try decodeUnit(.adc, packed, byteCount: before + 4) }
      return
    }
    bytes += bytes[before - 65_536..<before - 65_532]
    #expect(try decodeUnit(.adc, packed, byteCount: before + 4).bytes == bytes)
    #expect(try decodeStream(.adc, packed, byteCount: before + 4) == bytes)
  }

  @Test(
    "a match before the first byte is refused", arguments: ["00 00", "40 00 00", "80 41 00 01", "81 4142 40 00 02"])
  func matchBeforeStart(digits: String) {
    let error = #expect(throws: ImageError.self) { try decode(digits, 100) }
    #expect(error?.code == .corrupt)
  }

  @Test("input that ends in the middle of an action, or before the unit is full, is refused, not rounded up")
  func cutShort() {
    for digits in ["", "83 414243", "80 41 40 00", "80 41 00", "80 41"] {
      #expect(throws: ImageError.self) { try decode(digits, 100) }
    }
  }

  @Test(
    "a unit whose last bytes are literals, each by itself, takes two packed bytes for each", arguments: [100, 1000])
  func singleLiterals(byteCount: Int) throws {
    let packed: [UInt8] = (0..<byteCount).flatMap { [0x80, UInt8(truncatingIfNeeded: $0)] }
    let expected = (0..<byteCount).map { UInt8(truncatingIfNeeded: $0) }
    #expect(try decodeUnit(.adc, packed, byteCount: byteCount).bytes == expected)
    for piece in [1, 7, 100] {
      #expect(try decodeStream(.adc, packed, byteCount: byteCount, pieceByteCount: piece) == expected)
    }
  }

  @Test("an action that passes the unit's end is refused; input after the end is padding")
  func unitEnd() throws {
    #expect(throws: ImageError.self) { try decode("83 41424344", 3) }
    #expect(throws: ImageError.self) { try decode("80 41 40 00 00", 4) }
    #expect(try decode("83 41424344 00 00 ff ff", 4) == Array("ABCD".utf8))
  }
}
