import PlatterCodecs
import PlatterCore
import Synchronization

/// What one reader needs beside its target: codec contexts and buffers that keep their size from one use to the next.
final class Scratch {
  let decoder = UnitDecoder()
  private(set) var packed = AlignedBuffer(byteCount: 0)
  private(set) var plain = AlignedBuffer(byteCount: 0)
  var runs: [Run] = []

  /// Runs `body` with at least `packed` and `plain` bytes of room.
  func withBuffers<R: ~Copyable>(
    packed packedByteCount: Int, plain plainByteCount: Int,
    _ body: (inout AlignedBuffer, inout AlignedBuffer, UnitDecoder) throws(ImageError) -> R
  ) throws(ImageError) -> R {
    if packed.byteCount < packedByteCount { packed = AlignedBuffer(byteCount: packedByteCount.roundedToPage) }
    if plain.byteCount < plainByteCount { plain = AlignedBuffer(byteCount: plainByteCount.roundedToPage) }
    return try body(&packed, &plain, decoder)
  }
}

extension Int {
  fileprivate var roundedToPage: Int { (self + 0xffff) & ~0xffff }
}

/// Scratches of readers that have none of their own.
final class ScratchPool: Sendable {
  /// A scratch on its way between the pool and one reader; used by one thread at a time.
  struct Loan: @unchecked Sendable {
    let scratch: Scratch
  }

  /// More are made where more threads read at once; only these are kept.
  private static let keptCount = 8
  private let idle = Mutex<[Loan]>([])

  func take() -> Loan { idle.withLock { $0.popLast() } ?? Loan(scratch: Scratch()) }

  func give(_ loan: Loan) {
    idle.withLock { if $0.count < Self.keptCount { $0.append(loan) } }
  }
}
