package import PlatterCore

/// One step of a change to a volume's header area. Steps are done in order; a power cut between any two leaves a volume
/// that opens as before or as after.
package enum LUKSStep: Sendable, Equatable {
  /// Bytes at an offset from the header's first byte.
  case write(offset: UInt64, bytes: [UInt8])
  /// All before is on stable storage before anything after.
  case flush
}

extension [LUKSStep] {
  /// Does the steps on a volume whose header lies at `base`.
  /// - Parameter barrier: makes what was written before durable.
  package func carryOut(on store: any ByteStore, at base: UInt64 = 0, _ barrier: Barrier) throws(ImageError) {
    for step in self {
      switch step {
      case .write(let offset, let bytes): try store.write(bytes.rawBytes, at: base + offset)
      case .flush: try barrier()
      }
    }
  }
}
