import Platter
import PlatterCore
import SystemPackage

/// `dd`: copies a part of a disk into a new image.
package enum DDVerb: Verb {
  package static let name = "dd"
  package static let summary = "Copy a part of a disk into a new image, with the operands of dd."
  package static let operands = "if=INPUT of=OUTPUT [bs=SIZE] [count=BLOCKS] [skip=BLOCKS]"
  package static let options =
    [
      SharedOptions.formatLetter,
      OptionSpec("O", nil, .required("FORMAT"), "format of the image to be made (raw)"),
      SharedOptions.forceShare,
    ] + SharedOptions.opening

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let operands = try DDOperands(call.options.operands)
    try call.checkFormatOptions(["f"])
    let formatName = call.options.value("O") ?? "raw"
    guard SupportedFormats.names.contains(formatName) || SupportedFormats.planned.contains(formatName) else {
      throw Failure("Unknown file format")
    }
    let format = try TargetFormat.named(formatName)
    let source = try call.open(try call.source(operands.input), try call.openOptions(formatKey: "f"))
    let target = try ImageSource(operands.output, isOptionList: false)
    guard let path = target.path else { throw Failure("the image '\(target.written)' names no file") }
    let copy = operands.copy(DD(source, to: path, format: format), call)
    do throws(ImageError) {
      try copy.run()
    } catch {
      throw describe(error, operands.output.text, call)
    }
    return 0
  }

  private static func describe(_ error: ImageError, _ name: String, _ call: Invocation) -> Failure {
    guard call.program.isDropIn else { return OpenFailure.withHint(error.named(name)) }
    let isOpening = error.message.hasPrefix("cannot be opened")
    let reason = isOpening ? error.errno.map { "Could not create '\(name)': \($0.description)" } : nil
    return Failure(
      "\(name): error while creating output image: \(reason ?? error.message)",
      hint: error.code == .busy ? "Is another process using the image [\(name)]?" : nil)
  }
}

/// The operands of `dd`, checked.
private struct DDOperands {
  private static let maximumBlockByteCount = UInt64(Int32.max)  // QEMU's

  let input: Argument
  let output: Argument
  private var blockByteCount = DD.defaultBlockByteCount
  private var count: UInt64?
  private var skip: UInt64 = 0

  init(_ words: [Argument]) throws(Failure) {
    var input: Argument?
    var output: Argument?
    for word in words {
      let name = word.bytes.prefix { $0 != UInt8(ascii: "=") }
      let value = Argument(bytes: Array(word.bytes.dropFirst(name.count + 1)))
      let text = String(decoding: name, as: UTF8.self)
      guard name.count < word.bytes.count else { throw Failure("unrecognized operand \(text)") }
      switch text {
      case "if": input = value
      case "of": output = value
      case "bs":
        blockByteCount = try SizeText.option(value.text, named: "bs")
        guard 1...Self.maximumBlockByteCount ~= blockByteCount else {
          throw Failure("Invalid bs specified. Must be between 1 and \(Self.maximumBlockByteCount).")
        }
      case "count": count = try SizeText.option(value.text, named: "count")
      case "skip": skip = try SizeText.option(value.text, named: "skip")
      default: throw Failure("unrecognized operand \(text)")
      }
    }
    guard let input, let output else { throw Failure("Must specify both input and output files") }
    self.input = input
    self.output = output
  }

  /// The copy that is asked for. A start behind the disk's end gives an empty one, and a word about it.
  func copy(_ base: DD, _ call: Invocation) -> DD {
    var copy = base
    copy.blockByteCount = blockByteCount
    copy.skip = skip
    // qemu-img 7.2 counts the blocks from the disk's start on; everybody else from where the copy starts.
    copy.count = call.program.isDropIn ? count : count.map { $0.adding(skip) ?? .max }
    if copy.skipsPastEnd { call.messages.error("\(input.text): cannot skip to specified offset") }
    return copy
  }
}
