import PlatterCore

final class SpoolCache: Sendable {
  func read(_ run: Run, _ image: DiskImage, into target: inout MutableRawSpan) throws(ImageError) {
    throw ImageError(.unsupported, "huge packed units")
  }
}
