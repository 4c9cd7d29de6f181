import Platter
import PlatterCore
import SystemPackage

/// `create`: makes a new, empty image.
package enum CreateVerb: Verb {
  package static let name = "create"
  package static let summary = "Make a new, empty image."
  package static let operands = "FILENAME [SIZE]"
  package static let options = [
    OptionSpec("f", nil, .required("FORMAT"), "format of the image to be made (raw)"),
    OptionSpec("b", nil, .required("FILE"), "make an overlay of this image"),
    OptionSpec("F", nil, .required("FORMAT"), "format of that one"),
    OptionSpec("u", nil, "do not look at that one"),
    OptionSpec("o", nil, .required("OPTIONS"), "options of the format; help lists them"),
    SharedOptions.quiet, SharedOptions.object, SharedOptions.references, SharedOptions.passphraseFile,
  ]

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let operands = call.options.operands
    let formatName = call.options.value("f") ?? "raw"
    if try TargetFormat.writeHelp(call, formatName, isForFile: !operands.isEmpty) { return 0 }
    guard let file = operands.first else { throw Failure("Expecting image file name", isUsage: true) }
    guard operands.count <= 2 else { throw Failure("Unexpected argument: \(operands[2].text)", isUsage: true) }
    let name = file.text
    let format = try TargetFormat.named(formatName, file: name)
    let source = try ImageSource(file, isOptionList: false)
    guard let path = source.path else { throw Failure("the image '\(source.written)' names no file") }
    let size = try operands.dropFirst().first.map { argument throws(Failure) in
      try SizeText.option(argument.text, named: "image size")
    }
    var create = Create(path, format: format, byteCount: size, options: [:])
    create.options = try options(call, format, name: name)
    try settleSize(&create, name: name)
    create.opensBacking = !call.options.has("u")
    create.backingOptions = try call.openOptions()
    var request = try prepare(create, name, call)
    request.options = TargetFormat.withPlainNames(request.options)
    create.byteCount = request.byteCount
    if !call.isQuiet { call.output.write(line: try announcement(create, name)) }
    do throws(ImageError) {
      try create.run(request)
    } catch {
      throw describe(error, name, call)
    }
    return 0
  }

  private static func options(_ call: Invocation, _ format: any CreatableFormat.Type, name: String)
    throws(Failure) -> [String: String]
  {
    var options = try TargetFormat.options(call.options.values("o"))
    let known = Set(format.creationOptions.map(\.name))
    for option in options.keys.sorted() where !known.contains(option) {
      throw Failure("\(name): Invalid parameter '\(option)'")
    }
    for (letter, option, what) in [("b", "backing_file", "file"), ("F", "backing_fmt", "file format")] {
      guard let value = call.options.value(letter) else { continue }
      guard known.contains(option) else {
        throw Failure("\(name): Backing \(what) not supported for file format '\(format.name)'")
      }
      options[option] = value
    }
    return options
  }

  /// The size stands behind the name or among the options.
  private static func settleSize(_ create: inout Create, name: String) throws(Failure) {
    guard let text = create.options.removeValue(forKey: "size") else { return }
    guard create.byteCount == nil else { throw Failure("\(name): The image size must be specified only once") }
    do throws(ImageError) {
      create.byteCount = try CreationValue.size(text, of: "size")
    } catch {
      throw Failure("\(name): \(error.message)")
    }
  }

  private static func prepare(_ create: Create, _ name: String, _ call: Invocation) throws(Failure) -> CreationRequest {
    do throws(ImageError) {
      return try create.prepare()
    } catch {
      guard error.file != create.path.string, let backing = create.options["backing_file"] else {
        throw describe(error, name, call)
      }
      var failure = OpenFailure.describe(error, backing, file: error.file, call.program)
      if error.message.hasPrefix("cannot be opened"), let reason = error.errno {
        failure.sentences = ["Could not open '\(error.file ?? backing)': \(reason.description)"]
      }
      failure.sentences = failure.sentences.map { "\(name): \($0)" }
      failure.hint = failure.hint ?? "Could not open backing image."
      throw failure
    }
  }

  /// The line that qemu-img prints before it makes an image.
  private static func announcement(_ create: Create, _ name: String) throws(Failure) -> String {
    var line = "Formatting '\(name)', fmt=\(create.format.name)"
    for option in create.format.creationOptions {
      var text = create.options[option.name]
      if option.name == "size" { text = create.byteCount.map(String.init) }
      guard let text = text ?? option.shownDefault else { continue }
      do throws(ImageError) {
        line += " \(option.name)=\(escaped(try option.shown(text)))"
      } catch {
        throw Failure("\(name): \(error.message)")
      }
    }
    return line
  }

  private static func escaped(_ text: String) -> String {
    text.split(separator: ",", omittingEmptySubsequences: false).joined(separator: ",,")
  }

  private static func describe(_ error: ImageError, _ name: String, _ call: Invocation) -> Failure {
    guard call.program.isDropIn else { return OpenFailure.withHint(error.named(name)) }
    if error.message.hasPrefix("cannot be opened"), let reason = error.errno {
      return Failure("\(name): Could not create '\(name)': \(reason.description)")
    }
    return OpenFailure.withHint(error.named(name))
  }
}
