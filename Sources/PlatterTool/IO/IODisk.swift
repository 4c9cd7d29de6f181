import Platter
import PlatterCore
import SystemPackage

/// How a disk is opened for the exerciser.
struct IODiskOptions {
  var isReadOnly = false
  var cache = OpenOptions.CacheMode.writethrough
  /// Whether discards have an effect.
  var discards = true
  var isShared = false
  /// Writes go to a temporary file.
  var isSnapshot = false
  /// All data is stored compressed (QEMU's "compress" filter).
  var compresses = false
  /// What is read from images below is stored in the disk's own.
  var copiesOnRead = false
  /// What requests meet on their way (QEMU's "blkdebug" filter).
  var filter: RequestFilter?
  var format: String?
}

/// An open disk: requests in pieces of bounded size, whatever length is asked for.
final class IODisk {
  /// Pieces end at multiples of this, so that no cluster is written in two.
  private static let pieceByteCount: UInt64 = 2 << 20  // qcow2: the largest cluster
  private static let sectorByteCount: UInt64 = 512

  let image: DiskImage
  let options: IODiskOptions
  let writer: DiskWriter?
  /// The room for a machine's state as a disk of its own, once it was asked for.
  private lazy var machineState = Result { () throws(ImageError) in try openMachineState() }
  /// Why the disk cannot be written although that was asked for.
  let refusal: String?

  init(_ image: DiskImage, _ options: IODiskOptions) throws(ImageError) {
    self.image = image
    self.options = options
    if options.isReadOnly {
      writer = nil
      refusal = nil
    } else if image.layers[0].map is any WritableMap {
      // Requests flush here, at their ends: the writer sees pieces of them.
      writer = try DiskWriter(image, cache: options.cache == .unsafe ? .unsafe : .writeback)
      refusal = nil
    } else {
      writer = nil
      refusal = "the \(image.formatName) format cannot be written"
    }
  }

  /// Bytes that requests may reach: whole sectors.
  var byteCount: UInt64 { image.byteCount.dividedRoundingUp(by: Self.sectorByteCount) * Self.sectorByteCount }

  func check(_ offset: UInt64, _ count: UInt64) throws(ImageError) {
    guard offset <= byteCount, count <= byteCount - offset else {
      throw ImageError(.io, "the request lies outside the disk", errno: .ioError)
    }
  }

  /// Hands out the bytes of a range, piece by piece: `body` gets them and their place in the range.
  func read(_ offset: UInt64, _ count: UInt64, _ body: (RawSpan, UInt64) -> Void) throws(ImageError) {
    try check(offset, count)
    try options.filter?.check(.read, offset, count)
    guard count > 0 else { return }
    if options.copiesOnRead, let writer {
      let filter = options.filter
      let range = min(offset, image.byteCount)..<min(offset + count, image.byteCount)
      try image.copyUp(range, writer) { (part, isZero) throws(ImageError) in
        filter?.happened(RequestFilter.copyOnRead)
        try filter?.check(isZero ? .zero : .write, part.lowerBound, part.upperBound - part.lowerBound)
      }
    }
    var bytes = [UInt8](repeating: 0, count: Int(min(count, Self.pieceByteCount)))
    try forEachPiece(offset, count) { (position, length) throws(ImageError) in
      let present = Int(min(length, image.byteCount - min(position, image.byteCount)))
      try bytes.withMutableRawBytes { span throws(ImageError) in
        var part = span._mutatingExtracting(0..<present)
        try image.read(into: &part, at: position)
      }
      // A raw file may end inside its last sector.
      for index in present..<Int(length) { bytes[index] = 0 }
      body(bytes.rawBytes.extracting(0..<Int(length)), position - offset)
    }
  }

  /// Writes a range that repeats `filling`.
  func write(_ offset: UInt64, _ count: UInt64, filling: [UInt8]) throws(ImageError) {
    try check(offset, count)
    try options.filter?.check(.write, offset, count)
    guard count > 0, let writer else { return }
    guard !options.compresses else { return try writeWholeUnits(offset, count, filling: filling, writer) }
    try growToSector(offset + count, writer)
    var bytes = Self.repeated(filling, from: 0, count: Int(min(count, Self.pieceByteCount)))
    try forEachPiece(offset, count) { (position, length) throws(ImageError) in
      if position > offset, filling.count > 1 {
        bytes = Self.repeated(filling, from: position - offset, count: Int(length))
      }
      let part = bytes.rawBytes.extracting(0..<Int(length))
      if position == 0 { try refuseForeignHead(part) }
      try writer.write(part, at: position)
    }
  }

  /// Writes a range and what belongs around it as compressed units.
  private func writeWholeUnits(_ offset: UInt64, _ count: UInt64, filling: [UInt8], _ writer: DiskWriter)
    throws(ImageError)
  {
    guard let unit = writer.packedUnitByteCount else {
      throw ImageError(.unsupported, "the image has no compressed clusters")
    }
    var position = offset / unit * unit
    while position < offset + count {
      let end = min(position + unit, image.byteCount)
      let first = max(position, offset)
      let last = min(end, offset + count)
      var bytes = try image.read(Int(end - position), at: position)
      let new = Self.repeated(filling, from: first - offset, count: Int(last - first))
      bytes.replaceSubrange(Int(first - position)..<Int(last - position), with: new)
      try writer.writeCompressed(bytes.rawBytes, at: position)
      position = end
    }
  }

  /// Writes a range as compressed units.
  func writeCompressed(_ offset: UInt64, _ count: UInt64, filling: [UInt8]) throws(ImageError) {
    try check(offset, count)
    guard let writer else { return }
    guard let unit = writer.packedUnitByteCount else {
      throw ImageError(.unsupported, "the image has no compressed clusters")
    }
    guard offset % unit == 0, count % unit == 0 || offset + count == byteCount else {
      throw ImageError(.invalidArgument, "a compressed write takes whole clusters")
    }
    try forEachPiece(offset, count) { (position, length) throws(ImageError) in
      let bytes = Self.repeated(filling, from: position - offset, count: Int(length))
      try writer.writeCompressed(bytes.rawBytes, at: position)
    }
  }

  /// Makes a range read as zeros.
  func zero(_ offset: UInt64, _ count: UInt64, mayUnmap: Bool) throws(ImageError) {
    try check(offset, count)
    guard let writer else { return }
    try growToSector(offset + count, writer)
    let whole = try zeroEdges(offset..<offset + count)
    guard !whole.isEmpty else { return }
    try options.filter?.check(.zero, whole.lowerBound, whole.upperBound - whole.lowerBound)
    try writer.zero(whole, mayUnmap: mayUnmap && options.discards)
  }

  /// Writes the ends of a range that is to be zero as data, where the filter wants that.
  /// - Returns: what is left of the range.
  private func zeroEdges(_ range: Range<UInt64>) throws(ImageError) -> Range<UInt64> {
    guard let filter = options.filter, filter.zeroStep > 1 else { return range }
    let step = filter.zeroStep
    let start = min(range.lowerBound.dividedRoundingUp(by: step) * step, range.upperBound)
    let end = max(start, range.upperBound / step * step)
    for edge in [range.lowerBound..<start, end..<range.upperBound] where !edge.isEmpty {
      try write(edge.lowerBound, edge.upperBound - edge.lowerBound, filling: [0])
    }
    return start..<end
  }

  func discard(_ offset: UInt64, _ count: UInt64) throws(ImageError) {
    try check(offset, count)
    try options.filter?.check(.discard, offset, count)
    guard let writer, options.discards else { return }
    try writer.discard(min(offset, image.byteCount)..<min(offset + count, image.byteCount))
  }

  // MARK: Machine state

  private struct MachineState {
    let image: DiskImage
    let start: UInt64
    let writer: DiskWriter?
  }

  private func openMachineState() throws(ImageError) -> MachineState {
    guard let map = image.layers[0].map as? any MachineStateMap else {
      throw ImageError(.unsupported, "the \(image.formatName) format has no room for a machine's state")
    }
    var layer = image.layers[0]
    layer.map = try map.machineState()
    let room = DiskImage(layers: [layer])
    let writer = writer == nil ? nil : try DiskWriter(room, cache: options.cache == .unsafe ? .unsafe : .writeback)
    return MachineState(image: room, start: map.machineStateOffset, writer: writer)
  }

  /// The place of a request in that room.
  private func place(_ offset: UInt64, _ count: UInt64, in room: MachineState) throws(ImageError) -> UInt64 {
    guard let start = room.start.adding(offset), let end = start.adding(count), end <= room.image.byteCount else {
      throw ImageError(.io, "the request lies outside the room for a machine's state", errno: .ioError)
    }
    return start
  }

  /// As `read`, of a machine's state.
  func readMachineState(_ offset: UInt64, _ count: UInt64, _ body: (RawSpan, UInt64) -> Void) throws(ImageError) {
    let room = try machineState.get()
    let start = try place(offset, count, in: room)
    try forEachPiece(start, count) { (position, length) throws(ImageError) in
      let bytes = try room.image.read(Int(length), at: position)
      body(bytes.rawBytes, position - start)
    }
  }

  /// As `write`, into a machine's state.
  func writeMachineState(_ offset: UInt64, _ count: UInt64, filling: [UInt8]) throws(ImageError) {
    let room = try machineState.get()
    guard let writer = room.writer else { return }
    let start = try place(offset, count, in: room)
    try forEachPiece(start, count) { (position, length) throws(ImageError) in
      let bytes = Self.repeated(filling, from: position - start, count: Int(length))
      try writer.write(bytes.rawBytes, at: position)
    }
    try writer.flush()
  }

  /// The end of a request: on stable storage where the cache mode or the request itself says so.
  func finishRequest(forced: Bool = false) throws(ImageError) {
    guard forced || options.cache == .writethrough || options.cache == .directsync else { return }
    try options.filter?.check(.flush)
    try writer?.flush()
  }

  func close() throws(ImageError) { try writer?.close() }

  private func forEachPiece(
    _ offset: UInt64, _ count: UInt64, _ body: (UInt64, UInt64) throws(ImageError) -> Void
  ) throws(ImageError) {
    var position = offset
    while position < offset + count {
      let length = min(offset + count - position, Self.pieceByteCount - position % Self.pieceByteCount)
      try body(position, length)
      position += length
    }
  }

  private static func repeated(_ filling: [UInt8], from start: UInt64, count: Int) -> [UInt8] {
    guard filling.count > 1 else { return [UInt8](repeating: filling.first ?? 0, count: count) }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count)
    var place = Int(start % UInt64(filling.count))
    while bytes.count < count {
      let part = filling[place..<min(filling.count, place + count - bytes.count)]
      bytes += part
      place = 0
    }
    return bytes
  }

  /// A raw file that ends inside a sector grows to its end when that is written.
  private func growToSector(_ end: UInt64, _ writer: DiskWriter) throws(ImageError) {
    if end > image.byteCount { try writer.resize(to: end) }
  }

  /// In a disk whose format was guessed as raw, the first sector may not become the head of another format: the next
  /// guess would follow what a guest has written.
  private func refuseForeignHead(_ bytes: RawSpan) throws(ImageError) {
    guard image.layers[0].wasProbed, image.formatName == "raw" else { return }
    let sector = Int(min(Self.sectorByteCount, image.byteCount))
    var head = try image.read(sector, at: 0)
    for index in 0..<min(sector, bytes.byteCount) { head[index] = bytes[index] }
    let best = try Formats.probe(MemoryStore(head))[0]
    let isForeign = best.format.name != "raw" || Formats.unsupportedSignature(head.rawBytes) != nil
    guard !isForeign else {
      throw ImageError(
        .forbidden, "the format was guessed as raw, and this would be the start of another one",
        errno: .notPermitted)
    }
  }
}

extension ImageError {
  /// The system's sentence that scripts expect of a failed request.
  var systemSentence: String {
    if let errno { return errno.description }
    let reason: Errno =
      switch code {
      case .notFound: .noSuchFileOrDirectory
      case .io, .corrupt, .truncated: .ioError
      case .unsupported: .notSupported
      case .invalidArgument: .invalidArgument
      case .busy: .resourceBusy
      case .forbidden: .notPermitted
      case .cancelled: .canceled
      }
    return reason.description
  }
}
