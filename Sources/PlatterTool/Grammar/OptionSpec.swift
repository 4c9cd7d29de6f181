/// One option of a verb: what the parser accepts and what help, man page and completions say.
package struct OptionSpec: Sendable {
  package enum Argument: Sendable, Equatable {
    case none
    /// The option takes an argument; the name is for help: "FORMAT".
    case required(String)
  }

  package let short: Character?
  package let long: String?
  package let argument: Argument
  package let help: String

  /// An option without an argument.
  package init(_ short: Character?, _ long: String?, _ help: String) { self.init(short, long, .none, help) }

  package init(_ short: Character?, _ long: String?, _ argument: Argument, _ help: String) {
    precondition(short != nil || long != nil)
    self.short = short
    self.long = long
    self.argument = argument
    self.help = help
  }

  /// What a verb asks for it by: the long name where it has one, else the letter.
  package var key: String { long ?? short.map(String.init) ?? "" }

  package var takesArgument: Bool { argument != .none }

  /// The option exists under the program's own name only.
  package var isOwn: Bool { long == "references" }
}

/// Options that several verbs share, so that they read alike everywhere.
package enum SharedOptions {
  package static let help = OptionSpec("h", "help", "show this help and exit")
  package static let object = OptionSpec(
    nil, "object", .required("OBJECT"), "define a secret: secret,id=ID,data=TEXT or file=FILE[,format=raw|base64]")
  package static let imageOptions = OptionSpec(
    nil, "image-opts", "read image names as KEY=VALUE,... lists")
  package static let format = OptionSpec("f", "format", .required("FORMAT"), "format of the image; else it is probed")
  /// The same without a long name, where qemu-img has none: another name would change which abbreviations are clear.
  package static let formatLetter = OptionSpec("f", nil, .required("FORMAT"), "format of the image; else it is probed")
  package static let output = OptionSpec(nil, "output", .required("human|json"), "form of the output")
  package static let forceShare = OptionSpec(
    "U", "force-share", "read even while another program writes the image")
  package static let quiet = OptionSpec("q", nil, "print nothing but errors")
  package static let progress = OptionSpec("p", nil, "show progress")
  package static let progressForm = OptionSpec(
    nil, "progress", .required("human|json|none"), "show progress; json: a line of JSON each on standard error")
  package static let sourceCache = OptionSpec("T", nil, .required("CACHE"), "cache mode for reading")
  package static let references = OptionSpec(
    nil, "references", .required("none|siblings|any"), "which other files an image may name")
  package static let passphraseFile = OptionSpec(
    nil, "passphrase-file", .required("FILE"), "file that holds the passphrase of an encrypted image")

  /// What every verb takes that opens images.
  package static let opening = [object, imageOptions, references, passphraseFile]
}
