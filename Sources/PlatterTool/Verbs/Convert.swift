import CPlatter
import Platter
import PlatterCore
import SystemPackage

/// `convert`: copies the guest content of disks into a new image.
package enum ConvertVerb: Verb {
  package static let name = "convert"
  package static let summary =
    "Copy one or several disks, one behind the other, into an image; - is standard input or output."
  package static let operands = "FILENAME [FILENAME2 ...] OUTPUT_FILENAME"
  package static let options =
    [
      SharedOptions.formatLetter,
      OptionSpec("O", nil, .required("FORMAT"), "format of the image to be made (raw)"),
      OptionSpec("o", nil, .required("OPTIONS"), "options of that format"),
      OptionSpec("B", nil, .required("FILE"), "make the new image an overlay of this one"),
      OptionSpec("F", nil, .required("FORMAT"), "format of that one"),
      OptionSpec("c", nil, "compress"),
      OptionSpec("l", nil, .required("SNAPSHOT"), "read an internal snapshot"),
      OptionSpec("S", nil, .required("SIZE"), "runs of zeros this long become holes (4k); 0: no holes"),
      OptionSpec("m", nil, .required("COUNT"), "threads, 1 to 16"),
      OptionSpec("W", nil, "write out of order (always so where it can be)"),
      OptionSpec("n", nil, "write into a target that is there"),
      OptionSpec(nil, "target-is-zero", "with -n: the target reads as zeros"),
      OptionSpec(nil, "target-image-opts", "with -n: read the target's name as KEY=VALUE,..."),
      OptionSpec("t", nil, .required("CACHE"), "cache mode for writing (unsafe)"),
      OptionSpec("C", nil, "let the kernel copy where it can"),
      OptionSpec("r", nil, .required("BYTES"), "write no more bytes a second"),
      OptionSpec(nil, "salvage", "read errors become zeros"),
      OptionSpec(nil, "source-size", .required("SIZE"), "bytes of a raw disk that comes through a pipe"),
      OptionSpec(nil, "bitmaps", "copy bitmaps too"),
      OptionSpec(nil, "skip-broken-bitmaps", "leave out inconsistent ones"),
      SharedOptions.sourceCache, SharedOptions.quiet, SharedOptions.progress, SharedOptions.progressForm,
      SharedOptions.forceShare,
    ] + SharedOptions.opening

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    if try TargetFormat.writeHelp(
      call, call.options.value("O") ?? "raw", isForFile: !call.options.operands.isEmpty)
    {
      return 0
    }
    let request = try ConvertRequest(call)
    let progress = ProgressDisplay(try call.progressForm(), toStandardError: request.isStream)
    let source = try request.openSource(call)
    let target = try request.target(call)
    let convert = Convert(source, target: target, options: request.copyOptions)
    try request.warnOfSkippedBitmaps(convert, call)
    let limiter = request.limiter(source, target)
    progress.start()
    // A copy that is stopped leaves no half-made file behind. A stream has nothing to clean up, and its reader may be slow.
    if !request.isStream { platter_catch_stop_signals() }
    do throws(ImageError) {
      try convert.run { done, total in
        progress.update(done, of: total)
        limiter?.wait(done)
        return platter_stop_signal() == 0
      }
    } catch {
      progress.finish(succeeded: false)
      let signal = platter_stop_signal()
      if signal != 0, error.code == .cancelled { throw .silent(status: 128 + signal) }
      throw request.describe(error, call)
    }
    progress.finish(succeeded: true)
    return 0
  }
}

/// The options of `convert`, checked.
private struct ConvertRequest {
  private static let maximumSparseByteCount: UInt64 = 16 << 20  // QEMU's
  private static let workerCounts = 1...16  // QEMU's

  let sourceArguments: [Argument]
  let targetArgument: Argument
  let copyOptions: Convert.Options
  private let bytesPerSecond: UInt64?
  private let format: any CreatableFormat.Type
  private let formatOptions: [String: String]
  private let isExisting: Bool
  private let isTargetZero: Bool

  let isStream: Bool

  init(_ call: Invocation) throws(Failure) {
    let options = call.options
    guard options.operands.count >= 2, let target = options.operands.last else {
      throw Failure("Must specify image file name")
    }
    sourceArguments = Array(options.operands.dropLast())
    targetArgument = target
    isStream = ConvertStreams.isOutput(target)
    isExisting = options.has("n")
    isTargetZero = options.has("target-is-zero")
    bytesPerSecond = try options.value("r").map { text throws(Failure) in
      try SizeText.option(text, named: "rate limit")
    }
    var copy = Convert.Options()
    try Self.readSparse(options, into: &copy)
    try Self.readWorkers(options, into: &copy)
    let cache = try call.cache("t", what: "cache") ?? .unsafe
    copy.flushes = cache.flushes
    copy.isDirect = cache.isDirect
    copy.isCompressed = options.has("c")
    copy.isOrdered = !options.has("W")
    copy.copiesBitmaps = options.has("bitmaps")
    copy.skipsInconsistentBitmaps = options.has("skip-broken-bitmaps")
    format = try TargetFormat.named(options.value("O") ?? "raw", file: nil)
    try Self.checkTarget(options, format)
    formatOptions = try Self.formatOptions(options, format)
    if format.name == "raw", (formatOptions["preallocation"] ?? "off") != "off" { copy.sparseByteCount = 0 }
    // One worker, so that what waits for the rate is all there is.
    if bytesPerSecond != nil { copy.workerCount = 1 }
    copyOptions = copy
    try call.checkFormatOptions(["f"])
  }

  private static func readSparse(_ options: ParsedOptions, into copy: inout Convert.Options) throws(Failure) {
    guard let text = options.value("S") else { return }
    guard let value = try? SizeText.parse(text), value % 512 == 0, value <= maximumSparseByteCount else {
      throw Failure(
        "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to "
          + "\(maximumSparseByteCount). Select 0 to disable sparse detection (fully allocates output).")
    }
    copy.sparseByteCount = Int(value)
  }

  private static func readWorkers(_ options: ParsedOptions, into copy: inout Convert.Options) throws(Failure) {
    guard let text = options.value("m") else { return }
    guard let count = Int(text), workerCounts.contains(count) else {
      throw Failure("Invalid number of coroutines. Allowed number of coroutines is between 1 and 16")
    }
    copy.workerCount = count
  }

  /// The options of the target's format, those among them that have letters of their own included.
  private static func formatOptions(_ parsed: ParsedOptions, _ format: any CreatableFormat.Type) throws(Failure)
    -> [String: String]
  {
    var options = TargetFormat.withPlainNames(try TargetFormat.options(parsed.values("o")))
    let known = Set(format.creationOptions.map(\.name))
    for name in options.keys.sorted() where !known.contains(name) { throw Failure("Invalid parameter '\(name)'") }
    // The sources say how large it is.
    options["size"] = nil
    if let backing = parsed.value("B") { options["backing_file"] = backing }
    if let backing = parsed.value("F") { options["backing_fmt"] = backing }
    if options["backing_file"] != nil, parsed.operands.count > 2 {
      throw Failure("Having a backing file for the target makes no sense when concatenating multiple input images")
    }
    if options["backing_file"] != nil, options["backing_fmt"] == nil, !parsed.has("n") {
      throw Failure("Use of backing file requires explicit backing format")
    }
    if format.name == "raw", let mode = options["preallocation"],
      !["off", "falloc", "full"].contains(mode)
    {
      throw Failure("invalid parameter value: \(mode)")
    }
    return options
  }

  private static func checkTarget(_ options: ParsedOptions, _ format: any CreatableFormat.Type) throws(Failure) {
    if options.has("target-is-zero"), !options.has("n") {
      throw Failure("--target-is-zero requires use of -n flag")
    }
    if options.has("target-image-opts"), !options.has("n") {
      throw Failure("--target-image-opts requires use of -n flag")
    }
    if options.has("C"), options.has("S") { throw Failure("Cannot enable copy offloading when -S is used") }
    if options.has("C"), options.has("salvage") { throw Failure("Cannot use copy offloading in salvaging mode") }
    if options.has("c"), ["raw", "luks"].contains(format.name) {
      throw Failure("Compression not supported for this file format")
    }
    if format.name == "raw" {
      if options.has("B") { throw Failure("Backing file not supported for file format 'raw'") }
      if options.has("F") { throw Failure("Backing file format not supported for file format 'raw'") }
    }
    if options.has("n"), options.has("o") { throw Failure("-o has no effect when skipping image creation") }
    if options.has("skip-broken-bitmaps"), !options.has("bitmaps") {
      throw Failure("Use of --skip-broken-bitmaps requires --bitmaps")
    }
  }

  func openSource(_ call: Invocation) throws(Failure) -> ConvertSource {
    if let pipe = try ConvertStreams.input(sourceArguments, call, isCancelled: { platter_stop_signal() != 0 }) {
      return .pipe(pipe)
    }
    var openOptions = try call.openOptions(formatKey: "f")
    openOptions.snapshot = try call.options.value("l").map(SnapshotParameter.name)
    if openOptions.snapshot != nil, sourceArguments.count > 1 {
      throw Failure("No support for concatenating multiple snapshot")
    }
    var sources: [DiskImage] = []
    for argument in sourceArguments {
      let disk = try call.open(try call.source(ConvertStreams.file(argument)), openOptions)
      sources.append(call.options.has("salvage") ? disk.salvaging(call.salvage()) : disk)
    }
    return .disks(sources)
  }

  /// Holds the copy back where `-r` asks for it.
  func limiter(_ source: ConvertSource, _ target: ConvertTarget) -> RateLimiter? {
    guard let bytesPerSecond else { return nil }
    var free: UInt64 = 0
    // The first pass over the sources writes nothing.
    if case .imageStream = target { for disk in source.images { free += disk.byteCount } }
    return RateLimiter(bytesPerSecond: bytesPerSecond, free: free)
  }

  func target(_ call: Invocation) throws(Failure) -> ConvertTarget {
    var open = try call.openOptions(formatKey: "O")
    open.node = [:]
    if isStream {
      let stream = try ConvertStreams.output(targetArgument)
      guard format.name != "raw" else { return .stream(stream) }
      var create = Create(FilePath(stream.name), format: format, byteCount: nil, options: formatOptions)
      create.backingOptions = open
      return .imageStream(create, stream)
    }
    let source = try ImageSource(targetArgument, isOptionList: call.options.has("target-image-opts"))
    guard let path = source.path else { throw Failure("the target '\(source.written)' names no file") }
    // A list of options says itself what the target is.
    if format.name == "raw", source.driver ?? "raw" == "raw" {
      return isExisting ? .existing(path, isZero: isTargetZero) : .newFile(path)
    }
    if isExisting {
      open.isWritable = true
      return .image(try call.open(source, open), isZero: isTargetZero)
    }
    var create = Create(path, format: format, byteCount: nil, options: formatOptions)
    create.backingOptions = open
    return .newImage(create)
  }

  /// Checks the bitmaps of the source, before the target is touched, and names those that are left out.
  func warnOfSkippedBitmaps(_ convert: Convert, _ call: Invocation) throws(Failure) {
    do throws(ImageError) {
      for bitmap in try convert.selectBitmaps().skipped {
        call.messages.warn("Skipping inconsistent bitmap '\(bitmap.name)'")
      }
    } catch {
      let isInconsistent = error.message.hasPrefix("Cannot copy inconsistent")
      throw Failure(
        error.description,
        hint: isInconsistent
          ? "Try --skip-broken-bitmaps, or use '\(call.program.rawValue) bitmap --remove' to delete it" : nil)
    }
  }

  /// Words for a failed copy.
  func describe(_ error: ImageError, _ call: Invocation) -> Failure {
    let name = targetArgument.text
    guard call.program.isDropIn, !isStream, error.file == name || error.code == .busy else {
      return OpenFailure.withHint(error)
    }
    let isOpening = error.message.hasPrefix("cannot be opened")
    if error.code == .busy {
      return Failure(
        "\(name): error while converting \(format.name): \(error.message)",
        hint: "Is another process using the image [\(name)]?")
    }
    if isExisting, error.code == .invalidArgument { return Failure("output file is smaller than input file") }
    guard isOpening, let reason = error.errno else { return OpenFailure.withHint(error) }
    return isExisting
      ? Failure("Could not open '\(name)': Could not open '\(name)': \(reason.description)")
      : Failure("\(name): error while converting \(format.name): Could not create '\(name)': \(reason.description)")
  }
}
