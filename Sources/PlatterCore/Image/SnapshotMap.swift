/// A writable map that keeps snapshots of the disk inside its own file.
///
/// The engine holds off all other requests during these calls. Each call leaves everything on disk: a cut at any point
/// leaves the state before or the state after, and unused space at the most.
package protocol SnapshotMap: WritableMap {
  /// What the image keeps now, in the table's order.
  var snapshots: [SnapshotFacts] { get }

  /// Keeps the present disk under a new id. Names need not be unique.
  /// - Returns: the id.
  /// - Throws: `.unsupported` where the format, or this image's layout, has no room for snapshots; nothing is changed then.
  func createSnapshot(named name: String, seconds: UInt32, nanoseconds: UInt32, _ barrier: Barrier) throws(ImageError)
    -> String

  /// Makes the disk what it was in a snapshot, its size included.
  /// - Throws: `.notFound`.
  func applySnapshot(_ selector: SnapshotSelector, _ barrier: Barrier) throws(ImageError)

  /// Forgets the first snapshot that the selector finds.
  /// - Throws: `.notFound`.
  func deleteSnapshot(_ selector: SnapshotSelector, _ barrier: Barrier) throws(ImageError)
}

/// How a snapshot is called.
package enum SnapshotSelector: Sendable, Hashable {
  case id(String)
  case name(String)
  /// The one with this id, or else the first with this name.
  case idOrName(String)

  package var text: String {
    switch self {
    case .id(let text), .name(let text), .idOrName(let text): text
    }
  }
}
