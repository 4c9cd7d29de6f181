import Platter
import PlatterCore

/// `commit`: writes what an overlay has into an image below it.
package enum CommitVerb: Verb {
  package static let name = "commit"
  package static let summary = "Write what an overlay has into its backing image, and empty the overlay."
  package static let operands = "FILENAME"
  package static let options =
    [
      SharedOptions.formatLetter,
      OptionSpec("b", nil, .required("FILE"), "the image of the chain that takes it; implies -d"),
      OptionSpec("d", nil, "leave the overlay as it is"),
      OptionSpec("r", nil, .required("BYTES"), "write no more bytes a second"),
      OptionSpec("t", nil, .required("CACHE"), "cache mode for writing (writeback)"),
      SharedOptions.quiet, SharedOptions.progress, SharedOptions.progressForm,
    ] + SharedOptions.opening

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let cache = try call.cache("t", what: "cache")
    let limiter = try call.options.value("r").map { text throws(Failure) in
      RateLimiter(bytesPerSecond: try SizeText.option(text, named: "rate limit"))
    }
    let operand = try call.singleOperand()
    try call.checkFormatOptions(["f"])
    let source = try call.source(operand)
    var openOptions = try call.openOptions(formatKey: "f")
    let depth = try depth(source, openOptions, call)
    openOptions.isWritable = true
    openOptions.writableDepth = depth
    if let cache { openOptions.cache = cache }
    let image = try call.open(source, openOptions)
    let progress = ProgressDisplay(try call.progressForm())
    progress.start()
    do throws(ImageError) {
      var commit = try Commit(image, depth: depth)
      commit.cache = openOptions.cache
      commit.keepsOverlay = call.options.has("d") || call.options.has("b")
      try commit.run { done, total in
        progress.update(done, of: total)
        limiter?.wait(done)
        return true
      }
    } catch {
      progress.finish(succeeded: false)
      throw Failure(error)
    }
    progress.finish(succeeded: true)
    if !call.isQuiet { call.output.write(line: "Image committed.") }
    return 0
  }

  /// How far below the overlay the image is that takes its bytes.
  private static func depth(_ source: ImageSource, _ openOptions: OpenOptions, _ call: Invocation) throws(Failure)
    -> Int
  {
    let image = try call.open(source, openOptions)
    if let base = call.options.value("b") {
      guard let depth = Commit.depth(ofImageNamed: base, in: image) else {
        throw Failure("Did not find '\(base)' in the backing chain of '\(source.written)'")
      }
      return depth
    }
    guard image.layers.count > 1 else { throw Failure("Image does not have a backing file") }
    return 1
  }
}
