import Platter
import PlatterCore

/// `measure`: how large a file a conversion would make.
package enum MeasureVerb: Verb {
  package static let name = "measure"
  package static let summary = "Tell how much space a converted image would take."
  package static let operands = "[FILENAME | --size SIZE]"
  package static let options =
    [
      SharedOptions.formatLetter,
      OptionSpec("O", nil, .required("FORMAT"), "format of the image to be made (raw)"),
      OptionSpec("o", nil, .required("OPTIONS"), "options of that format"),
      OptionSpec(nil, "size", .required("SIZE"), "measure an empty disk of this size"),
      OptionSpec("l", nil, .required("SNAPSHOT"), "measure an internal snapshot"),
      SharedOptions.output, SharedOptions.forceShare,
    ] + SharedOptions.opening

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let given = try TargetFormat.options(call.options.values("o"))
    let snapshot = try call.options.value("l").map(SnapshotParameter.name)
    let isJSON = try call.wantsJSON()
    let size = try call.options.value("size").map { text throws(Failure) in
      try SizeText.option(text, named: "image size")
    }
    let operands = call.options.operands
    guard operands.count <= 1 else { throw Failure("At most one filename argument is allowed.") }
    if operands.isEmpty, ["image-opts", "f", "l"].contains(where: call.options.has) {
      throw Failure("--image-opts, -f, and -l require a filename argument.")
    }
    if size != nil, !operands.isEmpty { throw Failure("--size N cannot be used together with a filename.") }
    guard size != nil || !operands.isEmpty else {
      throw Failure("Either --size N or one filename must be specified.")
    }
    let formatName = call.options.value("O") ?? "raw"
    if try TargetFormat.writeHelp(call, formatName, isForFile: false) { return 0 }
    let format = try target(formatName)
    let options = try options(given, format)
    let source = size == nil ? try open(operands[0], snapshot: snapshot, call) : nil
    var request = CreationRequest(byteCount: size ?? 0, options: options)
    request.secret = try call.openOptions(formatKey: "f").secrets
    do throws(ImageError) {
      write(try Measure(source: source, format: format, request: request).run(), isJSON: isJSON, to: call.output)
    } catch {
      throw Failure(error)
    }
    return 0
  }

  private static func target(_ name: String) throws(Failure) -> any CreatableFormat.Type {
    do throws(Failure) {
      return try TargetFormat.named(name)
    } catch {
      guard SupportedFormats.names.contains(name) else { throw error }
      throw Failure("Block driver '\(name)' does not support size measurement")
    }
  }

  private static func options(_ given: [String: String], _ format: any CreatableFormat.Type) throws(Failure)
    -> [String: String]
  {
    var options = given
    options["size"] = nil
    for name in options.keys.sorted() where !format.creationOptions.contains(where: { $0.name == name }) {
      var failure = Failure("Invalid parameter '\(name)'")
      failure.sentences.append("Invalid options for file format '\(format.name)'")
      throw failure
    }
    return options
  }

  private static func open(_ operand: Argument, snapshot: String?, _ call: Invocation) throws(Failure) -> DiskImage {
    let source = try call.source(operand)
    try call.checkFormatOptions(["f"])
    var options = try call.openOptions(formatKey: "f")
    options.snapshot = snapshot
    return try call.open(source, options)
  }

  private static func write(_ measurement: ImageMeasurement, isJSON: Bool, to output: Output) {
    if isJSON {
      var members: [Property.Member] = []
      if let bitmaps = measurement.bitmaps { members.append(.init("bitmaps", .unsigned(bitmaps))) }
      members.append(.init("required", .unsigned(measurement.required)))
      members.append(.init("fully-allocated", .unsigned(measurement.fullyAllocated)))
      JSONWriter.write(.object(members), to: output)
      output.write("\n" as StaticString)
    } else {
      output.write(line: "required size: \(measurement.required)")
      output.write(line: "fully allocated size: \(measurement.fullyAllocated)")
      if let bitmaps = measurement.bitmaps { output.write(line: "bitmaps size: \(bitmaps)") }
    }
  }
}

/// The value of `-l`: a snapshot's id or name, or `snapshot.id=…,snapshot.name=…`.
package enum SnapshotParameter {
  package static func name(_ text: String) throws(Failure) -> String {
    guard text.hasPrefix("snapshot.") else { return text }
    var id: String?
    var name: String?
    for pair in OptionString.parse(text) {
      switch pair.key {
      case "snapshot.id": id = pair.value
      case "snapshot.name": name = pair.value
      default:
        var failure = Failure("Invalid parameter '\(pair.key)'")
        failure.sentences.append("Failed in parsing snapshot param '\(text)'")
        throw failure
      }
    }
    guard let found = id ?? name else { throw Failure("Failed in parsing snapshot param '\(text)'") }
    return found
  }
}
