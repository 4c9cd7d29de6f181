/// Fills a map's answer: appends runs up to a limit, each joined with the one before where it continues it.
package struct RunAppender: Sendable {
  /// Most runs to append.
  package let limit: Int
  /// Runs appended.
  package var count = 0
  /// Guest offset behind the last run appended; 0 before the first.
  package var end: UInt64 = 0
  /// A run was turned away: the answer is complete.
  package var isFull = false

  package init(limit: Int) { self.limit = limit }

  /// False, and nothing done, where the run would be one more than the limit.
  @inlinable package mutating func append(_ run: Extent, to list: inout [Extent]) -> Bool {
    if count > 0, let last = list.indices.last, list[last].isContinued(by: run) {
      list[last].byteCount &+= run.byteCount
    } else {
      guard count < limit else {
        isFull = true
        return false
      }
      list.append(run)
      count += 1
    }
    end = run.end
    return true
  }
}
