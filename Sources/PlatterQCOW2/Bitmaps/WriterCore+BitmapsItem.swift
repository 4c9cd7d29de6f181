import PlatterCore

// The header extension that names the directory of bitmaps. Header, extensions and the backing file's name share cluster
// 0, which may be several sectors: written anew as a whole, it could be torn, and the name lost. So only what changes is
// written, in steps of which each leaves a header that can be read:
//
//   changed   its 24 bytes, while the autoclear bit is off
//   removed   an end mark takes its place
//   added     the name, where it is in the way, is written behind itself -- barrier -- its offset in the header --
//             barrier -- bytes of the extension and a new end mark, behind the old end mark -- barrier -- the
//             extension's type and length, over the old end mark

extension WriterCore {
  private static let markByteCount: UInt64 = 8

  /// Makes the header name another directory, or none where `bytes` is empty. The autoclear bit is off.
  mutating func switchBitmapsItem(to bytes: [UInt8], _ barrier: Barrier) throws(ImageError) {
    try barrier()
    let kind = HeaderExtensions.Kind.bitmaps
    let places = itemPlaces()
    let present = extensions.items.indices.filter { extensions.items[$0].type == kind }
    let isDone: Bool
    if present.isEmpty {
      isDone = bytes.isEmpty ? true : try appendItem(bytes, at: places[places.count - 1], barrier)
    } else if present.count == 1, let index = present.first {
      isDone = try changeItem(at: places[index], to: bytes, isLast: index == places.count - 2)
    } else {
      isDone = false
    }
    let new = extensions.replacing(kind, with: bytes)
    guard isDone else { return try rewriteHeader(header, new, barrier) }
    extensions = new
    try barrier()
  }

  /// Where each extension starts, and at last where the end mark is.
  private func itemPlaces() -> [UInt64] {
    var places = [UInt64(header.headerByteCount)]
    for item in extensions.items {
      places.append(places[places.count - 1] + Self.markByteCount + UInt64((item.bytes.count + 7) / 8 * 8))
    }
    return places
  }

  private func mark(at offset: UInt64) throws(ImageError) -> UInt64? {
    guard offset + Self.markByteCount <= clusterByteCount else { return nil }
    return Words.decode(
      try store.readFully("a header extension", at: offset, count: Int(Self.markByteCount)))[0]
  }

  /// - Returns: false where the item is not what it should be, or others come behind it.
  private func changeItem(at offset: UInt64, to bytes: [UInt8], isLast: Bool) throws(ImageError) -> Bool {
    let byteCount = UInt64(BitmapsExtension.byteCount)
    guard try mark(at: offset) == UInt64(HeaderExtensions.Kind.bitmaps) << 32 | byteCount else { return false }
    if !bytes.isEmpty {
      try store.write(bytes.rawBytes, at: offset + Self.markByteCount)
    } else {
      guard isLast else { return false }
      try store.write(Words.encode([0]).rawBytes, at: offset)
    }
    return true
  }

  /// - Returns: false where cluster 0 has no room for these steps.
  private mutating func appendItem(_ bytes: [UInt8], at offset: UInt64, _ barrier: Barrier) throws(ImageError) -> Bool {
    let name = try backingName()
    let end = offset + Self.markByteCount + UInt64(bytes.count) + Self.markByteCount
    let nameEnd = header.backingNameOffset + UInt64(name.count)
    guard end <= clusterByteCount, try mark(at: offset) == 0,
      name.isEmpty || offset + Self.markByteCount <= header.backingNameOffset
    else { return false }
    if !name.isEmpty, header.backingNameOffset < end {
      let place = max(end, nameEnd)
      guard place + UInt64(name.count) <= clusterByteCount else { return false }
      try store.write(name.rawBytes, at: place)
      try barrier()
      try store.write(Words.encode([place]).rawBytes, at: 8)
      try barrier()
      header.backingNameOffset = place
    }
    try store.write((bytes + [UInt8](repeating: 0, count: 8)).rawBytes, at: offset + Self.markByteCount)
    try barrier()
    let head = UInt64(HeaderExtensions.Kind.bitmaps) << 32 | UInt64(bytes.count)
    try store.write(Words.encode([head]).rawBytes, at: offset)
    return true
  }
}
