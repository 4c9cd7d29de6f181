public import PlatterCore

extension DiskImage {
  /// Guest bytes as an array.
  ///
  /// - Parameters:
  ///   - count: at least 0; the result has this many bytes.
  ///   - offset: guest offset; `offset + count` lies inside the disk.
  /// - Throws: `.invalidArgument` outside the disk; `.corrupt`, `.truncated`, `.io` for what the image holds.
  public func read(_ count: Int, at offset: UInt64) throws(ImageError) -> [UInt8] {
    try checkRange(count, offset)
    var bytes = [UInt8](repeating: 0, count: count)
    try bytes.withMutableRawBytes { buffer throws(ImageError) in try read(into: &buffer, at: offset) }
    return bytes
  }

  /// Fills `buffer` with guest bytes from `offset` on. Errors as `read(_:at:)`.
  public func read(into buffer: inout MutableRawSpan, at offset: UInt64) throws(ImageError) {
    try checkRange(buffer.byteCount, offset)
    guard buffer.byteCount > 0 else { return }
    // An inout span cannot be captured, so the scratch is taken and given back by hand.
    let loan = scratches.take()
    defer { scratches.give(loan) }
    try read(into: &buffer, at: offset, loan.scratch)
  }

  func read(into buffer: inout MutableRawSpan, at offset: UInt64, _ scratch: Scratch) throws(ImageError) {
    let end = offset + UInt64(buffer.byteCount)
    var walk = ChainWalk(layers, salvage: salvage)
    let reader = RunReader(image: self)
    var cursor = offset
    while cursor < end {
      scratch.runs.removeAll(keepingCapacity: true)
      let reached = try walk.runs(cursor..<end, limit: 64, into: &scratch.runs)
      for run in scratch.runs {
        let place = Int(run.extent.start - offset)
        var part = buffer._mutatingExtracting(place..<place + Int(run.extent.byteCount))
        try reader.read(run, into: &part, scratch)
      }
      cursor = reached
    }
  }

  private func checkRange(_ count: Int, _ offset: UInt64) throws(ImageError) {
    guard count >= 0, offset <= byteCount, UInt64(count) <= byteCount - offset else {
      throw ImageError(
        .invalidArgument, "cannot read \(count) bytes at \(offset): the disk has \(byteCount) bytes", file: name)
    }
  }

  /// As `read(_:at:)`, off the cooperative threads: a slow disk does not hold up other tasks.
  public func read(_ count: Int, at offset: UInt64) async throws(ImageError) -> [UInt8] {
    try await IOExecutor.run { () throws(ImageError) in try self.read(count, at: offset) }
  }

  /// As `open(_:_:)`, off the cooperative threads.
  public static func open(_ path: String, _ options: OpenOptions = OpenOptions()) async throws(ImageError) -> DiskImage
  {
    try await IOExecutor.run { () throws(ImageError) in try open(path, options) }
  }
}
