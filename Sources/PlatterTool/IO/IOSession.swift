import Platter
import PlatterCore
import SystemPackage

/// The disk exerciser at work: at most one open disk, and commands one after another.
final class IOSession {
  let call: Invocation
  var disk: IODisk?
  /// Where the open disk came from, for `reopen`.
  private var place: ImageSource.Place?
  /// The driver options among that.
  var openNode: [String: String] {
    if case .node(let node) = place { node } else { [:] }
  }
  var hasQuit = false
  var hasFailed = false
  /// The open disk was found damaged and marked so, and that was told.
  private var isMarkedCorrupt = false

  init(_ call: Invocation) { self.call = call }

  var output: Output { call.output }

  /// Runs one line. What it says goes to the output, or to standard error.
  func run(_ line: String) {
    var words = IOArguments.split(line)[...]
    guard let name = words.popFirst() else { return }
    do throws(IOFailure) {
      try run(name, Array(words))
    } catch {
      hasFailed = true
      switch error {
      case .line(let text): output.write(line: text)
      case .plain(let text): call.messages.line(text)
      case .message(let text): call.messages.error(text)
      case .usage: if let command = IOCommand.named(name) { output.write(line: command.usage) }
      }
    }
  }

  private func run(_ name: String, _ words: [String]) throws(IOFailure) {
    guard let command = IOCommand.named(name) else { throw .plain("command \"\(name)\" not found") }
    if command.needsDisk, disk == nil { throw .plain("no file open, try 'help open'") }
    if let complaint = command.complaint(count: words.count) { throw .plain(complaint) }
    if command.writes { try checkWritable() }
    let arguments: IOArguments
    do throws(IOArguments.Problem) {
      arguments = try IOArguments(words, letters: command.letters)
    } catch {
      call.messages.line("\(command.name): \(error.sentence)")
      throw .usage
    }
    try command.run(self, arguments)
  }

  private func checkWritable() throws(IOFailure) {
    guard let disk, disk.writer == nil else { return }
    throw .message(disk.refusal ?? "Block node is read-only")
  }

  /// The open disk; commands that need one are not run without.
  func openDisk() throws(IOFailure) -> IODisk {
    guard let disk else { throw .plain("no file open, try 'help open'") }
    return disk
  }

  /// Runs a request; its failure becomes a line such as "write failed: Input/output error".
  func request<R>(_ what: String, _ body: () throws(ImageError) -> R) throws(IOFailure) -> R {
    do throws(ImageError) {
      return try body()
    } catch {
      // Scripts compare what QEMU's program prints; people get the reason.
      if !call.program.isDropIn { call.messages.error(error.description) }
      tellOfMark(error)
      throw .line("\(what): \(error.systemSentence)")
    }
  }

  /// A drop-in says once for each disk, in the line that scripts look for, that a request made it unusable.
  private func tellOfMark(_ error: ImageError) {
    guard call.program.isDropIn, !isMarkedCorrupt, error.message.hasSuffix(ImageError.markedCorrupt) else { return }
    isMarkedCorrupt = true
    let finding = error.message.dropLast(ImageError.markedCorrupt.count)
    call.messages.line(
      "qcow2: Marking image as corrupt: \(finding); further corruption events will be suppressed")
  }

  /// Says how a request went, unless it is to be quiet.
  func report(
    _ what: String, _ count: UInt64, at offset: UInt64, since start: ContinuousClock.Instant, _ arguments: IOArguments
  ) {
    guard !arguments.has("q") else { return }
    let seconds = start.duration(to: .now) / .seconds(1)
    output.write(
      line: IOText.report(
        what, done: count, of: count, at: offset, seconds: seconds, isTerse: arguments.has("C")))
  }

  // MARK: Opening

  /// Opens the disk of the session.
  ///
  /// - Parameters:
  ///   - argument: a file's name, or an option list; nil where `node` says it all.
  ///   - node: driver options beside it.
  func open(_ argument: Argument?, isOptionList: Bool = false, node: [String: String] = [:], _ options: IODiskOptions)
    throws(IOFailure)
  {
    guard disk == nil else { throw .message("file open already, try 'help close'") }
    let name = isOptionList ? nil : argument?.text
    let start = "can't open" + (name.map { " device \($0)" } ?? "") + ": "
    if options.isShared, !options.isReadOnly {
      throw .message(start + "force-share=on can only be used with read-only images")
    }
    if options.copiesOnRead, options.isReadOnly {
      throw .message(start + "Can't use copy-on-read on read-only device")
    }
    do throws(Failure) {
      disk = try make(argument, isOptionList, node, options)
    } catch {
      var sentence = error.sentences.first ?? ""
      let prefix = "Could not open '\(argument?.text ?? "")': "
      if sentence.hasPrefix(prefix), isOptionList || name?.hasPrefix("json:") == true {
        sentence = String(sentence.dropFirst(prefix.count))
      }
      throw .message(start + sentence + (error.hint.map { "\n" + $0 } ?? ""))
    }
    warnOfGuess(name)
  }

  private func make(_ argument: Argument?, _ isOptionList: Bool, _ node: [String: String], _ options: IODiskOptions)
    throws(Failure) -> IODisk
  {
    var place = try argument.map { argument throws(Failure) in
      try ImageSource(argument, isOptionList: isOptionList).place
    }
    if !node.isEmpty { place = .node(Self.merged(node, place)) }
    guard let place else { throw Failure("a file name is missing") }
    self.place = place
    return try make(place, written: argument?.text, options)
  }

  private func make(_ place: ImageSource.Place, written: String?, _ options: IODiskOptions) throws(Failure) -> IODisk {
    var openOptions = try call.openOptions()
    openOptions.format = options.format
    var options = options
    var place = place
    if case .node(let node) = place {
      options.compresses = node["driver"] == "compress"
      if node["driver"] == "blkdebug" {
        options.filter = try RequestFilter(node)
        place = .node(RequestFilter.withoutRules(node))
      }
    }
    openOptions.cache = options.cache
    openOptions.locking = options.isShared ? .shared : .exclusive
    do throws(ImageError) {
      if options.isReadOnly { return try IODisk(try Self.image(place, openOptions), options) }
      if options.isSnapshot { return try IODisk(try Self.image(place, openOptions).withTemporaryOverlay(), options) }
      openOptions.isWritable = true
      if let disk = try writableDisk(place, openOptions, options) { return disk }
      // A format that only can be read serves the commands that read.
      openOptions.isWritable = false
      return try IODisk(try Self.image(place, openOptions), options)
    } catch {
      throw Failure(
        reason(error, place, written),
        hint: error.code == .busy ? "Is another process using the image [\(error.file ?? "")]?" : nil)
    }
  }

  private func reason(_ error: ImageError, _ place: ImageSource.Place, _ written: String?) -> String {
    guard call.program.isDropIn else { return error.description }
    var names = [written ?? ""]
    switch place {
    case .path(let path): names = [path.string] + names
    case .node(let node): if let file = node["file.filename"] ?? node["filename"] { names = [file] + names }
    }
    if error.errno == .isDirectory { return "Could not open '\(error.file ?? names[0])': Is a directory" }
    return OpenFailure.reason(error, names)
  }

  /// Nil where the format cannot be written; its files are closed then.
  private func writableDisk(_ place: ImageSource.Place, _ openOptions: OpenOptions, _ options: IODiskOptions)
    throws(ImageError) -> IODisk?
  {
    let image = try Self.image(place, openOptions)
    return image.layers[0].map is any WritableMap ? try IODisk(image, options) : nil
  }

  private static func image(_ place: ImageSource.Place, _ openOptions: OpenOptions) throws(ImageError) -> DiskImage {
    switch place {
    case .path(let path): return try DiskImage.open(path: path, openOptions)
    case .node(let node):
      var openOptions = openOptions
      if node["driver"] != nil { openOptions.format = nil }
      return try DiskImage.open(node: node, openOptions)
    }
  }

  /// Driver options and the file that was named beside them.
  private static func merged(_ node: [String: String], _ place: ImageSource.Place?) -> [String: String] {
    var result = node
    switch place {
    case .path(let path):
      let isFile = node["driver"] == "file" || node["driver"] == "host_device"
      result[isFile ? "filename" : "file.filename"] = path.string
    case .node(let other): result.merge(other) { first, _ in first }
    case nil: break
    }
    return result
  }

  /// A guessed raw disk is dangerous: its guest can write the head of any format. Scripts know QEMU's words.
  private func warnOfGuess(_ name: String?) {
    guard let disk, let name, disk.image.layers[0].wasProbed, disk.image.formatName == "raw" else { return }
    call.messages.line(
      "WARNING: Image format was not specified for '\(name)' and probing guessed raw.\n"
        + "         Automatically detecting the format is dangerous for raw images, write operations on block 0 "
        + "will be restricted.\n"
        + "         Specify the 'raw' format explicitly to remove the restrictions.")
  }

  /// Opens the same disk with other options; on failure none is open.
  func reopen(_ options: IODiskOptions, _ node: [String: String]) throws(IOFailure) {
    guard var place else { return }
    if !node.isEmpty {
      place = .node(Self.merged(node, place))
      self.place = place
    }
    try close()
    do throws(Failure) {
      disk = try make(place, written: nil, options)
    } catch {
      throw .message(error.sentences.first ?? "")
    }
  }

  /// Closes the disk, with everything it still has to write.
  func close() throws(IOFailure) {
    guard let closing = disk else { return }
    disk = nil
    defer { isMarkedCorrupt = false }
    do throws(ImageError) {
      try closing.close()
    } catch {
      guard !isMarkedCorrupt else { return }
      throw .message(error.description)
    }
  }
}
