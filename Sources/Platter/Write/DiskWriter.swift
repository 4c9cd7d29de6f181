package import PlatterCore
import Synchronization

/// Writes guest bytes into the top image of a chain, in place: the write engine of all formats that allocate.
///
/// The format's map says where bytes may go and orders its own structures; this moves the bytes, fills what an allocation
/// leaves around them, keeps writers of the same units apart, and decides when to publish.
///
/// Invariants: data I/O happens outside every lock of the map; a range is written in place only under a shared hold, and
/// allocated, linked or released only under an exclusive one over whole units; after a failure of `publish` every further
/// request fails, because what is on disk is no longer known.
package final class DiskWriter: Sendable {
  /// Most guest bytes that one step allocates: bounds the memory of a merged write.
  static let maximumStepByteCount: UInt64 = 1 << 20
  /// Most guest bytes that get a place at once without being written.
  static let maximumPreallocationByteCount: UInt64 = 64 << 20
  /// Most units that one step releases, where they are more than so many bytes.
  private static let maximumReleaseUnitCount: UInt64 = 1 << 18
  private static let minimumReleaseByteCount: UInt64 = 1 << 30

  package let image: DiskImage
  let map: any WritableMap
  /// Every request is on stable storage when it returns (cache modes writethrough and directsync).
  private let isWritethrough: Bool
  /// Flushing is left out altogether (cache mode unsafe).
  let isUnsafe: Bool
  let ranges = RangeLock()
  let condition = Mutex(Condition())
  /// Whether a flush has failed.
  private let flushing = Monitor(false)
  /// One change of the size at a time.
  let resizing = Monitor(())

  struct Condition: Sendable {
    var isPrepared = false
    var hasFailed = false
    var isClosed = false
    /// Where the disk ends for requests: before the bytes that a growing disk has not cleared yet.
    var usableEnd = UInt64.max
  }

  /// - Parameter writesMuch: many bytes come in a row, and a flush at the end.
  /// - Throws: `.unsupported` where the format cannot be written; `.invalidArgument` where the image was opened read-only.
  package init(_ image: DiskImage, cache: OpenOptions.CacheMode = .writeback, writesMuch: Bool = false)
    throws(ImageError)
  {
    guard let map = image.layers[0].map as? any WritableMap else {
      throw ImageError(.unsupported, "the \(image.formatName) format cannot be written", file: image.name)
    }
    guard map.stores.allSatisfy(\.isWritable) else {
      throw ImageError(.invalidArgument, "opened read-only", file: image.name)
    }
    self.image = image
    self.map = map
    isWritethrough = cache == .writethrough || cache == .directsync
    isUnsafe = cache == .unsafe
    if writesMuch, !isUnsafe { for store in map.stores { store.expectFlush() } }
  }

  /// Units that are allocated and released whole.
  var unit: UInt64 { max(map.allocationUnit ?? map.mapUnit, map.mapUnit) }

  // MARK: Requests

  /// Writes `bytes` at guest offset `offset`.
  /// - Throws: `.invalidArgument` outside the disk; what the map or a store throws. A failed request leaves each of its
  ///   bytes old or new.
  package func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) {
    try checkRange(UInt64(bytes.byteCount), offset)
    try prepare(toChange: offset + UInt64(bytes.byteCount))
    var done = 0
    while done < bytes.byteCount {
      let rest = bytes.extracting(done..<bytes.byteCount)
      let position = offset + UInt64(done)
      let inPlace = try writeInPlace(rest, at: position)
      done += inPlace > 0 ? inPlace : try writeAllocating(rest, at: position)
      if map.mustPublishSoon { try publish() }
    }
    if isWritethrough { try flush() }
  }

  /// Tells that the guest no longer needs bytes. What they read as afterwards is the format's matter; units that are only
  /// partly in the range are left alone.
  package func discard(_ range: Range<UInt64>) throws(ImageError) {
    try checkRange(range.upperBound - range.lowerBound, range.lowerBound)
    try prepare(toChange: range.upperBound)
    try map.changed(range)
    try release(wholeUnits(of: range, unit), as: .discard) { _ in }
    try finishRequest()
  }

  /// Gives whole units back to the backing image: they are absent afterwards (emptying an overlay).
  package func makeAbsent(_ range: Range<UInt64>) throws(ImageError) -> ReleaseAnswer {
    try prepare()
    let whole = wholeUnits(of: range)
    try map.changed(whole)
    var answer = ReleaseAnswer.done
    try release(whole, as: .absent) { _ in answer = .cannot }
    try finishRequest()
    return answer
  }

  /// Releases whole units step by step, so that what a step leaves unpublished is bounded.
  /// - Parameter cannot: takes a step that the format cannot say.
  func release(
    _ whole: Range<UInt64>, as result: Release, cannot: (Range<UInt64>) throws(ImageError) -> Void
  ) throws(ImageError) {
    let step = max(unit * Self.maximumReleaseUnitCount, Self.minimumReleaseByteCount)
    var position = whole.lowerBound
    while position < whole.upperBound {
      let end = min(whole.upperBound, (position / step + 1) * step)
      let part = position..<end
      let answer = try exclusively(part) { () throws(ImageError) in
        try checkRange(end - position, position)
        // Again, since bitmaps may have been cleared while this waited.
        try map.changed(part)
        return try map.release(part, as: result)
      }
      if answer == .cannot { try cannot(part) }
      if map.mustPublishSoon { try publish() }
      position = end
    }
  }

  /// Stores packed bytes as the unit that starts at `unitStart`, which must be unit-aligned.
  /// - Returns: false where the format has no packed units.
  package func writePacked(_ packed: RawSpan, unitStart: UInt64) throws(ImageError) -> Bool {
    precondition(unitStart % unit == 0)
    try prepare(toChange: min(unitStart + unit, map.byteCount))
    let isDone = try exclusively(unitStart..<unitStart + unit) { () throws(ImageError) in
      try checkRange(1, unitStart)
      return try linkPacked(packed, unitStart: unitStart)
    }
    if isDone { try finishRequest() }
    return isDone
  }

  private func linkPacked(_ packed: RawSpan, unitStart: UInt64) throws(ImageError) -> Bool {
    guard let allocation = try map.allocatePacked(unitStart: unitStart, byteCount: packed.byteCount) else {
      return false
    }
    do throws(ImageError) {
      try map.stores[Int(allocation.store)].write(packed, at: allocation.offset)
      try map.changed(unitStart..<min(unitStart + unit, map.byteCount))
    } catch {
      map.abandon(allocation)
      throw error
    }
    // What was decoded from this place is a unit that was given up since.
    if let codec = map.packedCodec {
      image.units.remove(UnitCache.Key(store: allocation.store, codec: codec, offset: allocation.offset))
    }
    try map.link(allocation)
    return true
  }

  /// Everything that requests have written so far is on stable storage after.
  package func flush() throws(ImageError) {
    try publish()
    // What a disk lost once it does not tell again: a later success would promise too much.
    if !isUnsafe { try endingWithFailure(barrier) }
  }

  /// Publishes everything and clears the format's marks. The writer takes no request afterwards.
  package func close() throws(ImageError) {
    let isOpen = condition.withLock { state in
      defer { state.isClosed = true }
      return state.isPrepared && !state.isClosed && !state.hasFailed
    }
    guard isOpen else { return }
    try exclusively(0..<UInt64.max) { () throws(ImageError) in try map.close(isUnsafe ? {} : barrier) }
  }

  /// Runs `body` and closes the writer, whether or not it went well: an image whose writer just goes away has lost its
  /// bitmaps. What went wrong first is what is told.
  package func closing(_ body: () throws(ImageError) -> Void) throws(ImageError) {
    do throws(ImageError) {
      try body()
    } catch {
      try? close()
      throw error
    }
    try close()
  }

  // MARK: Steps

  /// Overwrites the data run at the start of `bytes` where it may be overwritten. Returns the bytes written, 0 where the
  /// first byte needs an allocation.
  private func writeInPlace(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) -> Int {
    let end = offset + UInt64(bytes.byteCount)
    // Encrypted sectors are rewritten whole, so their neighbours must hold still.
    let isEncrypted = map.isEncrypted
    let hold = ranges.acquire(
      isEncrypted ? aligned(offset..<end, to: unit) : offset..<end, exclusive: isEncrypted)
    defer { ranges.release(hold) }
    guard let extent = try placeInPlace(offset..<end) else { return 0 }
    let count = Int(extent.byteCount)
    try map.changed(extent.start..<extent.end)
    let part = bytes.extracting(0..<count)
    if extent.cipher == 0 {
      try map.stores[Int(extent.store)].write(part, at: extent.offset)
    } else {
      try writeEncrypted(part, extent)
    }
    return count
  }

  /// The data run at the start of `range` that may be overwritten, or nil.
  private func placeInPlace(_ range: Range<UInt64>) throws(ImageError) -> Extent? {
    var extents: [Extent] = []
    _ = try map.map(range, limit: 1, into: &extents)
    guard let first = extents.first, first.kind == .data, !first.isShared else { return nil }
    return first
  }

  /// Rewrites the sectors that hold a run, whole: their ends may be old bytes.
  private func writeEncrypted(_ bytes: RawSpan, _ extent: Extent) throws(ImageError) {
    let cipher = map.ciphers[Int(extent.cipher) - 1]
    let sector = UInt64(cipher.sectorByteCount)
    let skip = extent.start % sector
    let guestStart = extent.start - skip
    let hostStart = extent.offset - skip
    let count = Int(((extent.end + sector - 1) / sector) * sector - guestStart)
    let store = map.stores[Int(extent.store)]
    var buffer = AlignedBuffer(byteCount: count, zeroed: true)
    let isWhole = skip == 0 && bytes.byteCount == count
    try buffer.withMutableBytes { sectors throws(ImageError) in
      if !isWhole {
        _ = try store.read(into: &sectors, at: hostStart)
        try cipher.decrypt(&sectors, guestOffset: guestStart, hostOffset: hostStart)
      }
      sectors.copy(bytes, to: Int(skip))
      try cipher.encrypt(&sectors, guestOffset: guestStart, hostOffset: hostStart)
    }
    try store.write(buffer.bytes, at: hostStart)
  }

  /// Allocates space for the start of `bytes`, writes it with what belongs around it, and links it. Returns the bytes
  /// written; 0 where somebody else has allocated meanwhile.
  private func writeAllocating(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) -> Int {
    let end = min(
      offset + UInt64(bytes.byteCount), aligned(offset..<offset + Self.maximumStepByteCount, to: unit).upperBound)
    let hold = ranges.acquire(aligned(offset..<end, to: unit), exclusive: true)
    defer { ranges.release(hold) }
    try checkRange(end - offset, offset)
    var limit = offset
    var extents: [Extent] = []
    while limit < end {
      extents.removeAll(keepingCapacity: true)
      let reached = try map.map(limit..<end, limit: 16, into: &extents)
      if let inPlace = extents.first(where: { $0.kind == .data && !$0.isShared }) {
        limit = inPlace.start
        break
      }
      limit = reached
    }
    guard limit > offset else { return 0 }
    let allocation = try map.allocate(offset..<limit)
    let payloadEnd = min(limit, allocation.range.upperBound)
    do throws(ImageError) {
      try write(bytes.extracting(0..<Int(payloadEnd - offset)), at: offset, into: allocation)
      try map.changed(offset..<payloadEnd)
    } catch {
      map.abandon(allocation)
      throw error
    }
    try map.link(allocation)
    return Int(payloadEnd - offset)
  }

  /// Writes payload, head and tail of an allocation in one write.
  func write(_ payload: RawSpan, at offset: UInt64, into allocation: Allocation) throws(ImageError) {
    let store = map.stores[Int(allocation.store)]
    let head = Int(offset - allocation.start)
    let isWhole = head == 0 && UInt64(payload.byteCount) == allocation.byteCount
    if allocation.cipher == 0, isWhole || allocation.fill == .readsZero {
      return try store.write(payload, at: allocation.offset + UInt64(head))
    }
    var byteCount = allocation.byteCount
    if allocation.store > 0, allocation.cipher == 0 {
      // A file of guest bytes alone ends where the disk ends. Enciphered, what lies behind it must be zeros too: who lets
      // the disk grow may not look at it (QEMU does not).
      byteCount = min(byteCount, map.byteCount - allocation.start)
    }
    var buffer = AlignedBuffer(byteCount: Int(byteCount), zeroed: true)
    try buffer.withMutableBytes { bytes throws(ImageError) in
      if allocation.fill == .guestBytes {
        let tail = head + payload.byteCount
        // The last unit may reach past the disk's end; nothing is there.
        let present = Int(min(allocation.range.upperBound, map.byteCount) - allocation.start)
        try readOld(0..<head, of: allocation, into: &bytes)
        try readOld(tail..<max(tail, present), of: allocation, into: &bytes)
      }
      bytes.copy(payload, to: head)
      if allocation.cipher > 0 {
        try map.ciphers[Int(allocation.cipher) - 1].encrypt(
          &bytes, guestOffset: allocation.start, hostOffset: allocation.offset)
      }
    }
    try store.write(buffer.bytes, at: allocation.offset)
  }

  private func readOld(
    _ part: Range<Int>, of allocation: Allocation, into bytes: inout MutableRawSpan
  ) throws(ImageError) {
    guard !part.isEmpty else { return }
    var span = bytes._mutatingExtracting(part)
    try image.read(into: &span, at: allocation.start + UInt64(part.lowerBound))
  }

  /// `write` without the end of a request.
  func writeThrough(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) {
    var done = 0
    while done < bytes.byteCount {
      let rest = bytes.extracting(done..<bytes.byteCount)
      let inPlace = try writeInPlace(rest, at: offset + UInt64(done))
      done += inPlace > 0 ? inPlace : try writeAllocating(rest, at: offset + UInt64(done))
    }
  }

  // MARK: Order

  /// What a request needs before it may change bytes.
  /// - Parameter end: of these bytes.
  func prepare(toChange end: UInt64 = 0) throws(ImageError) {
    try condition.withLock { state throws(ImageError) in
      try checkFailure(state)
      guard end <= state.usableEnd else { throw outside(end, state.usableEnd) }
      precondition(!state.isClosed, "a closed writer was used")
      guard !state.isPrepared else { return }
      try map.prepareToWrite(isUnsafe ? {} : barrier)
      state.isPrepared = true
    }
  }

  private func checkFailure(_ state: Condition) throws(ImageError) {
    guard !state.hasFailed else { throw failedEarlier }
  }

  private var failedEarlier: ImageError {
    ImageError(.io, "an earlier write failed; the image takes no more", file: image.name)
  }

  func finishRequest() throws(ImageError) {
    if isWritethrough { try flush() } else if map.mustPublishSoon { try publish() }
  }

  /// Not under a lock of the writer's own, so that requests go on meanwhile: one publish at a time is the map's matter.
  func publish() throws(ImageError) {
    try condition.withLock { state throws(ImageError) in try checkFailure(state) }
    do throws(ImageError) {
      try map.publish(isUnsafe ? {} : barrier)
    } catch {
      condition.withLock { $0.hasFailed = true }
      throw error
    }
  }

  /// One at a time: what a disk lost it tells only once, and whoever flushes beside that must not take it for saved.
  func barrier() throws(ImageError) {
    try flushing.withLock { hasFailed throws(ImageError) in
      guard !hasFailed else { throw failedEarlier }
      do throws(ImageError) {
        for store in map.stores where store.isWritable { try store.flush() }
      } catch {
        hasFailed = true
        throw error
      }
    }
  }

  func exclusively<R>(_ range: Range<UInt64>, _ body: () throws(ImageError) -> R) throws(ImageError) -> R {
    let hold = ranges.acquire(range, exclusive: true)
    defer { ranges.release(hold) }
    return try body()
  }

  // MARK: Ranges

  /// Asked again under an exclusive hold: the disk may have become smaller while a request waited for it.
  func checkRange(_ byteCount: UInt64, _ offset: UInt64) throws(ImageError) {
    let size = map.byteCount
    guard offset <= size, byteCount <= size - offset else { throw outside(offset.adding(byteCount) ?? .max, size) }
  }

  private func outside(_ end: UInt64, _ size: UInt64) -> ImageError {
    ImageError(.invalidArgument, "cannot write up to byte \(end): the disk has \(size) bytes", file: image.name)
  }

  private func aligned(_ range: Range<UInt64>, to unit: UInt64) -> Range<UInt64> {
    range.lowerBound / unit * unit..<(range.upperBound + unit - 1) / unit * unit
  }

  /// The whole map units in a range; the disk's last one counts as whole where the range reaches the end.
  func wholeUnits(of range: Range<UInt64>) -> Range<UInt64> { wholeUnits(of: range, map.mapUnit) }

  func wholeUnits(of range: Range<UInt64>, _ unit: UInt64) -> Range<UInt64> {
    let start = (range.lowerBound + unit - 1) / unit * unit
    let end = range.upperBound == map.byteCount ? range.upperBound : range.upperBound / unit * unit
    return start..<max(start, end)
  }
}
