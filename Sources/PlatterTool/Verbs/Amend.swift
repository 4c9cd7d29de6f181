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

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let lists = call.options.values("o")
    guard !lists.isEmpty else { throw Failure("Must specify options (-o)", isUsage: true) }
    let wanted = try TargetFormat.options(lists)
    if wanted.keys.contains("help") || wanted.keys.contains("?") { return try writeHelp(call) }
    let cache = try call.cache("t", what: "cache")
    let operand = try call.singleOperand()
    try call.checkFormatOptions(["f"])
    let source = try call.source(operand)
    let openOptions = try call.openOptions(formatKey: "f")
    let writer = try call.openForWriting(source, openOptions, cache: cache ?? .writeback)
    let progress = ProgressDisplay(try call.progressForm())
    var request = AmendRequest(wanted, isForced: call.options.has("force"), secret: openOptions.secrets)
    request.progress = { progress.update($0, of: $1) }
    progress.start()
    do throws(Failure) {
      try call.closing(writer) { writer throws(Failure) in try amend(writer, request, call) }
    } catch {
      progress.finish(succeeded: false)
      throw error
    }
    progress.finish(succeeded: true)
    return 0
  }

  private static func amend(_ writer: DiskWriter, _ wanted: AmendRequest, _ call: Invocation) throws(Failure) {
    let image = writer.image
    guard image.layers[0].map is any AmendableMap else { throw notAmendable(image.formatName) }
    try check(wanted.options, image)
    var request = wanted
    request.options["backing_file"] = nil
    request.options["backing_fmt"] = nil
    do throws(ImageError) {
      let size = try request.options.removeValue(forKey: "size").map { text throws(ImageError) in
        try CreationValue.size(text, of: "size")
      }
      // Version 2 cannot change its size while there are snapshots: what has to be done is done before.
      let isDowngrade = ["0.10", "v2"].contains(request.options["compat"])
      if let size, isDowngrade { try writer.resize(to: size) }
      if !request.options.isEmpty {
        let request = request
        try writer.restructure { (map, barrier) throws(ImageError) in
          guard let map = map as? any AmendableMap else { return }
          try map.amend(request, barrier)
        }
      }
      if let size, !isDowngrade { try writer.resize(to: size) }
    } catch {
      var failure = call.refusal(error)
      // qemu-img says here what is wrong, and not of which image.
      if call.program.isDropIn { failure.sentences = [error.message] }
      throw failure
    }
  }

  private static func notAmendable(_ format: String) -> Failure {
    Failure("Format driver '\(format)' does not support option amendment")
  }

  /// Everything that can be refused before anything is changed.
  private static func check(_ wanted: [String: String], _ image: DiskImage) throws(Failure) {
    let known = Set(try TargetFormat.named(image.formatName).creationOptions.map(\.name))
    let amendable = Set(try options(of: image.formatName).map(\.name))
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
    let options = try options(of: format)
    call.output.write(line: "Amend options for '\(format)':")
    for option in options.sorted(by: { $0.name < $1.name }) { TargetFormat.write(option, to: call.output) }
    return 0
  }

  private static func options(of format: String) throws(Failure) -> [CreationOption] {
    for known in Formats.all where known.name == format {
      if let amendable = known as? any AmendableFormat.Type { return amendable.amendOptions }
    }
    throw notAmendable(format)
  }
}
