import Platter
import PlatterCore

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// `io`, and the whole program under the name `qemu-io`: reads and writes parts of a disk by small commands.
package enum IOProgram: Verb {
  package static let name = "io"
  package static let summary = "Read and write parts of a disk by commands, from -c or from standard input."
  package static let operands = "[FILENAME]"
  package static let options =
    [
      OptionSpec("c", "cmd", .required("COMMAND"), "run this command; may be repeated ('help' lists them)"),
      SharedOptions.format,
      OptionSpec("r", "read-only", "open for reading only"),
      OptionSpec("s", "snapshot", "writes go to a temporary file"),
      OptionSpec("n", "nocache", "cache mode none"),
      OptionSpec("C", "copy-on-read", "keep what is read from backing images"),
      OptionSpec("m", "misalign", "accepted, of no effect"),
      OptionSpec("k", "native-aio", "accepted, of no effect"),
      OptionSpec("i", "aio", .required("MODE"), "threads, native or io_uring: accepted, of no effect"),
      OptionSpec(
        "t", "cache", .required("MODE"), "cache mode: writethrough (default), writeback, none, directsync, unsafe"),
      OptionSpec("d", "discard", .required("MODE"), "ignore, or unmap (default): what discards do"),
      OptionSpec("T", "trace", .required("PATTERN"), "accepted, of no effect"),
      SharedOptions.forceShare,
    ] + SharedOptions.opening

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let words = call.options
    guard words.operands.count <= 1 else { throw Failure("Expecting one image file name", isUsage: true) }
    let options = try diskOptions(call)
    let session = IOSession(call)
    if let operand = words.operands.first {
      do throws(IOFailure) {
        try session.open(operand, isOptionList: words.has("image-opts"), options)
      } catch {
        guard case .message(let sentence) = error else { return 1 }
        throw Failure(sentence)
      }
    }
    let commands = words.values("cmd")
    if commands.isEmpty {
      converse(session)
    } else {
      for command in commands where !session.hasQuit { session.run(command) }
    }
    do throws(IOFailure) {
      try session.close()
    } catch {
      guard case .message(let sentence) = error else { return 1 }
      throw Failure(sentence)
    }
    return session.hasFailed ? 1 : 0
  }

  private static func diskOptions(_ call: Invocation) throws(Failure) -> IODiskOptions {
    let words = call.options
    if words.has("image-opts"), words.has("format") { throw Failure("--image-opts and -f are mutually exclusive") }
    var options = IODiskOptions()
    options.isReadOnly = words.has("read-only")
    options.isShared = words.has("force-share")
    options.format = words.value("format")
    if words.has("nocache") { options.cache = .none }
    try setCache(&options, words.value("cache"))
    try setDiscard(&options, words.value("discard"))
    if let mode = words.value("aio"), !["threads", "native", "io_uring"].contains(mode) {
      throw Failure("Invalid aio option: \(mode)")
    }
    options.isSnapshot = words.has("snapshot")
    options.copiesOnRead = words.has("copy-on-read")
    return options
  }

  static func setCache(_ options: inout IODiskOptions, _ text: String?) throws(Failure) {
    guard let text else { return }
    guard let mode = text == "off" ? OpenOptions.CacheMode.none : OpenOptions.CacheMode(rawValue: text) else {
      throw Failure("Invalid cache option: \(text)")
    }
    options.cache = mode
  }

  static func setDiscard(_ options: inout IODiskOptions, _ text: String?) throws(Failure) {
    switch text {
    case nil: return
    case "ignore", "off": options.discards = false
    case "unmap", "on": options.discards = true
    case let other?: throw Failure("Invalid discard option: \(other)")
    }
  }

  /// Answers the lines of standard input one at a time: an answer is out before the next line is read.
  private static func converse(_ session: IOSession) {
    let prompt = session.call.program.isDropIn ? "\(session.call.program.rawValue)> " : "platter io> "
    var lines = InputLines()
    while !session.hasQuit {
      session.output.write(prompt)
      guard session.output.flush(), let line = lines.next() else { return }
      session.run(line)
    }
  }
}

/// The lines of standard input.
private struct InputLines {
  private static let pieceByteCount = 4096
  /// Ours: no command is longer.
  private static let maximumByteCount = 1 << 20

  private var bytes: [UInt8] = []
  private var position = 0
  private var hasEnded = false

  /// The next line without its end; nil after the last one.
  mutating func next() -> String? {
    var searched = position
    while true {
      if let end = bytes[searched...].firstIndex(of: UInt8(ascii: "\n")) {
        defer { position = end + 1 }
        return String(decoding: bytes[position..<end], as: UTF8.self)
      }
      searched = bytes.count - position
      bytes.removeFirst(position)
      position = 0
      guard !hasEnded, bytes.count < Self.maximumByteCount else { break }
      fill()
    }
    defer {
      bytes = []
      position = 0
    }
    return bytes.isEmpty ? nil : String(decoding: bytes, as: UTF8.self)
  }

  private mutating func fill() {
    var piece = [UInt8](repeating: 0, count: Self.pieceByteCount)
    var count = 0
    repeat {
      count = unsafe piece.withUnsafeMutableBytes { unsafe read(0, $0.baseAddress, $0.count) }
    } while count < 0 && errno == EINTR
    hasEnded = count <= 0
    if count > 0 { bytes += piece.prefix(count) }
  }
}
