package import PlatterCore

/// Changes the size of a disk.
package struct Resize {
  package enum Change: Sendable, Equatable {
    case to(UInt64)
    case growing(by: UInt64)
    case shrinking(by: UInt64)
  }

  private let image: DiskImage
  package var change: Change
  /// Bytes may be lost at the end.
  package var mayShrink = false

  /// - Parameter image: opened for writing, with its backing chain: what a backing image has behind the old end must not
  ///   show.
  package init(_ image: DiskImage, _ change: Change) {
    self.image = image
    self.change = change
  }

  /// The size that comes out.
  /// - Throws: `.invalidArgument` where there is none.
  package func newByteCount() throws(ImageError) -> UInt64 {
    let old = image.byteCount
    let new: UInt64?
    switch change {
    case .to(let byteCount): new = byteCount
    case .growing(let byteCount): new = old.adding(byteCount)
    case .shrinking(let byteCount): new = old.subtracting(byteCount)
    }
    guard let new, new <= UInt64(Int64.max) else {
      throw ImageError(.invalidArgument, "the new size is below 0 or above what any disk can have", file: image.name)
    }
    return new
  }

  /// Changes the size; on stable storage afterwards.
  /// - Throws: `.invalidArgument` where the disk would shrink and may not; what writing throws.
  package func run() throws(ImageError) {
    let new = try newByteCount()
    guard new >= image.byteCount || mayShrink else {
      throw ImageError(
        .invalidArgument, "the disk would shrink from \(image.byteCount) to \(new) bytes and lose what lies behind",
        file: image.name)
    }
    let writer = try DiskWriter(image)
    try writer.closing { () throws(ImageError) in try writer.resize(to: new) }
  }
}
