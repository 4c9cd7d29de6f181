import Platter
import PlatterCore

/// `amend`: changes what an image was made with.
package enum AmendVerb: Verb {
  package static let name = "amend"
  package static let summary = "Change options of an image that is there; -o help lists them."
  package static let operands = "FILENAME"
  package static let options =
    [
      SharedOptions.formatLetter,
      OptionSpec("o", nil, .required("OPTIONS"), "the options to change"),
      OptionSpec("t", nil, .required("CACHE"), "cache mode for writing (writeback)"),
      OptionSpec(nil, "force", "allow what may make an encrypted image unreadable"),
      SharedOptions.quiet, SharedOptions.progress, SharedOptions.progressForm,
    ] + SharedOptions.opening

  /// Options that `create` has and that hold for a new image only (observed: qemu-img 7.2).
  private static let amendable: Set<String> = [
    "backing_file", "backing_fmt", "compat", "data_file", "data_file_raw", "lazy_refcounts", "refcount_bits", "size",
  ]

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let lists = call.options.values("o")
    guard !lists.isEmpty else { throw Failure("Must specify options (-o)", isUsage: true) }
    let wanted = try TargetFormat.options(lists)
    if wanted.keys.contains("help") || wanted.keys.contains("?") { return try writeHelp(call) }
    let cache = try call.cache("t", what: "cache")
    let operand = try call.singleOperand()
    try call.checkFormatOptions(["f"])
    let source = try call.source(operand)
    let writer = try call.openForWriting(
      source, try call.openOptions(formatKey: "f"), cache: cache ?? .writeback)
    let progress = ProgressDisplay(try call.progressForm())
    progress.start()
    do throws(Failure) {
      try call.closing(writer) { writer throws(Failure) in try amend(writer, wanted) }
    } catch {
      progress.finish(succeeded: false)
      throw error
    }
    progress.finish(succeeded: true)
    return 0
  }

  private static func amend(_ writer: DiskWriter, _ wanted: [String: String]) throws(Failure) {
    let image = writer.image
    guard image.layers[0].map is any AmendableMap else { throw notAmendable(image.formatName) }
    try check(wanted, image)
    var options = wanted
    options["backing_file"] = nil
    options["backing_fmt"] = nil
    do throws(ImageError) {
      let size = try options.removeValue(forKey: "size").map { text throws(ImageError) in
        try CreationValue.size(text, of: "size")
      }
      // Version 2 cannot change its size while there are snapshots: what has to be done is done before.
      let isDowngrade = ["0.10", "v2"].contains(options["compat"])
      if let size, isDowngrade { try writer.resize(to: size) }
      if !options.isEmpty {
        try writer.restructure { (map, barrier) throws(ImageError) in
          guard let map = map as? any AmendableMap else { return }
          try map.amend(options, barrier)
        }
      }
      if let size, !isDowngrade { try writer.resize(to: size) }
    } catch {
      throw Failure(error)
    }
  }

  private static func notAmendable(_ format: String) -> Failure {
    Failure("Format driver '\(format)' does not support option amendment")
  }

  /// Everything that can be refused before anything is changed.
  private static func check(_ wanted: [String: String], _ image: DiskImage) throws(Failure) {
    let known = Set(try TargetFormat.named(image.formatName).creationOptions.map(\.name))
    for name in wanted.keys.sorted() where !amendable.contains(name) {
      throw Failure(
        "Invalid parameter '\(name)'",
        hint: known.contains(name) ? "This option is only supported for image creation" : nil)
    }
    // To name what is there already is no change.
    let backing = image.layers[0].map.backing
    guard [nil, backing?.displayName].contains(wanted["backing_file"]),
      [nil, backing?.formatName].contains(wanted["backing_fmt"])
    else {
      throw Failure("Cannot amend the backing file", hint: "You can use 'qemu-img rebase' instead.")
    }
  }

  private static func writeHelp(_ call: Invocation) throws(Failure) -> Int32 {
    var format = call.options.value("f")
    if let operand = call.options.operands.first, format == nil {
      format = try call.open(try call.source(operand), try call.openOptions(formatKey: "f")).formatName
    }
    guard let format else { throw Failure("Expecting one image file name", isUsage: true) }
    guard format == "qcow2" else { throw notAmendable(format) }
    call.output.write(line: "Amend options for '\(format)':")
    let options = try TargetFormat.named(format).creationOptions.filter { amendable.contains($0.name) }
    for option in options.sorted(by: { $0.name < $1.name }) { TargetFormat.write(option, to: call.output) }
    return 0
  }
}
