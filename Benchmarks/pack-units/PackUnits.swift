import PlatterCodecs
import PlatterCore

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Packs units for the benchmark's images with an encoder that no other program here has.
///
/// Standard input: units, each a length (32 bits, little-endian) and so many bytes. Standard output: an LZFSE stream for
/// each, in the same form and order. Ends with its input, with status 1 where that is cut or nobody reads.
@main enum PackUnits {
  static func main() {
    let encoder = LZFSEEncoder()
    while let head = read(4), let byteCount = head.rawBytes.littleEndian(at: 0, as: UInt32.self) {
      guard let unit = read(Int(byteCount)) else { exit(1) }
      // Never longer: a stored block and the end mark take 12 bytes.
      var packed = [UInt8](repeating: 0, count: unit.count + 12)
      let count = packed.withMutableRawBytes { encoder.encode(unit.rawBytes, into: &$0) }
      guard let count else { exit(1) }
      write((0..<4).map { UInt8(truncatingIfNeeded: count >> ($0 * 8)) } + packed.prefix(count))
    }
  }

  /// Nil at the end of the input.
  private static func read(_ count: Int) -> [UInt8]? {
    var bytes = [UInt8](repeating: 0, count: count)
    var done = 0
    while done < count {
      let got = unsafe bytes.withUnsafeMutableBytes { bytes in
        unsafe Glibc.read(0, bytes.baseAddress.map { unsafe $0 + done }, count - done)
      }
      guard got > 0 else { return nil }
      done += got
    }
    return bytes
  }

  private static func write(_ bytes: [UInt8]) {
    var done = 0
    while done < bytes.count {
      let put = unsafe bytes.withUnsafeBytes { bytes in
        unsafe Glibc.write(1, bytes.baseAddress.map { unsafe $0 + done }, bytes.count - done)
      }
      guard put > 0 else { exit(1) }
      done += put
    }
  }
}
