import PlatterCore

extension WriterCore {
  /// The name of the backing file as the header has it; empty for none.
  func backingName() throws(ImageError) -> [UInt8] {
    guard header.backingNameOffset != 0 else { return [] }
    return try store.readFully(
      "the backing file's name", at: header.backingNameOffset, count: Int(header.backingNameByteCount))
  }

  /// Puts a changed header and changed extensions on disk in one write of cluster 0.
  /// - Parameter backingName: nil keeps the present one.
  /// - Throws: `.unsupported` where all of it does not fit into the cluster; nothing is written then.
  mutating func rewriteHeader(
    _ new: Header, _ newExtensions: HeaderExtensions, backingName: [UInt8]? = nil, _ barrier: Barrier
  ) throws(ImageError) {
    var new = new
    let present = try self.backingName()
    let name = backingName ?? present
    try barrier()
    try new.rewrite(in: store, newExtensions, backingName: name)
    try barrier()
    header = new
    extensions = newExtensions
    byteCountOnDisk = new.virtualByteCount
  }

  mutating func setBacking(name: [UInt8], formatName: String?, _ barrier: Barrier) throws(ImageError) {
    guard !isDataFileRaw || name.isEmpty else {
      throw .unsupported("an image with a raw data file cannot have a backing file as well")
    }
    guard name.count <= Int(Header.maximumBackingNameByteCount) else {
      throw .unsupported(
        "the backing file's name has \(name.count) bytes, more than \(Header.maximumBackingNameByteCount)")
    }
    let format = name.isEmpty ? [] : Array((formatName ?? "").utf8)
    guard format.count <= HeaderExtensions.maximumBackingFormatByteCount else {
      throw .unsupported(
        "the backing format's name has \(format.count) bytes, more than "
          + "\(HeaderExtensions.maximumBackingFormatByteCount)")
    }
    try publish(barrier)
    try rewriteHeader(
      header, extensions.replacing(HeaderExtensions.Kind.backingFormat, with: format), backingName: name, barrier)
    hasBacking = !name.isEmpty
  }
}

extension HeaderExtensions {
  /// The same with one item of a type, at the place of the first that was there; none where `bytes` is empty.
  func replacing(_ type: UInt32, with bytes: [UInt8]) -> HeaderExtensions {
    var new = self
    let place = items.firstIndex { $0.type == type } ?? (type == Kind.backingFormat ? 0 : items.count)
    new.items.removeAll { $0.type == type }
    if !bytes.isEmpty { new.items.insert(Item(type: type, bytes: bytes), at: min(place, new.items.count)) }
    return new
  }
}
