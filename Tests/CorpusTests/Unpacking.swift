import CLZMA
import PlatterCore
import SystemPackage
import TestSupport

/// Unpacks the corpus's .xz files; runs of zeros become holes, as they were in the originals.
enum Unpacking {
  private static let unit = 1 << 16

  static func unpack(_ source: FilePath, to target: FilePath) throws {
    let packed = try readFile(source)
    var options = FileStore.Options(isWritable: true)
    options.creates = true
    options.truncates = true
    let store = try FileStore(target, options)
    var stream = unsafe lzma_stream()
    defer { unsafe lzma_end(&stream) }
    guard unsafe lzma_stream_decoder(&stream, UInt64.max, 0) == LZMA_OK else {
      throw RunError(description: "no memory")
    }
    var output = [UInt8](repeating: 0, count: unit)
    var offset: UInt64 = 0
    var status = LZMA_OK
    try unsafe packed.withUnsafeBufferPointer { packed in
      unsafe stream.next_in = packed.baseAddress
      unsafe stream.avail_in = packed.count
      while status == LZMA_OK {
        let count = unsafe output.withUnsafeMutableBufferPointer { output in
          unsafe stream.next_out = output.baseAddress
          unsafe stream.avail_out = output.count
          while status == LZMA_OK, unsafe stream.avail_out > 0 { status = unsafe lzma_code(&stream, LZMA_FINISH) }
          return unsafe output.count - stream.avail_out
        }
        let part = output.rawBytes.extracting(first: count)
        if !part.isAllZero { try store.write(part, at: offset) }
        offset += UInt64(count)
      }
    }
    guard status == LZMA_STREAM_END else { throw RunError(description: "\(source): damaged (\(status.rawValue))") }
    try store.resize(to: offset)
  }
}
