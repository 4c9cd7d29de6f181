import PlatterCodecs
import PlatterCore
import Testing

@Suite struct StreamDecoderTests {
  @Test("a long unit comes out whole, in order and in small pieces", arguments: Packer.all)
  func longUnits(packer: Packer) throws {
    let bytes = Samples.mixed(1_500_000, seed: 77)
    let packed = try #require(packer.pack(bytes, bytes.count + 50_000))
    var position = 0
    var result: [UInt8] = []
    var longest = 0
    try StreamDecoder(codec: packer.codec, byteCount: UInt64(bytes.count)).decode(
      input: { buffer throws(ImageError) in
        let count = min(40_000, packed.count - position, buffer.byteCount)
        buffer.copy(packed.rawBytes.extracting(position..<position + count))
        position += count
        return count
      },
      output: { piece throws(ImageError) in
        result += piece.array()
        longest = max(longest, piece.byteCount)
      })
    #expect(result == bytes)
    #expect(longest <= 2 << 20)
  }

  // ADC has no end mark: there, more input than the unit needs is padding.
  @Test("more bytes than the unit has are an error", arguments: Packer.all.filter { $0.codec != .adc })
  func tooLong(packer: Packer) throws {
    let bytes = Samples.mixed(10_000, seed: 3)
    let packed = try #require(packer.pack(bytes, 11_000))
    let error = #expect(throws: ImageError.self) {
      try decodeStream(packer.codec, packed, byteCount: 9_990, pieceByteCount: 100)
    }
    #expect(error?.code == .corrupt)
  }

  @Test("without a size, all of the stream is taken", arguments: Packer.all)
  func withoutSize(packer: Packer) throws {
    let bytes = Samples.mixed(10_000, seed: 4)
    let packed = try #require(packer.pack(bytes, 11_000))
    #expect(try decodeStream(packer.codec, packed, byteCount: nil) == bytes)
  }

  @Test("errors of input and output pass through", arguments: Packer.all)
  func errors(packer: Packer) throws {
    let bytes = Samples.mixed(10_000, seed: 5)
    let packed = try #require(packer.pack(bytes, 11_000))
    let input = #expect(throws: ImageError.self) {
      try StreamDecoder(codec: packer.codec).decode(
        input: { _ throws(ImageError) in throw ImageError(.io, "cannot read") },
        output: { _ throws(ImageError) in })
    }
    #expect(input?.code == .io)
    var isRead = false
    let output = #expect(throws: ImageError.self) {
      try StreamDecoder(codec: packer.codec).decode(
        input: { buffer throws(ImageError) in
          guard !isRead else { return 0 }
          isRead = true
          buffer.copy(packed.rawBytes)
          return packed.count
        },
        output: { _ throws(ImageError) in throw ImageError(.cancelled, "enough") })
    }
    #expect(output?.code == .cancelled)
  }
}
