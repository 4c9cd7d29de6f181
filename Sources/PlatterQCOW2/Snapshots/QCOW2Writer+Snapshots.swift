package import PlatterCore
import Synchronization

extension QCOW2Writer: SnapshotMap {
  package var snapshots: [SnapshotFacts] {
    core.withLock { core in
      core.snapshots.map { $0.facts(presentByteCount: core.header.virtualByteCount) }
    }
  }

  package func createSnapshot(named name: String, seconds: UInt32, nanoseconds: UInt32, _ barrier: Barrier)
    throws(ImageError) -> String
  {
    try locked { core throws(ImageError) in
      try core.createSnapshot(named: name, seconds: seconds, nanoseconds: nanoseconds, barrier)
    }
  }

  package func applySnapshot(_ selector: SnapshotSelector, _ barrier: Barrier) throws(ImageError) {
    try locked { core throws(ImageError) in try core.applySnapshot(selector, barrier) }
  }

  package func deleteSnapshot(_ selector: SnapshotSelector, _ barrier: Barrier) throws(ImageError) {
    try locked { core throws(ImageError) in try core.deleteSnapshot(selector, barrier) }
  }
}
