/// What a repair may change.
package enum RepairMode: String, Sendable {
  /// Space that nothing refers to is given back; nothing else changes.
  case leaks
  /// Everything that can be put right.
  case all
}

/// A format whose damaged images can be repaired.
package protocol RepairableFormat: ImageFormat {
  /// Checks an image, repairs what it can, and checks again.
  ///
  /// Nothing is written before the first check has ended; an image that is sound is not written at all.
  /// - Parameters:
  ///   - store: the image's file, open for writing.
  ///   - workers: threads that may work at once; at least 1.
  ///   - progress: told the share done of each pass, 0...1; returns false to cancel. What was written until then leaves
  ///     the image no worse than before.
  /// - Returns: the state after the repair; `corruptionsFixed` and `leaksFixed` say what was repaired.
  static func repair(
    _ store: any ByteStore, _ context: OpenContext, _ mode: RepairMode, workers: Int,
    progress: @escaping @Sendable (Double) -> Bool
  ) throws(ImageError) -> CheckReport
}
