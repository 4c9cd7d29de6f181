/// What `info` shows of an image beside size and names.
package struct ImageFacts: Sendable {
  /// Format-specific facts in QEMU's words and order, or nil where the format has none:
  /// `.object([("compat", .text("1.1")), …])`.
  package var specific: Property?
  package var snapshots: [SnapshotFacts] = []
  /// The image was not closed cleanly.
  package var isDirty = false
  package var isCorrupt = false
  /// Whether the format has a notion of "dirty" at all: then `info` prints `dirty-flag`.
  package var hasDirtyFlag = false
  /// Findings that a careful reader is told of; each a sentence.
  package var warnings: [String] = []
  /// Other files that the image names beside its backing image (data file, extents, segments), for `inspect`.
  package var references: [String] = []

  package init() {}
}

/// One internal snapshot.
package struct SnapshotFacts: Sendable, Equatable {
  package var id: String
  package var name: String
  package var vmStateByteCount: UInt64
  package var seconds: Int64
  package var nanoseconds: UInt32
  package var guestClockNanoseconds: UInt64
  package var instructionCount: UInt64?
  /// Guest bytes of the disk in the snapshot.
  package var diskByteCount: UInt64

  package init(
    id: String, name: String, vmStateByteCount: UInt64, seconds: Int64, nanoseconds: UInt32,
    guestClockNanoseconds: UInt64, instructionCount: UInt64?, diskByteCount: UInt64
  ) {
    self.id = id
    self.name = name
    self.vmStateByteCount = vmStateByteCount
    self.seconds = seconds
    self.nanoseconds = nanoseconds
    self.guestClockNanoseconds = guestClockNanoseconds
    self.instructionCount = instructionCount
    self.diskByteCount = diskByteCount
  }
}

/// A value that can be printed as JSON and as text for people. Objects keep their order.
package indirect enum Property: Sendable, Equatable {
  case text(String)
  case integer(Int64)
  case unsigned(UInt64)
  case flag(Bool)
  case list([Property])
  case object([Member])
  case null

  package struct Member: Sendable, Equatable {
    package var name: String
    package var value: Property
    package init(_ name: String, _ value: Property) {
      self.name = name
      self.value = value
    }
  }
}

extension Property: ExpressibleByDictionaryLiteral {
  package init(dictionaryLiteral elements: (String, Property)...) {
    self = .object(elements.map { Member($0.0, $0.1) })
  }

  /// The member of an object with this name.
  package subscript(name: String) -> Property? {
    guard case .object(let members) = self else { return nil }
    return members.first { $0.name == name }?.value
  }
}
