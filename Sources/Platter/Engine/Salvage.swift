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
  /// Steps that were told of: a copy may read twice.
  private let told = Mutex(NumberSet())

  /// - Parameter report: told of every loss once, from any thread.
  package init(_ report: @escaping @Sendable (Loss) -> Void) { self.report = report }

  func note(_ range: Range<UInt64>, _ error: ImageError, isMap: Bool = false) {
    let isNews = told.withLock { told in
      var isNews = false
      for step in range.lowerBound / Self.stepByteCount...(range.upperBound - 1) / Self.stepByteCount
      where told.insert(step) {
        isNews = true
      }
      return isNews
    }
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
    while position < run.extent.end {
      let end = min(run.extent.end, (position / Salvage.stepByteCount + 1) * Salvage.stepByteCount)
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
