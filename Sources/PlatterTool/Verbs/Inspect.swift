import Platter
import PlatterCore
import SystemPackage

/// `inspect`: a safe look at a file from a stranger. Nothing that it refers to is opened. JSON.
package enum InspectVerb: Verb {
  package static let name = "inspect"
  package static let summary = "Look safely at a file from a stranger: formats, references, what is odd. Prints JSON."
  package static let operands = "FILENAME"
  package static let options = [
    OptionSpec(nil, "output", .required("json"), "form of the output")
  ]

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let form = call.options.value("output") ?? "json"
    guard form == "json" else { throw Failure("--output takes json, not '\(form)'") }
    // A plain path whatever it looks like: a protocol or json: is never read into it.
    let operand = try call.singleOperand()
    guard !operand.bytes.isEmpty, let path = FilePath(bytes: operand.bytes) else {
      throw Failure("the file name is empty")
    }
    do throws(ImageError) {
      let inspection = try Inspection(path)
      JSONWriter.write(json(inspection, operand), to: call.output)
      call.output.write("\n" as StaticString)
      return 0
    } catch {
      throw OpenFailure.describe(error, operand.text, call.program)
    }
  }

  private static func json(_ inspection: Inspection, _ operand: Argument) -> Property {
    var members: [Property.Member] = [
      Property.Member("filename", .text(operand.text)),
      Property.Member("size", .unsigned(inspection.byteCount)),
      Property.Member("actual-size", .unsigned(inspection.allocatedByteCount)),
      Property.Member("candidates", .list(inspection.candidates.map(json))),
    ]
    if let name = inspection.unsupportedFormat {
      members.append(Property.Member("unsupported-format", .text(name)))
    }
    members.append(Property.Member("findings", .list(inspection.findings.map { .text($0) })))
    return .object(members)
  }

  private static func json(_ candidate: Inspection.Candidate) -> Property {
    var members: [Property.Member] = []
    func add(_ name: String, _ value: Property?) {
      if let value { members.append(Property.Member(name, value)) }
    }
    add("format", .text(candidate.formatName))
    add("has-signature", .flag(candidate.score >= Formats.certain))
    add("error", candidate.error.map { .text($0.message) })
    add("virtual-size", candidate.virtualByteCount.map { .unsigned($0) })
    if candidate.error == nil { add("encrypted", .flag(candidate.isEncrypted)) }
    add("references", references(candidate))
    add("format-specific", candidate.facts?.specific)
    if let warnings = candidate.facts?.warnings, !warnings.isEmpty {
      add("warnings", .list(warnings.map { .text($0) }))
    }
    return .object(members)
  }

  /// Every other file that the image names, with its role.
  private static func references(_ candidate: Inspection.Candidate) -> Property? {
    guard candidate.error == nil else { return nil }
    var items: [Property] = []
    if let backing = candidate.backing {
      var members = [
        Property.Member("role", .text("backing")), Property.Member("filename", .text(backing.displayName)),
      ]
      if let format = backing.formatName { members.append(Property.Member("format", .text(format))) }
      items.append(.object(members))
    }
    for reference in candidate.facts?.references ?? [] {
      items.append(["role": .text("file"), "filename": .text(reference)])
    }
    return .list(items)
  }
}
