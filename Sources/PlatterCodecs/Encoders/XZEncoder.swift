#if LZMA
  import CLZMA

  /// Packs units as one .xz container each: LZMA2 alone and no checksum, as Apple's ULMO images have it (a DMG has its
  /// own).
  package struct XZEncoder: Sendable {
    private static let minimumDictionaryByteCount = 4096

    private let preset: UInt32

    /// - Parameter level: liblzma's preset, 0 to 9; values outside are brought inside.
    package init(level: Int = 6) { preset = UInt32(max(0, min(level, 9))) }

    /// Packs one unit. The dictionary is no larger than the unit, so that readers need little memory.
    ///
    /// - Returns: bytes written; nil where the stream does not fit into `output`, and so is not worth it.
    package func encode(_ bytes: RawSpan, into output: inout MutableRawSpan) -> Int? {
      unsafe withAddresses(bytes, &output) { input, inputCount, output, outputCount in
        var options = unsafe lzma_options_lzma()
        guard unsafe lzma_lzma_preset(&options, preset) == 0 else { return nil }
        let dictionary = max(Self.minimumDictionaryByteCount, min(inputCount, Int(unsafe options.dict_size)))
        unsafe options.dict_size = UInt32(dictionary)
        return unsafe withUnsafeMutablePointer(to: &options) { options in
          // The unknown id ends the list (LZMA_VLI_UNKNOWN, all ones).
          var filters = unsafe [
            lzma_filter(id: 0x21, options: UnsafeMutableRawPointer(options)), lzma_filter(id: .max, options: nil),
          ]
          var written = 0
          let status = unsafe lzma_stream_buffer_encode(
            &filters, LZMA_CHECK_NONE, nil, input.assumingMemoryBound(to: UInt8.self), inputCount,
            output.assumingMemoryBound(to: UInt8.self), &written, outputCount)
          return status == LZMA_OK ? written : nil
        }
      }
    }
  }
#endif
