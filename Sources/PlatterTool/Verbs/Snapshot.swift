import Platter
import PlatterCore

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// `snapshot`: the snapshots that an image keeps inside itself.
package enum SnapshotVerb: Verb {
  package static let name = "snapshot"
  package static let summary = "List, take, apply or delete the snapshots inside an image."
  package static let operands = "FILENAME"
  package static let options = [
    OptionSpec("l", nil, "list them"),
    OptionSpec("c", nil, .required("NAME"), "take one"),
    OptionSpec("a", nil, .required("SNAPSHOT"), "make the disk what it was in this one"),
    OptionSpec("d", nil, .required("SNAPSHOT"), "delete this one"),
    SharedOptions.quiet, SharedOptions.forceShare, SharedOptions.object, SharedOptions.imageOptions,
    SharedOptions.references, SharedOptions.passphraseFile,
  ]

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let actions = call.options.occurrences.filter { ["l", "c", "a", "d"].contains($0.key) }
    guard actions.count <= 1 else { throw Failure("Cannot mix '-l', '-a', '-c', '-d'", isUsage: true) }
    let source = try call.source(try call.singleOperand())
    let openOptions = try call.openOptions()
    guard let action = actions.first, action.key != "l" else {
      let image = try call.open(source, openOptions)
      let snapshots = image.layers[0].map.facts.snapshots
      if !actions.isEmpty, !snapshots.isEmpty { SnapshotTable.write(snapshots, to: call.output) }
      return 0
    }
    let writer = try call.openForWriting(source, openOptions)
    try call.closing(writer) { writer throws(Failure) in
      do throws(ImageError) {
        try change(writer, action.key, action.value.text, call)
      } catch {
        throw describe(error, action.key, action.value.text, call)
      }
    }
    return 0
  }

  private static func change(_ writer: DiskWriter, _ action: String, _ name: String, _ call: Invocation)
    throws(ImageError)
  {
    guard writer.image.layers[0].map is any SnapshotMap else {
      if action == "d" { throw ImageError(.notFound, "snapshot not found") }
      throw .unsupported(
        action == "c" && call.program.isDropIn
          ? "-95 (Operation not supported)" : "Block driver does not support snapshots")
    }
    try writer.restructure { (map, barrier) throws(ImageError) in
      guard let map = map as? any SnapshotMap else { return }
      switch action {
      case "c":
        var now = timespec()
        guard unsafe clock_gettime(CLOCK_REALTIME, &now) == 0 else {
          throw ImageError(.io, "the time cannot be read")
        }
        _ = try map.createSnapshot(
          named: name, seconds: UInt32(truncatingIfNeeded: now.tv_sec),
          nanoseconds: UInt32(truncatingIfNeeded: now.tv_nsec), barrier)
      case "a": try map.applySnapshot(.idOrName(name), barrier)
      default: try map.deleteSnapshot(selectorForDeleting(name, map, call), barrier)
      }
    }
  }

  /// qemu-img deletes by name alone; under the program's own name an id will do too.
  private static func selectorForDeleting(_ name: String, _ map: any SnapshotMap, _ call: Invocation)
    -> SnapshotSelector
  {
    call.program.isDropIn || map.snapshots.contains { $0.name == name } ? .name(name) : .id(name)
  }

  private static func describe(_ error: ImageError, _ action: String, _ name: String, _ call: Invocation) -> Failure {
    switch (action, error.code) {
    case ("c", _): Failure("Could not create snapshot '\(name)': \(error.message)")
    case ("a", .notFound):
      Failure("Could not apply snapshot '\(name)': Failed to load snapshot: No such file or directory")
    case ("a", .forbidden) where call.program.isDropIn:
      Failure("Could not apply snapshot '\(name)': Device has active dirty bitmaps")
    case ("a", _): Failure("Could not apply snapshot '\(name)': \(error.message)")
    case (_, .notFound): Failure("Could not delete snapshot '\(name)': snapshot not found")
    default: Failure("Could not delete snapshot '\(name)': \(error.message)")
    }
  }
}
