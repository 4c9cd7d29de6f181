import Platter
import PlatterCore
import SystemPackage

/// Names of pipes among the operands of `convert`.
enum ConvertStreams {
  private static let inputNames: Set<String> = ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"]
  private static let outputNames: Set<String> = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"]

  /// Whether a target is a stream: standard output, or a pipe with a name.
  static func isOutput(_ target: Argument) -> Bool {
    if outputNames.contains(target.text) { return true }
    return FilePath(bytes: target.bytes).map { PipeSource.isPipe($0) } ?? false
  }

  /// - Throws: where a pipe cannot be opened.
  static func output(_ target: Argument) throws(Failure) -> OutputStream {
    guard !outputNames.contains(target.text), let path = FilePath(bytes: target.bytes) else { return .standardOutput }
    do throws(ImageError) {
      return try OutputStream(path)
    } catch {
      throw Failure(error)
    }
  }

  /// The disk that comes through a pipe, where one of the sources is a pipe; else nil.
  /// - Throws: where it cannot be read as a pipe, in words that say what to do.
  static func input(
    _ arguments: [Argument], _ call: Invocation, isCancelled: @escaping @Sendable () -> Bool
  ) throws(Failure) -> PipeSource? {
    for argument in arguments {
      let source = try call.source(argument)
      guard let path = source.path else { continue }
      let isStandardInput = inputNames.contains(path.string)
      guard isStandardInput ? PipeSource.isPipe(descriptor: 0) : PipeSource.isPipe(path) else { continue }
      let name = isStandardInput ? "standard input" : path.printable
      guard arguments.count == 1 else { throw Failure("\(name): a pipe must be the only source") }
      try check(source, name, call)
      let byteCount = try byteCount(source, call)
      do throws(ImageError) {
        return isStandardInput
          ? PipeSource(descriptor: 0, name: name, byteCount: byteCount, isCancelled: isCancelled)
          : try PipeSource(path, byteCount: byteCount, isCancelled: isCancelled)
      } catch {
        throw Failure(error)
      }
    }
    guard !call.options.has("source-size") else {
      throw Failure("--source-size is for a disk that comes through a pipe")
    }
    return nil
  }

  /// Standard input under a name that can be opened, where it is a file.
  static func file(_ argument: Argument) -> Argument { argument.text == "-" ? Argument("/dev/stdin") : argument }

  private static func check(_ source: ImageSource, _ name: String, _ call: Invocation) throws(Failure) {
    var format = call.options.value("f")
    if case .node(let node) = source.place {
      format = node["driver"]
      for key in node.keys.sorted() where !["driver", "size"].contains(key) && !key.hasSuffix("filename") {
        guard key != "file.driver", key != "read-only" else { continue }
        throw Failure("\(name): the option '\(key)' cannot be used with a pipe")
      }
    }
    guard let format else {
      throw Failure("\(name): the format of a disk in a pipe cannot be found out; name it (-f raw)")
    }
    guard format == "raw" else {
      throw Failure(
        "\(name): a \(format) image cannot be read from a pipe, because its tables may lie anywhere in it; "
          + "save it to a file first, or send a raw disk")
    }
    if call.options.has("l") { throw Failure("\(name): a raw disk has no snapshots") }
    if call.options.has("salvage") { throw Failure("\(name): --salvage cannot be used with a pipe") }
  }

  /// The size that was announced, by our option or QEMU's.
  private static func byteCount(_ source: ImageSource, _ call: Invocation) throws(Failure) -> UInt64? {
    var text = call.options.value("source-size")
    if case .node(let node) = source.place, let size = node["size"] {
      guard text == nil else { throw Failure("--source-size and the option 'size' exclude each other") }
      text = size
    }
    guard let text else { return nil }
    let byteCount = try SizeText.option(text, named: "source size")
    guard byteCount <= UInt64(Int64.max) else {
      throw Failure("the source size \(text) is larger than any file can be")
    }
    return byteCount
  }
}

extension Invocation {
  /// Tells of what `--salvage` has lost.
  func salvage() -> Salvage {
    guard !isQuiet else { return Salvage { _ in } }
    let messages = messages
    guard program.isDropIn else {
      return Salvage { loss in
        messages.warn("bytes \(loss.range.lowerBound)..<\(loss.range.upperBound) read as zeros: \(loss.error)")
      }
    }
    return Salvage { loss in
      let reason = systemText((loss.error.errno ?? .ioError).rawValue)
      if loss.isMap { messages.warn("error while reading block status at offset \(loss.range.lowerBound): \(reason)") }
      for offset in stride(from: loss.range.lowerBound, to: loss.range.upperBound, by: 512) {
        messages.warn("error while reading offset \(offset): \(reason)")
      }
    }
  }
}
