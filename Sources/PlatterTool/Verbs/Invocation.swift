package import Platter
package import PlatterCore
import SystemPackage

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// A verb at work: what it was called with, where it prints, how it opens images.
package final class Invocation {
  package let program: ProgramName
  package let options: ParsedOptions
  package let output: Output
  package let messages: Messages
  private let secrets: SecretTable
  private let policy: ReferencePolicy
  private let passphraseFile: String?

  package init(_ program: ProgramName, _ options: ParsedOptions, _ output: Output, _ messages: Messages) throws(Failure)
  {
    self.program = program
    self.options = options
    self.output = output
    self.messages = messages
    secrets = try SecretTable(objects: options.values("object"))
    policy = try Self.policy(program, options)
    passphraseFile = options.value("passphrase-file")
  }

  /// The program's default, unless the environment or an option says otherwise.
  private static func policy(_ program: ProgramName, _ options: ParsedOptions) throws(Failure) -> ReferencePolicy {
    if let text = options.value("references") {
      guard let policy = ReferencePolicy(rawValue: text) else {
        throw Failure("--references takes none, siblings or any, not '\(text)'")
      }
      return policy
    }
    if let text = environment("PLATTER_REFERENCES"), !text.isEmpty {
      guard let policy = ReferencePolicy(rawValue: text) else {
        throw Failure("PLATTER_REFERENCES is '\(text)'; it takes none, siblings or any")
      }
      return policy
    }
    return program.isDropIn ? .any : .siblings
  }

  private static func environment(_ name: String) -> String? {
    guard let value = unsafe getenv(name) else { return nil }
    return unsafe String(cString: value)
  }

  package var isQuiet: Bool { options.has("q") }
  package var references: ReferencePolicy { policy }

  /// Whether `--output=json` was given.
  package func wantsJSON() throws(Failure) -> Bool {
    switch options.value("output") {
    case nil, "human": return false
    case "json": return true
    default: throw Failure("--output must be used with human or json as argument.")
    }
  }

  /// The form of progress that `-p` and `--progress` ask for.
  package func progressForm() throws(Failure) -> ProgressDisplay.Form {
    guard let text = options.value("progress") else { return options.has("p") && !isQuiet ? .human : .none }
    guard let form = ProgressDisplay.Form(rawValue: text) else {
      throw Failure("--progress takes human, json or none, not '\(text)'")
    }
    return form
  }

  /// The cache mode of an option.
  package func cache(_ key: String, what: String) throws(Failure) -> OpenOptions.CacheMode? {
    guard let text = options.value(key) else { return nil }
    if text == "off" { return OpenOptions.CacheMode.none }
    guard let mode = OpenOptions.CacheMode(rawValue: text) else { throw Failure("Invalid \(what) option: \(text)") }
    return mode
  }

  /// The one operand that most verbs take.
  package func singleOperand() throws(Failure) -> Argument {
    guard options.operands.count == 1 else { throw Failure("Expecting one image file name", isUsage: true) }
    return options.operands[0]
  }

  package func source(_ argument: Argument) throws(Failure) -> ImageSource {
    try ImageSource(argument, isOptionList: options.has("image-opts"))
  }

  /// Options that hold for every image of the call.
  package func openOptions(formatKey: String = "format") throws(Failure) -> OpenOptions {
    var result = OpenOptions(format: options.value(formatKey), references: policy)
    result.locking = options.has("force-share") ? .shared : .exclusive
    if let mode = try cache("T", what: "source cache") { result.cache = mode }
    let messages = messages
    result.warn = { messages.warn($0) }
    let secrets = secrets
    result.secrets = { id in secrets[id] }
    result.passphrase = passphraseProvider()
    return result
  }

  private func passphraseProvider() -> (@Sendable () throws(ImageError) -> [UInt8]?)? {
    if let file = passphraseFile {
      return { () throws(ImageError) in
        do throws(Failure) {
          var bytes = try SecretTable.read(file: file)
          // Editors end a file with a line end that nobody typed as a part of the passphrase.
          if bytes.last == UInt8(ascii: "\n") { bytes.removeLast() }
          return bytes
        } catch {
          throw ImageError(.io, error.sentences[0])
        }
      }
    }
    // Scripts that know QEMU's programs do not expect a question.
    guard !program.isDropIn else { return nil }
    return { () throws(ImageError) in try Prompt.passphrase() }
  }

  /// Opens an image.
  package func open(_ source: ImageSource, _ openOptions: OpenOptions) throws(Failure) -> DiskImage {
    do throws(ImageError) {
      switch source.place {
      case .path(let path):
        return try DiskImage.open(path: path, openOptions)
      case .node(let node):
        var openOptions = openOptions
        openOptions.format = nil
        return try DiskImage.open(node: node, openOptions)
      }
    } catch {
      if openOptions.snapshot != nil, program.isDropIn, error.message.hasPrefix("there is no snapshot") {
        throw Failure("Failed to load snapshot: Can't find snapshot")
      }
      throw OpenFailure.describe(error, source.written, file: source.path?.string, program)
    }
  }

  /// `-f` and `--image-opts` exclude each other.
  package func checkFormatOptions(_ keys: [String] = ["format"]) throws(Failure) {
    guard options.has("image-opts") else { return }
    for key in keys where options.has(key) {
      throw Failure("--image-opts and --format are mutually exclusive")
    }
  }
}

/// Words for an image that could not be opened. Scripts match QEMU's, so the drop-in names use them.
package enum OpenFailure {
  /// The error's own sentence; a held lock brings a question with it.
  package static func withHint(_ error: ImageError) -> Failure {
    let question = error.code == .busy ? "Is another process using the image [\(error.file ?? "")]?" : nil
    return Failure(error.description, hint: question)
  }

  /// - Parameters:
  ///   - name: the image as the user wrote it.
  ///   - file: its file's name, where that is another text.
  package static func describe(_ error: ImageError, _ name: String, file: String? = nil, _ program: ProgramName)
    -> Failure
  {
    let hint = error.code == .busy ? "Is another process using the image [\(error.file ?? name)]?" : nil
    guard program.isDropIn else { return Failure(error.description, hint: hint) }
    return Failure("Could not open '\(name)': \(reason(error, [name, file ?? name]))", hint: hint)
  }

  static func reason(_ error: ImageError, _ names: [String]) -> String {
    let shown = error.file ?? names[0]
    let needed = "the image is encrypted; a secret is needed: "
    if error.message.hasPrefix(needed) {
      return "Parameter '\(error.message.dropFirst(needed.count))' is required for cipher"
    }
    for format in ["qcow2", "qed"] where error.message.hasPrefix("no \(format) image") {
      return "Image is not in \(format) format"
    }
    if error.message.hasPrefix("Unknown driver"), let file = error.file, !names.contains(file) {
      return "Could not open backing file: \(error.message)"
    }
    if error.errno == .isDirectory { return "'file' driver requires '\(shown)' to be a regular file" }
    if let reason = error.errno, error.message.hasPrefix("cannot be opened") {
      return "Could not open '\(shown)': \(reason.description)"
    }
    if error.message == "the image keeps its data in an external file, but names none" {
      return "'data-file' is required for this image"
    }
    if let reason = error.errno, let reference = referenceName("data file", error.message) {
      return "Could not open '\(reference)': \(reason.description)"
    }
    if let reason = error.errno, let reference = referenceName("backing file", error.message) {
      let full = InfoReport.fullName(reference, shown)
      return "Could not open backing file: Could not open '\(full)': \(reason.description)"
    }
    return error.file.map(names.contains) ?? true ? error.message : error.description
  }

  /// The name in the library's sentence about a file of this kind that the image names and that cannot be opened.
  private static func referenceName(_ what: String, _ message: String) -> String? {
    let start = "the \(what) \""
    guard message.hasPrefix(start) else { return nil }
    let rest = message.dropFirst(start.count)
    guard let end = rest.firstIndex(of: "\""), rest[end...].hasPrefix("\" cannot be opened:") else { return nil }
    return String(rest[..<end])
  }
}
