package import PlatterCore

extension PackedCodec {
  /// - Throws: `.unsupported` where this build was made without the package trait that brings the codec's library.
  package func requireSupport() throws(ImageError) {
    #if !Zstd
      if self == .zstd { throw .unsupported("built without zstd (the package trait Zstd)") }
    #endif
    #if !LZMA
      if self == .xz { throw .unsupported("built without LZMA (the package trait LZMA)") }
    #endif
  }
}

// What stands in the place of the libraries that are left out. `requireSupport` is asked first, so that nobody gets here.

#if !Zstd
  final class ZstdUnit: PieceDecoder {
    static var name: String { "zstd" }

    init() throws(ImageError) { try PackedCodec.zstd.requireSupport() }

    func start() throws(ImageError) { try PackedCodec.zstd.requireSupport() }
    func startsStream(_ bytes: RawSpan) -> Bool { false }
    func decode(_ packed: RawSpan, into output: inout MutableRawSpan) throws(ImageError) -> Int { 0 }
    func decode(_ input: RawSpan, into output: inout MutableRawSpan) throws(ImageError) -> Piece {
      Piece(consumed: 0, produced: 0, isFinished: true)
    }
  }

  package final class ZstdEncoder {
    package init(level: Int? = nil) {}
    package func encode(_ bytes: RawSpan, into output: inout MutableRawSpan) -> Int? { nil }
  }
#endif

#if !LZMA
  final class XZStream: PieceDecoder {
    static var name: String { "xz" }

    func start() throws(ImageError) { try PackedCodec.xz.requireSupport() }
    func startsStream(_ bytes: RawSpan) -> Bool { false }
    func decode(_ input: RawSpan, into output: inout MutableRawSpan) throws(ImageError) -> Piece {
      Piece(consumed: 0, produced: 0, isFinished: true)
    }
  }

  package final class XZUnit {
    package init() {}
    package func decode(_ packed: RawSpan, into output: inout MutableRawSpan) -> Int? { nil }
  }

  package struct XZEncoder: Sendable {
    package init(level: Int = 6) {}
    package func encode(_ bytes: RawSpan, into output: inout MutableRawSpan) -> Int? { nil }
  }
#endif
