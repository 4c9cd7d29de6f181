import Platter
import PlatterCore
import SystemPackage

/// `rebase`: gives an overlay another backing image.
package enum RebaseVerb: Verb {
  package static let name = "rebase"
  package static let summary = "Give an overlay another backing image; -b '' makes it stand alone."
  package static let operands = "FILENAME"
  package static let options =
    [
      SharedOptions.formatLetter,
      OptionSpec("b", nil, .required("FILE"), "the new backing image; empty for none"),
      OptionSpec("F", nil, .required("FORMAT"), "format of that one"),
      OptionSpec("c", "compress", "compress what must become the overlay's own"),
      OptionSpec("u", nil, "change the name alone: both images are known to hold the same"),
      OptionSpec("t", nil, .required("CACHE"), "cache mode for writing (writeback)"),
      SharedOptions.sourceCache, SharedOptions.quiet, SharedOptions.progress, SharedOptions.progressForm,
      SharedOptions.forceShare,
    ] + SharedOptions.opening

  /// Names that QEMU takes for a format, of drivers that give a file's bytes as they are.
  private static let fileDrivers: Set<String> = ["file", "host_device", "host_cdrom"]

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let operand = try call.singleOperand()
    let isUnsafe = call.options.has("u")
    let name = call.options.argument("b")
    guard isUnsafe || name != nil else {
      throw Failure("Must specify backing file (-b) or use unsafe mode (-u)", isUsage: true)
    }
    let cache = try call.cache("t", what: "cache")
    _ = try call.cache("T", what: "source cache")
    try call.checkFormatOptions(["f"])
    let format = call.options.value("F")
    if let format, !SupportedFormats.names.contains(format), !Self.fileDrivers.contains(format) {
      throw Failure("Invalid format name: '\(format)'")
    }
    let source = try call.source(operand)
    var openOptions = try call.openOptions(formatKey: "f")
    openOptions.opensBacking = !isUnsafe
    let image = try call.openForWriting(source, openOptions, cache: cache ?? .writeback).image
    let text = name?.text ?? ""
    guard image.layers[0].map is any RebaseableMap else {
      throw Failure("Could not change the backing file to '\(text)': Operation not supported")
    }
    guard text.isEmpty || format != nil else {
      throw Failure("Could not change the backing file to '\(text)': backing format must be specified")
    }
    let backing = name.flatMap { $0.bytes.isEmpty ? nil : Rebase.Backing(name: $0.bytes, format: format) }
    var rebase = Rebase(image, onto: backing)
    rebase.cache = cache ?? .writeback
    rebase.isCompressed = call.options.has("compress")
    rebase.writesZeros = call.program.isDropIn
    try run(rebase, image, isUnsafe ? nil : name, call)
    return 0
  }

  private static func run(_ rebase: Rebase, _ image: DiskImage, _ name: Argument?, _ call: Invocation)
    throws(Failure)
  {
    let progress = ProgressDisplay(try call.progressForm())
    let newBase = try name.flatMap { name throws(Failure) in try openNewBase(name, image, call) }
    progress.start()
    do throws(ImageError) {
      if name == nil {
        try rebase.renameOnly()
      } else {
        try rebase.run(newBase: newBase) { done, total in
          progress.update(done, of: total)
          return true
        }
      }
    } catch {
      progress.finish(succeeded: false)
      throw Failure(error)
    }
    progress.finish(succeeded: true)
  }

  /// The new backing image as the overlay will find it: relative to the overlay's folder.
  private static func openNewBase(_ name: Argument, _ image: DiskImage, _ call: Invocation) throws(Failure)
    -> DiskImage?
  {
    guard !name.bytes.isEmpty else { return nil }
    guard let file = FilePath(bytes: name.bytes) else { throw Failure("not a file name: '\(name.text)'") }
    let folder = image.layers[0].path?.removingLastComponent() ?? ""
    let path = file.isAbsolute || folder.isEmpty ? file : folder.pushing(file)
    var openOptions = try call.openOptions()
    openOptions.format = call.options.value("F")
    openOptions.locking = .exclusive
    do throws(ImageError) {
      return try DiskImage.open(path: path, openOptions)
    } catch {
      var failure = OpenFailure.describe(error, name.text, file: error.file, call.program)
      failure.sentences = failure.sentences.map { sentence in
        let start = "Could not open '\(name.text)': "
        let rest = sentence.hasPrefix(start) ? String(sentence.dropFirst(start.count)) : sentence
        return "Could not open new backing file '\(name.text)': \(rest)"
      }
      throw failure
    }
  }
}
