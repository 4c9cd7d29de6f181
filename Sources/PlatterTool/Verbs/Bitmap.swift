import Platter
import PlatterCore

/// `bitmap`: the dirty bitmaps that an image keeps inside itself.
package enum BitmapVerb: Verb {
  package static let name = "bitmap"
  package static let summary = "Change a dirty bitmap inside an image; several actions are done in the order given."
  package static let operands = "FILENAME BITMAP"
  package static let options =
    [
      OptionSpec(nil, "add", "make it, recording from now on"),
      OptionSpec(nil, "remove", "delete it; the one action that takes a bitmap that was not saved"),
      OptionSpec(nil, "clear", "forget what it recorded"),
      OptionSpec(nil, "enable", "record from now on"),
      OptionSpec(nil, "disable", "record no longer"),
      OptionSpec(nil, "merge", .required("SOURCE"), "add what another bitmap recorded"),
      OptionSpec("g", "granularity", .required("SIZE"), "with --add: bytes that one bit stands for"),
      OptionSpec("b", "source-file", .required("FILE"), "with --merge: the image that has SOURCE"),
      OptionSpec("F", "source-format", .required("FORMAT"), "format of that one"),
      SharedOptions.formatLetter,
    ] + SharedOptions.opening

  private static let actionNames = ["add", "remove", "clear", "enable", "disable", "merge"]

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let granularity = try call.options.value("granularity").map { text throws(Failure) in
      try SizeText.option(text, named: "granularity")
    }
    let actions = call.options.occurrences.filter { actionNames.contains($0.key) }
    try check(call.options, granularity)
    guard call.options.operands.count == 2 else { throw Failure("Expecting filename and bitmap name") }
    try call.checkFormatOptions(["f"])
    let source = try call.source(call.options.operands[0])
    let writer = try call.openForWriting(source, try call.openOptions(formatKey: "f"))
    let edit = BitmapEdit(
      name: call.options.operands[1].text, imageName: source.written,
      // 0 asks for the usual one, as with QEMU.
      granularity: granularity == 0 ? nil : granularity, call: call)
    try call.closing(writer) { writer throws(Failure) in
      let other = try call.options.argument("source-file").map { argument throws(Failure) in
        try openSource(argument, call)
      }
      for action in actions { try edit.perform(action.key, action.value.text, other, writer) }
    }
    return 0
  }

  private static func check(_ options: ParsedOptions, _ granularity: UInt64?) throws(Failure) {
    guard actionNames.contains(where: options.has) else {
      throw Failure("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge")
    }
    guard granularity ?? 0 == 0 || options.has("add") else { throw Failure("granularity only supported with --add") }
    guard !options.has("source-file") || options.has("merge") else {
      throw Failure("Merge bitmap source file only supported with --merge")
    }
    guard !options.has("source-format") || options.has("source-file") else {
      throw Failure("-F only supported with -b")
    }
  }

  /// The image that `-b` names: always a file's name.
  private static func openSource(_ argument: Argument, _ call: Invocation) throws(Failure) -> DiskImage {
    var openOptions = try call.openOptions(formatKey: "source-format")
    openOptions.opensBacking = false
    return try call.open(try ImageSource(argument, isOptionList: false), openOptions)
  }
}

/// One call's changes to one bitmap.
private struct BitmapEdit {
  let name: String
  let imageName: String
  let granularity: UInt64?
  let call: Invocation

  /// Does one action. In memory: closing the writer puts all of them on disk.
  /// - Parameter source: for "merge", the bitmap's name.
  func perform(_ action: String, _ source: String, _ other: DiskImage?, _ writer: DiskWriter) throws(Failure) {
    do throws(ImageError) {
      try writer.restructure { (map, _) throws(ImageError) in
        guard let map = map as? any BitmapMap else {
          throw action == "add"
            ? ImageError.invalidArgument("Can't store persistent bitmaps to \(imageName): Operation not supported")
            : ImageError(.notFound, "Dirty bitmap '\(name)' not found")
        }
        try change(map, action, source, other)
      }
    } catch {
      throw describe(error, action)
    }
  }

  private func change(_ map: any BitmapMap, _ action: String, _ source: String, _ other: DiskImage?)
    throws(ImageError)
  {
    switch action {
    case "add": try map.addBitmap(named: name, granularity: granularity, isEnabled: true)
    case "remove": try map.removeBitmap(named: name)
    case "clear": try map.clearBitmap(named: name)
    case "enable": try map.setBitmap(named: name, isEnabled: true)
    case "disable": try map.setBitmap(named: name, isEnabled: false)
    default:
      guard let other else { return try map.mergeBitmap(named: source, into: name) }
      guard let image = other.layers[0].map as? any BitmapSource else {
        throw ImageError(.notFound, "Dirty bitmap '\(source)' not found")
      }
      try map.mergeBitmap(named: source, of: image, into: name)
    }
  }

  private func describe(_ error: ImageError, _ action: String) -> Failure {
    guard call.program.isDropIn || error.code != .io else { return Failure(error) }
    var failure = call.refusal(error)
    var reason = error.message
    if action == "add", error.code == .unsupported {
      reason = "Can't make bitmap '\(name)' persistent in '\(imageName)': \(reason)"
    }
    failure.sentences = ["Operation \(action) on bitmap \(name) failed: \(reason)"]
    return failure
  }
}
