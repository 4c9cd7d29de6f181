package import PlatterCore
package import SystemPackage

/// Repairs of images, by formats that have one.
package enum Repair {
  package struct Outcome: Sendable {
    /// The state after the repair.
    package var report: CheckReport
    package var formatName: String
  }

  /// Checks the image at `path`, repairs what it can, and checks again. References are not followed.
  ///
  /// - Throws: `.unsupported` where the format has no repair; `.busy` for a held lock; what opening throws.
  package static func run(
    path: FilePath, _ mode: RepairMode, _ options: OpenOptions, workers: Int,
    progress: @escaping @Sendable (Double) -> Bool
  ) throws(ImageError) -> Outcome {
    let store = try FileStore(path, FileStore.Options(isWritable: true))
    if options.locking == .exclusive { try ImageLock.acquireForWriting(store) }
    let type: any ImageFormat.Type =
      if let name = options.format ?? options.node["driver"] {
        try naming(path.string) { () throws(ImageError) in try Formats.named(name) }
      } else {
        try Formats.probe(store)[0].format
      }
    guard let format = type as? any RepairableFormat.Type else {
      throw ImageError(.unsupported, "the \(type.name) format has no repair", file: path.string)
    }
    let context = OpenContext(
      path: path, isWritable: true, options: options.node, passphrase: options.passphrase(of: options.node),
      warn: options.warn)
    let report = try format.repair(store, context, mode, workers: workers, progress: progress)
    return Outcome(report: report, formatName: type.name)
  }

  /// The same for what `--image-opts` or `json:` describe.
  package static func run(
    node: [String: String], _ mode: RepairMode, _ options: OpenOptions, workers: Int,
    progress: @escaping @Sendable (Double) -> Bool
  ) throws(ImageError) -> Outcome {
    var options = options
    let name = try NodeName(node)
    try name.checkWritable()
    options.node = name.options
    options.format = name.format ?? options.format
    return try run(path: name.path, mode, options, workers: workers, progress: progress)
  }
}
