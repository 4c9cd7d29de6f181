import CTestSupport
package import SystemPackage

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// What a finished program left behind.
package struct RunResult: Sendable {
  /// Exit status; 128 + the number of the signal that ended it.
  package var status: Int32
  package var output: [UInt8]
  /// Everything it wrote to its standard error.
  package var errorText: String
  /// Ended by us, because it took too long.
  package var timedOut: Bool

  package var outputText: String { String(decoding: output, as: UTF8.self) }
  package var succeeded: Bool { status == 0 }
}

/// A program that cannot be started.
package struct RunError: Error, CustomStringConvertible {
  package var description: String
  package init(description: String) { self.description = description }
}

/// Runs a program to its end.
///
/// - Parameters:
///   - command: a path, or a name that is looked for in `PATH`.
///   - input: its standard input; the null device where nil.
///   - folder: its working folder; this process's where nil.
///   - environment: variables set for it on top of this process's own.
///   - timeoutSeconds: it is killed after this time, which the result tells.
package func run(
  _ command: String, _ arguments: [String], input: [UInt8]? = nil, in folder: FilePath? = nil,
  environment: [String: String] = [:], timeoutSeconds: Int = 120
) throws -> RunResult {
  var locksSeen = 0
  for _ in 0..<30 {
    let result = try Child(command, arguments, hasInput: input != nil, folder: folder, environment: environment)
      .finish(input: input ?? [], timeoutSeconds: timeoutSeconds)
    if couldNotTimeItself(result) { continue }
    guard foundLock(result), locksSeen < 4 else { return result }
    // A lock that is meant stands there the next times too.
    locksSeen += 1
    usleep(50_000)
  }
  return try Child(command, arguments, hasInput: input != nil, folder: folder, environment: environment)
    .finish(input: input ?? [], timeoutSeconds: timeoutSeconds)
}

/// QEMU measures its key derivation when it makes a LUKS volume, and gives up where the system's clock of processor time
/// was too coarse for it this time. Nothing was done then, and it may go well the next time.
private func couldNotTimeItself(_ result: RunResult) -> Bool {
  result.status != 0 && result.errorText.contains("Unable to get accurate CPU usage")
}

/// A child that another thread of ours is just starting has copies of all our descriptors until its program runs, and with
/// them the locks of images that are closed here already. QEMU's programs look at locks only once.
private func foundLock(_ result: RunResult) -> Bool {
  result.status != 0 && result.errorText.contains("Failed to get") && result.errorText.contains(" lock")
}

/// A pair of descriptors that no other child inherits.
private struct Pipe {
  var reading: Int32
  var writing: Int32

  init() throws {
    var ends: [Int32] = [-1, -1]
    guard unsafe test_pipe(&ends) == 0 else { throw Errno(rawValue: errno) }
    reading = ends[0]
    writing = ends[1]
  }
}

private struct Child {
  let identifier: pid_t
  let input: Int32?
  let output: Int32
  let errors: Int32

  init(_ command: String, _ arguments: [String], hasInput: Bool, folder: FilePath?, environment: [String: String])
    throws
  {
    let inputPipe = hasInput ? try Pipe() : nil
    let outputPipe = try Pipe()
    let errorPipe = try Pipe()
    defer {
      if let inputPipe { close(inputPipe.reading) }
      close(outputPipe.writing)
      close(errorPipe.writing)
    }
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    defer { unsafe posix_spawn_file_actions_destroy(&actions) }
    if let inputPipe {
      unsafe posix_spawn_file_actions_adddup2(&actions, inputPipe.reading, 0)
    } else {
      unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    }
    unsafe posix_spawn_file_actions_adddup2(&actions, outputPipe.writing, 1)
    unsafe posix_spawn_file_actions_adddup2(&actions, errorPipe.writing, 2)
    if let folder { unsafe test_change_folder(&actions, folder.string) }

    // Threads of the test runner block signals, and this process ignores SIGPIPE; a child would inherit both.
    var attributes = posix_spawnattr_t()
    unsafe posix_spawnattr_init(&attributes)
    defer { unsafe posix_spawnattr_destroy(&attributes) }
    var noSignals = sigset_t()
    unsafe sigemptyset(&noSignals)
    unsafe posix_spawnattr_setsigmask(&attributes, &noSignals)
    var defaultSignals = sigset_t()
    unsafe sigemptyset(&defaultSignals)
    unsafe sigaddset(&defaultSignals, SIGPIPE)
    unsafe posix_spawnattr_setsigdefault(&attributes, &defaultSignals)
    unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))

    var variables = currentEnvironment()
    for (name, value) in environment { variables[name] = value }
    var identifier: pid_t = 0
    let status = unsafe withCStrings([command] + arguments) { words in
      unsafe withCStrings(variables.map { "\($0)=\($1)" }) { variables in
        unsafe posix_spawnp(&identifier, command, &actions, &attributes, words, variables)
      }
    }
    guard status == 0 else {
      close(outputPipe.reading)
      close(errorPipe.reading)
      if let inputPipe { close(inputPipe.writing) }
      throw RunError(description: "\(command) cannot be started: \(Errno(rawValue: status).description)")
    }
    self.identifier = identifier
    input = inputPipe?.writing
    output = outputPipe.reading
    errors = errorPipe.reading
  }

  /// Feeds and drains the pipes together, so that neither side waits for the other; then waits for the end.
  func finish(input bytes: [UInt8], timeoutSeconds: Int) -> RunResult {
    signal(SIGPIPE, SIG_IGN)
    var result = RunResult(status: 0, output: [], errorText: "", timedOut: false)
    var errorBytes: [UInt8] = []
    var written = 0
    var inputEnd = input ?? -1
    var outputEnd = output
    var errorEnd = errors
    if inputEnd >= 0 {
      if bytes.isEmpty {
        close(inputEnd)
        inputEnd = -1
      } else {
        _ = fcntl(inputEnd, F_SETFL, O_NONBLOCK)
      }
    }
    let deadline = ContinuousClock.now + .seconds(timeoutSeconds)
    while outputEnd >= 0 || errorEnd >= 0 {
      var waits = [
        pollfd(fd: outputEnd, events: Int16(POLLIN), revents: 0),
        pollfd(fd: errorEnd, events: Int16(POLLIN), revents: 0),
        pollfd(fd: inputEnd, events: Int16(POLLOUT), revents: 0),
      ]
      _ = unsafe poll(&waits, 3, 200)
      if ContinuousClock.now > deadline {
        result.timedOut = true
        kill(identifier, SIGKILL)
        break
      }
      if waits[0].revents != 0 { drain(&outputEnd, into: &result.output) }
      if waits[1].revents != 0 { drain(&errorEnd, into: &errorBytes) }
      if waits[2].revents != 0 { feed(&inputEnd, bytes, &written) }
    }
    for end in [inputEnd, outputEnd, errorEnd] where end >= 0 { close(end) }
    result.errorText = String(decoding: errorBytes, as: UTF8.self)
    var status: Int32 = 0
    while unsafe waitpid(identifier, &status, 0) < 0 && errno == EINTR {}
    result.status = status & 0x7f == 0 ? (status >> 8) & 0xff : 128 + (status & 0x7f)
    return result
  }

  private func drain(_ end: inout Int32, into bytes: inout [UInt8]) {
    var part = [UInt8](repeating: 0, count: 1 << 16)
    let got = unsafe read(end, &part, part.count)
    if got > 0 {
      bytes.append(contentsOf: part.prefix(got))
    } else if got == 0 || errno != EINTR {
      close(end)
      end = -1
    }
  }

  private func feed(_ end: inout Int32, _ bytes: [UInt8], _ written: inout Int) {
    let part = Array(bytes[written..<min(written + 1 << 16, bytes.count)])
    let put = unsafe write(end, part, part.count)
    if put > 0 { written += put }
    if (put < 0 && errno != EAGAIN && errno != EINTR) || written == bytes.count {
      close(end)
      end = -1
    }
  }
}

private func currentEnvironment() -> [String: String] {
  var variables: [String: String] = [:]
  var entry = unsafe test_environment()
  while let text = unsafe entry.pointee {
    let parts = unsafe String(cString: text).split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
    if parts.count == 2 { variables[String(parts[0])] = String(parts[1]) }
    unsafe entry += 1
  }
  return variables
}

/// Lends texts as C's list of strings, which ends with a null.
private func withCStrings<R>(_ texts: [String], _ body: ([UnsafeMutablePointer<CChar>?]) -> R) -> R {
  let copies = unsafe texts.map { unsafe strdup($0) }
  defer { unsafe copies.forEach { unsafe free($0) } }
  return unsafe body(copies + [nil])
}
