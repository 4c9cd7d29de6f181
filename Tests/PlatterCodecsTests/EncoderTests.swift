import PlatterCodecs
import PlatterCore
import Testing

@Suite struct EncoderTests {
  private static let sizes = [1, 2, 7, 8, 9, 100, 511, 512, 4095, 4096, 4097, 70_001]

  private static func samples(_ count: Int) -> [[UInt8]] {
    [
      Samples.text(count, seed: UInt64(count)), Samples.noise(count, seed: UInt64(count)),
      [UInt8](repeating: 0, count: count), Samples.mixed(count, seed: UInt64(count)),
    ]
  }

  @Test("what an encoder packs, both decoders unpack", arguments: Packer.all, sizes)
  func roundTrip(packer: Packer, count: Int) throws {
    for bytes in Self.samples(count) {
      let packed = try #require(packer.pack(bytes, count + count / 50 + 1000))
      #expect(try decodeUnit(packer.codec, packed, byteCount: count).bytes == bytes)
      let pieces = try decodeStream(packer.codec, packed, byteCount: count, pieceByteCount: 1 << 16)
      #expect(pieces == bytes)
    }
  }

  @Test("text shrinks to less than half", arguments: Packer.all)
  func shrinks(packer: Packer) throws {
    let bytes = Samples.text(100_000, seed: 5)
    let packed = try #require(packer.pack(bytes, bytes.count))
    #expect(packed.count < bytes.count / 2)
  }

  @Test("what does not fit is not written, one byte less than needed included", arguments: Packer.all)
  func tooLittleRoom(packer: Packer) throws {
    let noise = Samples.noise(5000, seed: 9)
    #expect(packer.pack(noise, 4999) == nil)
    #expect(packer.pack(noise, 0) == nil)
    let text = Samples.text(5000, seed: 9)
    let packed = try #require(packer.pack(text, 10_000))
    #expect(packer.pack(text, packed.count - 1) == nil)
  }

  @Test("an encoder that is used again forgets the unit before", arguments: [4000, 50_000])
  func reuse(count: Int) throws {
    let lzfse = LZFSEEncoder()
    let adc = ADCEncoder()
    for seed: UInt64 in 1...4 {
      let bytes = seed == 2 ? Samples.noise(count, seed: seed) : Samples.mixed(count, seed: seed)
      let first = try #require(pack(bytes, room: count + 1000) { lzfse.encode($0, into: &$1) })
      #expect(try decodeUnit(.lzfse, first, byteCount: count).bytes == bytes)
      let second = try #require(pack(bytes, room: count + 1000) { adc.encode($0, into: &$1) })
      #expect(try decodeUnit(.adc, second, byteCount: count).bytes == bytes)
      // A unit that did not fit leaves nothing behind.
      _ = pack(bytes, room: 100) { lzfse.encode($0, into: &$1) }
    }
  }

  @Test("noise costs twelve bytes in LZFSE and one in 128 in ADC", arguments: [0, 1, 127, 128, 129, 10_000])
  func worstCase(count: Int) throws {
    let bytes = Samples.noise(count, seed: 2)
    let lzfse = LZFSEEncoder()
    let stored = try #require(pack(bytes, room: count + 12) { lzfse.encode($0, into: &$1) })
    #expect(stored.count <= count + 12)
    let adc = ADCEncoder()
    let actions = try #require(pack(bytes, room: count + (count + 127) / 128) { adc.encode($0, into: &$1) })
    #expect(actions.count <= count + (count + 127) / 128)
  }

  @Test("LZFSE takes up more than one block, long literal runs, long matches and far ones")
  func longStreams() throws {
    let noise = Samples.noise(262_000, seed: 4)
    let bytes =
      Samples.text(900_000, seed: 1) + noise + [UInt8](repeating: 7, count: 500_000) + noise
      + Samples.noise(50_000, seed: 6) + noise.prefix(1000)
    let encoder = LZFSEEncoder()
    let packed = try #require(pack(bytes, room: bytes.count + 12) { encoder.encode($0, into: &$1) })
    #expect(packed.count < bytes.count * 2 / 3)
    #expect(try decodeUnit(.lzfse, packed, byteCount: bytes.count).bytes == bytes)
    #expect(try decodeStream(.lzfse, packed, byteCount: bytes.count, pieceByteCount: 10_007) == bytes)
  }
}
