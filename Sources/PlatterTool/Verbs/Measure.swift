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
    let isJSON = try call.wantsJSON()
    let size = try call.options.value("size").map { text throws(Failure) in
      try SizeText.option(text, named: "image size")
    }
    let operands = call.options.operands
    guard operands.count <= 1 else { throw Failure("At most one filename argument is allowed.") }
    if size != nil, !operands.isEmpty { throw Failure("--size N cannot be used together with a filename.") }
    guard size != nil || !operands.isEmpty else {
      throw Failure("Either --size N or one filename must be specified.")
    }
    try TargetFormat.requireRaw(call.options.value("O") ?? "raw")
    do throws(Failure) {
      try TargetFormat.checkRawOptions(call.options.values("o"))
    } catch {
      var failure = error
      failure.sentences.append("Invalid options for file format 'raw'")
      throw failure
    }
    let byteCount = if let size { size } else { try diskByteCount(operands[0], call) }
    write(Measurement.raw(byteCount: byteCount), isJSON: isJSON, to: call.output)
    return 0
  }

  private static func diskByteCount(_ operand: Argument, _ call: Invocation) throws(Failure) -> UInt64 {
    let source = try call.source(operand)
    try call.checkFormatOptions(["f"])
    var options = try call.openOptions(formatKey: "f")
    options.snapshot = try call.options.value("l").map(SnapshotParameter.name)
    return try call.open(source, options).byteCount
  }

  private static func write(_ measurement: Measurement, isJSON: Bool, to output: Output) {
    if isJSON {
      JSONWriter.write(
        ["required": .unsigned(measurement.required), "fully-allocated": .unsigned(measurement.fullyAllocated)],
        to: output)
      output.write("\n" as StaticString)
    } else {
      output.write(line: "required size: \(measurement.required)")
      output.write(line: "fully allocated size: \(measurement.fullyAllocated)")
    }
  }
}

/// What `-O` and `-o` may say today.
package enum TargetFormat {
  /// - Throws: for a name that nobody knows, and for a format that cannot be written yet.
  package static func requireRaw(_ name: String) throws(Failure) {
    guard name != "raw" else { return }
    guard SupportedFormats.names.contains(name) || SupportedFormats.planned.contains(name) else {
      throw Failure("Unknown file format '\(name)'")
    }
    throw Failure("not supported yet by platter: writing the format '\(name)'")
  }

  /// Prints the options of the target's format where `-o help` asks for them. Returns whether it did.
  package static func writeHelp(_ call: Invocation) throws(Failure) -> Bool {
    guard call.options.values("o").contains(where: { OptionString.parse($0).contains { $0.key == "help" } }) else {
      return false
    }
    try requireRaw(call.options.value("O") ?? "raw")
    call.output.write(line: "Supported options:")
    call.output.write(line: "  preallocation=<str>    - Preallocation mode (allowed values: off, falloc, full)")
    call.output.write(line: "  size=<size>            - Virtual disk size")
    return true
  }

  /// The options of a raw target. Returns whether space for all of it is to be reserved.
  @discardableResult
  package static func checkRawOptions(_ lists: [String]) throws(Failure) -> Bool {
    var reserves = false
    for pair in lists.flatMap(OptionString.parse) {
      switch (pair.key, pair.value) {
      case ("size", let size?): _ = try SizeText.option(size, named: "image size")
      case ("preallocation", "off"?): reserves = false
      case ("preallocation", "falloc"?), ("preallocation", "full"?): reserves = true
      case ("preallocation", let other?):
        throw Failure("invalid parameter value: \(other)")
      default:
        throw Failure("Invalid parameter '\(pair.key)'")
      }
    }
    return reserves
  }
}

/// The names of formats that this version opens.
package enum SupportedFormats {
  package static var names: [String] { Formats.all.map { $0.name }.sorted() }
  package static let planned: Set<String> = ["qcow2", "qed", "vmdk", "vhdx", "dmg", "luks"]
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
