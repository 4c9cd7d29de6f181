import CBzip2

/// Packs units as one bzip2 stream each.
package struct Bzip2Encoder: Sendable {
  private let level: Int32

  /// - Parameter level: block size in 100 kB, 1 to 9; values outside are brought inside.
  package init(level: Int = 9) { self.level = Int32(max(1, min(level, 9))) }

  /// Packs one unit. Takes up to 7.6 MB of memory for the time.
  ///
  /// - Returns: bytes written; nil where the stream does not fit into `output`, and so is not worth it.
  package func encode(_ bytes: RawSpan, into output: inout MutableRawSpan) -> Int? {
    guard bytes.byteCount <= UInt32.max else { return nil }
    return unsafe withAddresses(bytes, &output) { input, inputCount, output, outputCount in
      var written = UInt32(clamping: outputCount)
      let status = unsafe BZ2_bzBuffToBuffCompress(
        output.assumingMemoryBound(to: CChar.self), &written,
        UnsafeMutablePointer(mutating: input.assumingMemoryBound(to: CChar.self)), UInt32(inputCount), level, 0, 0)
      return status == BZ_OK ? Int(written) : nil
    }
  }
}
