package import PlatterCore
import Synchronization

/// What happens where a disk cannot be read: it reads as zeros there, and somebody is told.
package final class Salvage: Sendable {
  /// What is lost together, where nobody knows better.
  static let stepByteCount: UInt64 = 512

  /// Something that could not be read.
  package struct Loss: Sendable {
    /// Guest bytes.
    package var range: Range<UInt64>
    package var error: ImageError
    /// Not even where the bytes are could be found out.
    package var isMap: Bool
  }

  private let report: @Sendable (Loss) -> Void
  /// What was told of: a copy may read twice.
  private let told = Mutex(JoinedRanges())

  /// - Parameter report: told of every loss once, from any thread.
  package init(_ report: @escaping @Sendable (Loss) -> Void) { self.report = report }

  func note(_ range: Range<UInt64>, _ error: ImageError, isMap: Bool = false) {
    let isNews = told.withLock { $0.insert(range) }
    if isNews { report(Loss(range: range, error: error, isMap: isMap)) }
  }
}

extension RunReader {
  /// Reads what can be read of a run that could not be read whole.
  func readRest(
    of run: Run, into target: inout MutableRawSpan, _ scratch: Scratch, _ salvage: Salvage, _ reason: ImageError
  ) throws(ImageError) {
    guard reason.code != .cancelled else { throw reason }
    guard run.extent.kind == .data else {
      // A packed unit is lost as a whole.
      target.zero(0..<target.byteCount)
      return salvage.note(run.extent.start..<run.extent.end, reason)
    }
    var lost: (range: Range<UInt64>, error: ImageError)?
    var position = run.extent.start
    let storeEnd = try? image.layers[Int(run.depth)].map.stores[Int(run.extent.store)].byteCount()
    while position < run.extent.end {
      // Behind the file's end there is nothing to try step by step.
      let isPastEnd = run.extent.offset + (position - run.extent.start) >= storeEnd ?? .max
      let end =
        isPastEnd
        ? run.extent.end
        : min(run.extent.end, (position / Salvage.stepByteCount + 1) * Salvage.stepByteCount)
      let place = Int(position - run.extent.start)..<Int(end - run.extent.start)
      do throws(ImageError) {
        var part = target._mutatingExtracting(place)
        try readWhole(Run(run.extent.clipped(to: position..<end), depth: run.depth), into: &part, scratch)
        if let lost { salvage.note(lost.range, lost.error) }
        lost = nil
      } catch {
        target.zero(place)
        lost = ((lost?.range.lowerBound ?? position)..<end, lost?.error ?? error)
      }
      position = end
    }
    if let lost { salvage.note(lost.range, lost.error) }
  }
}

/// Sorted ranges, those that touch joined: losses lie together, so few are kept however much is lost.
private struct JoinedRanges {
  private var ranges: [Range<UInt64>] = []

  /// False where all of it was there already.
  mutating func insert(_ range: Range<UInt64>) -> Bool {
    var first = 0
    var high = ranges.count
    while first < high {
      let middle = (first + high) / 2
      if ranges[middle].upperBound < range.lowerBound { first = middle + 1 } else { high = middle }
    }
    var joined = range
    var end = first
    while end < ranges.count, ranges[end].lowerBound <= joined.upperBound {
      joined = min(joined.lowerBound, ranges[end].lowerBound)..<max(joined.upperBound, ranges[end].upperBound)
      end += 1
    }
    guard end != first + 1 || ranges[first] != joined else { return false }
    ranges.replaceSubrange(first..<end, with: CollectionOfOne(joined))
    return true
  }
}
