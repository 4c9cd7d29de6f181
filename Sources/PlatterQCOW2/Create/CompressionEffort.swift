package import PlatterCodecs
package import PlatterCore

/// How hard compressed clusters are packed: the format says nothing about it, so these are options of our own.
package struct CompressionEffort: Sendable {
  package var codec: Codec
  /// The library's own number; nil for our usual effort.
  package var level: Int?
  package var window: DeflateEncoder.Window

  package enum Codec: Sendable { case deflate, zstd }

  package init(_ request: CreationRequest) throws(ImageError) {
    codec = request.text("compression_type") == "zstd" ? .zstd : .deflate
    window = .full
    if let asked = try request.number("compression_level") {
      let most: UInt64 = codec == .zstd ? 22 : 12
      guard (1...most).contains(asked) else {
        throw .invalidArgument("compression_level \(asked) is not between 1 and \(most)")
      }
      level = Int(asked)
    }
    switch request.text("compression_window") {
    case nil, "32k": break
    case "4k":
      guard codec == .deflate else { throw .invalidArgument("compression_window is for compression_type zlib only") }
      window = .fourKiB
    case let other?: throw .invalidArgument("compression_window \"\(other)\" is neither 4k nor 32k")
    }
  }

  /// For an image that is there: its compression type, our usual effort.
  package init(_ compression: Header.Compression) {
    codec = compression == .zstd ? .zstd : .deflate
    window = .full
  }
}
