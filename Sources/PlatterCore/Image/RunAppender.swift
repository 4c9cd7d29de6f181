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

  /// A data run, and zeros for what lies past the end of the store: of a file, the last cluster may be cut.
  ///
  /// False where the limit left no room for all of it; `end` says how far it went.
  @inlinable package mutating func appendData(
    start: UInt64, byteCount: UInt64, store: UInt16, offset: UInt64, storeByteCount: UInt64, to list: inout [Extent]
  ) -> Bool {
    let present = offset < storeByteCount ? min(byteCount, storeByteCount &- offset) : 0
    if present > 0 {
      guard append(.data(start: start, byteCount: present, store: store, offset: offset), to: &list) else {
        return false
      }
    }
    guard present < byteCount else { return true }
    return append(.zero(start: start &+ present, byteCount: byteCount &- present), to: &list)
  }
}
