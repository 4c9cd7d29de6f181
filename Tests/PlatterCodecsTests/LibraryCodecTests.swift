import CZlib
import PlatterCodecs
import PlatterCore
import Testing

/// Corners of the codecs that libraries decode.
@Suite struct LibraryCodecTests {
  private let text = Samples.text(3000, seed: 7)

  private func packed(_ codec: PackedCodec, _ bytes: [UInt8]) throws -> [UInt8] {
    let packer = try #require(Packer.all.first { $0.codec == codec })
    return try #require(packer.pack(bytes, bytes.count + 1000))
  }

  @Test("a deflate stream cut right after the last byte that is needed is whole enough")
  func deflateWithoutEnd() throws {
    // Stored block: header, length, complement, then the bytes; no final block follows.
    let bytes = Array("stored bytes".utf8)
    let count = UInt16(bytes.count)
    let stream = [0] + count.littleEndianBytes + (~count).littleEndianBytes + bytes
    #expect(try decodeUnit(.deflate, stream, byteCount: bytes.count).bytes == bytes)
  }

  @Test("a zlib stream whose Adler-32 is wrong is damaged")
  func wrongAdler() throws {
    var stream = try packed(.zlib, text)
    stream[stream.count - 1] ^= 1
    let error = #expect(throws: ImageError.self) { try decodeUnit(.zlib, stream, byteCount: text.count) }
    #expect(error?.code == .corrupt)
  }

  @Test("two zstd frames make one unit, with skippable frames between them")
  func zstdFrames() throws {
    let skippable = UInt32(0x184D_2A53).littleEndianBytes + UInt32(5).littleEndianBytes + [1, 2, 3, 4, 5]
    let stream = try packed(.zstd, text) + skippable + packed(.zstd, text)
    #expect(try decodeUnit(.zstd, stream, byteCount: 2 * text.count).bytes == text + text)
    #expect(try decodeUnit(.zstd, stream + [0, 0, 0, 0, 0], byteCount: 2 * text.count).bytes == text + text)
    let cut = try decodeUnit(.zstd, stream, byteCount: 2 * text.count - 100)
    #expect(cut.bytes == Array((text + text).dropLast(100)))
    #expect(try decodeStream(.zstd, stream, byteCount: 2 * text.count) == text + text)
  }

  @Test("a zstd frame whose window is too large is decoded only where no window is needed")
  func zstdWindow() throws {
    // Frame header: no content size, window descriptor 0xA0 = 2^30 bytes; one last raw block of 4 bytes.
    let frame = hex("28b52ffd 00 a0 210000") + Array("four".utf8)
    #expect(try decodeUnit(.zstd, frame, byteCount: 4).bytes == Array("four".utf8))
    #expect(throws: ImageError.self) { try decodeStream(.zstd, frame, byteCount: 4) }
    // The same, cut off by the unit's end, would need the window.
    #expect(throws: ImageError.self) { try decodeUnit(.zstd, frame, byteCount: 2) }
  }

  @Test("two bzip2 streams, or two xz streams, make one unit", arguments: [PackedCodec.bzip2, .xz])
  func concatenated(codec: PackedCodec) throws {
    let stream = try packed(codec, text) + packed(codec, text)
    #expect(try decodeUnit(codec, stream, byteCount: 2 * text.count).bytes == text + text)
    #expect(try decodeStream(codec, stream, byteCount: 2 * text.count) == text + text)
    // The second is not needed for a unit of half the size.
    #expect(try decodeUnit(codec, stream, byteCount: text.count).bytes == text)
  }

  @Test("an xz stream that wants a dictionary past the limit is refused as such")
  func xzMemory() throws {
    // Block header of the vector above with dictionary size code 40, 4 GiB - 1, and its CRC-32 made right.
    let vector = try #require(Vector.all.first { $0.testDescription == "xz" })
    var stream = vector.packed
    #expect(stream[16] == 0x16)
    stream[16] = 40
    let checksum = CRC32.checksum(of: stream.rawBytes.extracting(12..<20))
    stream.replaceSubrange(20..<24, with: checksum.littleEndianBytes)
    let error = #expect(throws: ImageError.self) { try decodeUnit(.xz, stream, byteCount: vector.byteCount) }
    #expect(error?.code == .unsupported)
  }

  @Test("the 4 KiB window is one: zlib inflates it piecewise with a window of that size")
  func narrowWindow() throws {
    let bytes = Samples.text(20_000, seed: 11) + Samples.text(20_000, seed: 11)
    let narrow = try #require(Packer.all.first { $0.testDescription == "deflate, 4 KiB window" })
    let stream = try #require(narrow.pack(bytes, bytes.count))
    #expect(inflatePiecewise(stream, windowBits: -12, byteCount: bytes.count) == bytes)
    // And the test can tell: the full window's stream does not pass.
    let full = try packed(.deflate, bytes)
    #expect(inflatePiecewise(full, windowBits: -12, byteCount: bytes.count) != bytes)
  }

  /// zlib with an output of 100 bytes at a time; nil where it objects.
  private func inflatePiecewise(_ packed: [UInt8], windowBits: Int32, byteCount: Int) -> [UInt8]? {
    var result: [UInt8] = []
    var input = packed
    var piece = [UInt8](repeating: 0, count: 100)
    var stream = unsafe z_stream()
    guard
      unsafe inflateInit2_(&stream, windowBits, zlibVersion(), Int32(MemoryLayout<z_stream>.size)) == Z_OK
    else { return nil }
    defer { unsafe inflateEnd(&stream) }
    return unsafe input.withUnsafeMutableBufferPointer { input in
      unsafe stream.next_in = input.baseAddress
      unsafe stream.avail_in = UInt32(input.count)
      while true {
        let status = unsafe piece.withUnsafeMutableBufferPointer { piece in
          unsafe stream.next_out = piece.baseAddress
          unsafe stream.avail_out = UInt32(piece.count)
          return unsafe inflate(&stream, Z_SYNC_FLUSH)
        }
        result += unsafe piece.prefix(piece.count - Int(stream.avail_out))
        if status == Z_STREAM_END { return result }
        guard status == Z_OK else { return nil }
      }
    }
  }
}
