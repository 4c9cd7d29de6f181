package import PlatterCore
package import SystemPackage

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// A raw disk that comes through a pipe: read once, from front to back, by workers that take turns.
package final class PipeSource: Sendable {
  /// A disk's size is whole sectors, so that is what a stream of unknown length is filled up to.
  static let sectorByteCount: UInt64 = 512
  /// How long a reader waits before it looks whether somebody wants it to stop.
  private static let napMilliseconds: Int32 = 100

  private struct State: Sendable {
    var position: UInt64 = 0
    /// Nothing more comes: the end, or a failure.
    var isOver = false
    var failure: ImageError?
  }

  package let name: String
  /// Bytes that somebody said would come; nil for as many as do.
  package let byteCount: UInt64?
  /// Asked now and then while waiting for bytes.
  private let isCancelled: @Sendable () -> Bool
  private let descriptor: Int32
  private let isOwned: Bool
  private let state = Monitor(State())

  /// - Parameter descriptor: stays the caller's.
  package init(
    descriptor: Int32, name: String, byteCount: UInt64?, isCancelled: @escaping @Sendable () -> Bool = { false }
  ) {
    self.descriptor = descriptor
    self.name = name
    self.byteCount = byteCount
    self.isCancelled = isCancelled
    isOwned = false
  }

  /// Opens a pipe by its name; waits until somebody writes to it.
  package init(
    _ path: FilePath, byteCount: UInt64?, isCancelled: @escaping @Sendable () -> Bool = { false }
  ) throws(ImageError) {
    name = path.printable
    self.byteCount = byteCount
    self.isCancelled = isCancelled
    descriptor = unsafe path.withPlatformString { unsafe open($0, O_RDONLY | O_CLOEXEC) }
    isOwned = true
    guard descriptor >= 0 else { throw ImageError.io("cannot be opened", Errno(rawValue: errno), file: name) }
  }

  deinit { if isOwned, descriptor >= 0 { _ = close(descriptor) } }

  /// Whether a descriptor can only be read, or written, in order.
  package static func isPipe(descriptor: Int32) -> Bool {
    var status = stat()
    guard unsafe fstat(descriptor, &status) == 0 else { return false }
    return [S_IFIFO, S_IFSOCK, S_IFCHR].contains(status.st_mode & S_IFMT)
  }

  /// Whether a name is that of a pipe.
  package static func isPipe(_ path: FilePath) -> Bool {
    var status = stat()
    guard unsafe path.withPlatformString({ unsafe stat($0, &status) }) == 0 else { return false }
    return status.st_mode & S_IFMT == S_IFIFO
  }

  /// Bytes that have come so far, filled up to whole sectors.
  package var wholeByteCount: UInt64 {
    let position = state.withLock { $0.position }
    return position.dividedRoundingUp(by: Self.sectorByteCount) * Self.sectorByteCount
  }

  /// Fills `buffer` with the bytes from `position` on, once everything before them was read.
  /// - Returns: the bytes read; fewer than asked, or none, only at the end.
  /// - Throws: `.truncated` where fewer come than were announced; `.io`; `.cancelled`.
  func read(into buffer: inout MutableRawSpan, at position: UInt64) throws(ImageError) -> Int {
    let (isOver, failure) = state.wait(
      until: { $0.position == position || $0.isOver }, then: { ($0.isOver, $0.failure) })
    if let failure { throw failure }
    guard !isOver else { return 0 }
    let wanted = min(UInt64(buffer.byteCount), byteCount.map { $0 - position } ?? .max)
    var got = 0
    do throws(ImageError) {
      got = try fill(&buffer, Int(wanted))
      if let byteCount, got < wanted {
        throw ImageError(
          .truncated, "ends after \(position + UInt64(got)) bytes, but the disk should have \(byteCount)", file: name)
      }
    } catch {
      state.withLock { state in
        state.isOver = true
        state.failure = error
      }
      throw error
    }
    state.withLock { state in
      state.position += UInt64(got)
      if got < buffer.byteCount { state.isOver = true }
    }
    return got
  }

  /// Ends the waiting of all readers.
  func abandon() {
    state.withLock { state in
      state.isOver = true
      state.failure = state.failure ?? ImageError(.cancelled, "cancelled")
    }
  }

  private var isAbandoned: Bool { state.withLock { $0.failure != nil } }

  /// Looks whether the pipe has ended where it should.
  /// - Throws: `.invalidArgument` where more bytes come than were announced.
  func finish() throws(ImageError) {
    guard let byteCount else { return }
    var more = [UInt8](repeating: 0, count: 1)
    let got = try more.withMutableRawBytes { bytes throws(ImageError) in try fill(&bytes, 1) }
    guard got == 0 else {
      throw ImageError(.invalidArgument, "goes on after the \(byteCount) bytes that the disk should have", file: name)
    }
  }

  /// Reads until there are `wanted` bytes, or the end.
  private func fill(_ buffer: inout MutableRawSpan, _ wanted: Int) throws(ImageError) -> Int {
    var done = 0
    while done < wanted {
      guard !isCancelled(), !isAbandoned else { throw ImageError(.cancelled, "cancelled") }
      // Reading alone would not end when a signal comes, and a signal ends the wait without there being bytes.
      var wait = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
      let ready = unsafe poll(&wait, 1, Self.napMilliseconds)
      guard ready != 0, ready > 0 || errno != EINTR else { continue }
      var got = 0
      unsafe buffer.withUnsafeMutableBytes { bytes in
        guard let base = bytes.baseAddress else { return }
        got = unsafe systemRead(descriptor, base + done, wanted - done)
      }
      if got > 0 {
        done += got
      } else if got == 0 {
        break
      } else if errno != EINTR, errno != EAGAIN {
        throw ImageError.io("cannot be read", Errno(rawValue: errno), file: name)
      }
    }
    return done
  }
}

/// The system's call, whose name the class takes.
private func systemRead(_ descriptor: Int32, _ bytes: UnsafeMutableRawPointer, _ count: Int) -> Int {
  unsafe read(descriptor, bytes, count)
}

/// Units of a disk that comes through a pipe. Whoever has a block reads it when those before it are read; the end is found
/// by reading.
final class PipeUnits: UnitSource {
  private struct State: Sendable {
    var number: UInt64 = 0
  }

  private let pipe: PipeSource
  private let blockByteCount: UInt64
  private let state = Monitor(State())

  init(_ pipe: PipeSource, blockByteCount: UInt64) {
    self.pipe = pipe
    self.blockByteCount = blockByteCount
  }

  func next() throws(ImageError) -> UnitBlock? {
    let number = state.withLock { state in
      defer { state.number += 1 }
      return state.number
    }
    guard let start = number.multiplied(by: blockByteCount), start < pipe.byteCount ?? UInt64(Int64.max) else {
      return nil
    }
    let end = min(start + blockByteCount, pipe.byteCount ?? UInt64(Int64.max))
    return UnitBlock(number: number, range: start..<end, progress: end - start)
  }

  func read(_ block: inout UnitBlock, into bytes: inout MutableRawSpan, _ scratch: Scratch) throws(ImageError) -> Bool {
    let start = block.range.lowerBound
    let count = Int(block.range.upperBound - start)
    let got = try bytes.withPart(0..<count) { part throws(ImageError) in try pipe.read(into: &part, at: start) }
    bytes.zero(got..<bytes.byteCount)
    guard got > 0 else { return false }
    // What fills up the last sector is the disk's, too.
    block.range =
      start..<start + UInt64(got).dividedRoundingUp(by: PipeSource.sectorByteCount) * PipeSource.sectorByteCount
    if let end = pipe.byteCount { block.range = start..<min(block.range.upperBound, end) }
    block.progress = UInt64(got)
    return true
  }

  func abandon() { pipe.abandon() }
}

/// The plain copy from a pipe: bytes come one after the other, so one worker does it all.
struct PipeCopy {
  let pipe: PipeSource
  let sink: any CopySink
  let sparseByteCount: Int
  /// Most bytes that the target takes.
  let limit: UInt64

  /// - Throws: `.invalidArgument` where the target is too small for what comes.
  func run(_ progress: ProgressCounter) throws(ImageError) {
    var buffer = AlignedBuffer(byteCount: Int(Piece.byteCount))
    var position: UInt64 = 0
    while true {
      let start = position
      let count = try buffer.withMutableBytes { bytes throws(ImageError) in try pipe.read(into: &bytes, at: start) }
      guard count > 0 else { break }
      guard UInt64(count) <= limit - position else {
        throw ImageError(.invalidArgument, "has more than the \(limit) bytes that the target has", file: pipe.name)
      }
      try sink.put(buffer.bytes.extracting(0..<count), at: position, sparse: sparseByteCount)
      position += UInt64(count)
      try progress.add(UInt64(count))
    }
    try pipe.finish()
    guard pipe.byteCount == nil else { return }
    let whole = pipe.wholeByteCount
    if whole > position, whole <= limit { try sink.zero(position..<whole) }
  }
}
