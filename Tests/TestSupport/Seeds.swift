import Testing

/// Random sequences by seed, for a test whose cases run side by side and share them out.
package enum Seeds {
  /// Cases that share the seeds.
  package static let shareCount: UInt64 = 4
  package static let shares = 0..<shareCount

  /// Runs every fourth seed until a fourth of all is done. The first one that fails is told, and ends it.
  ///
  /// - Parameters:
  ///   - amount: how much all shares do together.
  ///   - chosen: the only seed to run; nil for as many as it takes.
  ///   - body: does what a seed says; returns how much of the amount that was.
  package static func run(
    share: UInt64, amount: Int, chosen: UInt64?, _ body: (_ seed: UInt64) throws -> Int
  ) {
    guard chosen == nil || share == 0 else { return }
    var (done, seed) = (0, chosen ?? share)
    while done < (amount + Int(shareCount) - 1) / Int(shareCount) {
      do { done += try body(seed) } catch {
        Issue.record("seed \(seed): \(error)")
        return
      }
      guard chosen == nil else { return }
      seed += shareCount
    }
  }
}
