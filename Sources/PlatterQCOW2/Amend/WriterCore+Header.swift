import PlatterCore

extension WriterCore {
  /// The name of the backing file as the header has it; empty for none.
  func backingName() throws(ImageError) -> [UInt8] {
    guard header.backingNameOffset != 0 else { return [] }
    return try store.readFully(
      "the backing file's name", at: header.backingNameOffset, count: Int(header.backingNameByteCount))
  }

  /// Puts a changed header and changed extensions on disk: a cut leaves the old ones or the new.
  /// - Parameter backingName: nil keeps the present one.
  /// - Throws: `.unsupported` where all of it does not fit into the cluster; nothing is written then.
  mutating func rewriteHeader(
    _ new: Header, _ newExtensions: HeaderExtensions, backingName: [UInt8]? = nil, _ barrier: Barrier
  ) throws(ImageError) {
    var new = new
    let present = try self.backingName()
    let name = backingName ?? present
    let bytes = try new.serialise(newExtensions, backingName: name)
    try barrier()
    try switchHeader(to: bytes, presentName: present, barrier)
    header = new
    extensions = newExtensions
    byteCountOnDisk = new.virtualByteCount
  }

  /// Writes the start of cluster 0. A disk writes a sector whole or not at all, so the first one is the switch: what it
  /// refers to behind itself is there before, and not overwritten while it counts.
  private func switchHeader(to new: [UInt8], presentName: [UInt8], _ barrier: Barrier) throws(ImageError) {
    let sector = min(512, Int(clusterByteCount))
    let old = try store.readFully("header cluster", at: 0, count: Int(clusterByteCount))
    let padded = new.padded(to: Int(clusterByteCount))
    let (oldTail, newTail) = (old.dropFirst(sector), padded.dropFirst(sector))
    if new.count > sector, !oldTail.elementsEqual(newTail) {
      // Until the new tail is there, the old header is one that does without a tail.
      guard let bridge = try bridgeHeader(presentName, behind: new.count, barrier) else {
        return try store.write(padded.rawBytes, at: 0)
      }
      try store.write(bridge.rawBytes, at: 0)
      try barrier()
      let tail = Array(newTail.prefix(new.count - sector))
      try store.write(tail.rawBytes, at: UInt64(sector))
      try barrier()
    }
    let head = Array(padded.prefix(sector))
    try store.write(head.rawBytes, at: 0)
    try barrier()
    // The rest is nobody's.
    let end = max(new.count, sector)
    guard end < padded.count else { return }
    try store.zero(UInt64(end)..<clusterByteCount)
    try barrier()
  }

  /// The present header in one sector: without the names of features, and with the backing file's name at the end of the
  /// cluster where it does not fit; nil where that is not enough.
  private func bridgeHeader(_ name: [UInt8], behind used: Int, _ barrier: Barrier) throws(ImageError) -> [UInt8]? {
    var bridge = header
    let items = extensions.replacing(HeaderExtensions.Kind.featureNames, with: [])
    let whole = try bridge.serialise(items, backingName: name)
    if whole.count <= 512 { return whole.padded(to: 512) }
    bridge = header
    var bytes = try bridge.serialise(items)
    let place = Int(clusterByteCount) - name.count
    let oldEnd = max(Int(header.backingNameOffset) + name.count, whole.count + FeatureNames.standard.count + 8)
    guard bytes.count <= 512, place >= max(used, oldEnd, 512) else { return nil }
    try store.write(name.rawBytes, at: UInt64(place))
    try barrier()
    bytes.withMutableRawBytes { raw in
      raw.storeBigEndian(UInt64(place), at: 8)
      raw.storeBigEndian(UInt32(name.count), at: 16)
    }
    return bytes.padded(to: 512)
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

extension [UInt8] {
  /// With zeros behind.
  fileprivate func padded(to count: Int) -> [UInt8] { self + [UInt8](repeating: 0, count: count - self.count) }
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
