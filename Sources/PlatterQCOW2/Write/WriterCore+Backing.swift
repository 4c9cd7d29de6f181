package import PlatterCore

extension QCOW2Writer: RebaseableMap {
  package func setBacking(_ name: [UInt8]?, format: String?, _ barrier: Barrier) throws(ImageError) {
    try locked { core throws(ImageError) in try core.setBacking(name, format: format, barrier) }
  }
}

extension WriterCore {
  private static let maximumBackingNameByteCount = 1023  // the specification's

  /// Rewrites the header cluster with another backing file. Everything that the old one showed is on disk before.
  mutating func setBacking(_ name: [UInt8]?, format: String?, _ barrier: Barrier) throws(ImageError) {
    let name = name ?? []
    guard name.count <= Self.maximumBackingNameByteCount else {
      throw .invalidArgument(
        "the backing file's name has \(name.count) bytes, more than \(Self.maximumBackingNameByteCount)")
    }
    guard name.isEmpty || !isDataFileRaw else {
      throw .invalidArgument("an image with a raw data file cannot have a backing file as well")
    }
    var new = extensions
    new.items.removeAll { $0.type == HeaderExtensions.Kind.backingFormat }
    if !name.isEmpty, let format, !format.isEmpty {
      new.items.insert(.init(type: HeaderExtensions.Kind.backingFormat, bytes: Array(format.utf8)), at: 0)
    }
    try publish(barrier)
    var changed = header
    // Checked first: a header that does not fit must not have been written in part.
    _ = try changed.serialise(new, backingName: name)
    try barrier()
    try changed.rewrite(in: store, new, backingName: name)
    try barrier()
    header = changed
    extensions = new
  }
}
