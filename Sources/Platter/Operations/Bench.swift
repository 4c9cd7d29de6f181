package import PlatterCore
import SystemPackage

/// Many equal requests, some at a time: how fast an image is on its disk.
package struct Bench: Sendable {
  /// More threads than this do not make a disk faster.
  private static let maximumWorkerCount = 16
  /// Longer requests go in pieces of this, so that memory does not follow their length.
  private static let pieceByteCount = 2 << 20

  package var requestCount: UInt64 = 75_000  // qemu-img's
  package var byteCount: UInt64 = 4096  // qemu-img's
  /// Requests under way at once.
  package var depth = 64  // qemu-img's
  package var offset: UInt64 = 0
  /// From one request to the next; behind the disk's end they start over at its beginning.
  package var stepByteCount: UInt64 = 4096
  /// Write this byte instead of reading.
  package var pattern: UInt8 = 0
  /// Flush after so many requests; 0 for never.
  package var flushInterval: UInt64 = 0
  /// A flush waits for all requests before it, and later ones wait for the flush.
  package var drains = true

  private let image: DiskImage
  private let writer: DiskWriter?

  /// - Parameter writer: writes instead of reading; its image is the same.
  package init(_ image: DiskImage, writer: DiskWriter?) {
    self.image = image
    self.writer = writer
  }

  private struct State: Sendable {
    var next: UInt64 = 0
    var done: UInt64 = 0
    var flushes: UInt64 = 0
    var hasFailed = false
  }

  /// Runs all requests. Returns the time they took.
  /// - Throws: what the first failed request throws; `.io` for one behind the disk's end.
  package func run() throws(ImageError) -> Duration {
    let start = ContinuousClock.now
    let state = Monitor(State())
    let workers = max(1, min(depth, Self.maximumWorkerCount, Int(min(requestCount, UInt64(Int.max)))))
    try Workers.run(workers) { (_, _) throws(ImageError) in
      do throws(ImageError) {
        try work(state)
      } catch {
        state.withLock { $0.hasFailed = true }
        throw error
      }
    }
    return start.duration(to: .now)
  }

  private func work(_ state: Monitor<State>) throws(ImageError) {
    var buffer = [UInt8](repeating: pattern, count: Int(min(byteCount, UInt64(Self.pieceByteCount))))
    while let number = next(state) {
      try request(at: position(number), &buffer)
      let mustFlush = state.withLock { state in
        state.done += 1
        return flushInterval > 0 && state.done % flushInterval == 0
      }
      guard mustFlush else { continue }
      try writer?.flush()
      state.withLock { $0.flushes += 1 }
    }
  }

  /// The number of the next request, once it may start.
  private func next(_ state: Monitor<State>) -> UInt64? {
    state.wait(
      until: { state in
        state.hasFailed || state.next == requestCount || flushInterval == 0 || !drains
          || state.next < (state.flushes + 1).multiplied(by: flushInterval) ?? .max
      },
      then: { state in
        guard !state.hasFailed, state.next < requestCount else { return nil }
        defer { state.next += 1 }
        return state.next
      })
  }

  private func position(_ number: UInt64) -> UInt64 {
    let size = image.byteCount
    guard number > 0, size > 0 else { return offset }
    let way = number.multipliedFullWidth(by: stepByteCount)
    let rest = size.dividingFullWidth((way.high % size, way.low)).remainder
    return (offset % size + rest) % size
  }

  private func request(at start: UInt64, _ buffer: inout [UInt8]) throws(ImageError) {
    let end = image.byteCount.dividedRoundingUp(by: 512) * 512
    guard start <= end, byteCount <= end - start else {
      throw ImageError(.io, "the request lies outside the disk", file: image.name, errno: .ioError)
    }
    var position = start
    let last = min(start + byteCount, image.byteCount)
    while position < last {
      let count = Int(min(UInt64(buffer.count), last - position))
      if let writer {
        try writer.write(buffer.rawBytes.extracting(0..<count), at: position)
      } else {
        try buffer.withMutableRawBytes { bytes throws(ImageError) in
          var part = bytes._mutatingExtracting(0..<count)
          try image.read(into: &part, at: position)
        }
      }
      position += UInt64(count)
    }
  }
}
