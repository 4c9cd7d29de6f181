import CPlatter

/// The program as a whole: finds the verb, runs it, tells what went wrong.
package enum Program {
  /// - Parameter arguments: the command line with the program's own name in front.
  /// - Returns: the exit status.
  package static func run(_ arguments: [Argument]) -> Int32 {
    platter_prepare_signals()
    var words = arguments[...]
    var program = words.popFirst().map(ProgramName.called) ?? .platter
    if program == .platter, let first = words.first, let other = ProgramName(rawValue: first.text) {
      program = other
      words.removeFirst()
    }
    let output = Output(descriptor: 1)
    let messages = Messages(program)
    var status: Int32
    do throws(Failure) {
      status = try dispatch(program, Array(words), output, messages)
    } catch {
      output.flush()
      messages.report(error)
      status = error.status
    }
    output.flush()
    if let reason = output.failure {
      if reason != brokenPipe { messages.error("cannot write to standard output: \(systemText(reason))") }
      if status == 0 { status = 1 }
    }
    let signal = platter_stop_signal()
    if signal != 0, status == 128 + signal { platter_die_of_signal(signal) }
    return status
  }

  private static func dispatch(
    _ program: ProgramName, _ words: [Argument], _ output: Output, _ messages: Messages
  ) throws(Failure) -> Int32 {
    let asksForVersion = words.contains { ["--version", "-V"].contains($0.text) }
    if program == .qemuIO, !asksForVersion { return try run(IOProgram.self, program, words, output, messages) }
    if program == .qemuNBD, !asksForVersion {
      throw Failure("not supported yet by platter: \(program.rawValue)")
    }
    let (verbName, rest) = try verb(in: words)
    switch verbName {
    case .help:
      Help.write(program, to: output)
      return 0
    case .version:
      output.write(line: program.versionLine)
      return 0
    case .verb(let name):
      guard let verb = Verbs.named(name) else {
        throw Failure("Command not found: \(name)", isUsage: true)
      }
      return try run(verb, program, rest, output, messages)
    }
  }

  private static func run(
    _ verb: any Verb.Type, _ program: ProgramName, _ words: [Argument], _ output: Output, _ messages: Messages
  ) throws(Failure) -> Int32 {
    let options = try ParsedOptions(
      name: Argument(verb.name), words: verb.arrange(words), specs: Verbs.options(of: verb, program))
    if options.has("help") {
      Help.write(verb, program, to: output)
      return 0
    }
    return try verb.run(try Invocation(program, options, output, messages))
  }

  private enum Command {
    case help, version
    case verb(String)
  }

  /// The verb behind the standard options.
  private static func verb(in words: [Argument]) throws(Failure) -> (Command, [Argument]) {
    var rest = words[...]
    while let word = rest.popFirst() {
      switch word.text {
      case "-h", "--help", "help": return (.help, [])
      case "-V", "--version": return (.version, [])
      case "-T", "--trace": _ = rest.popFirst()
      case let text where text.hasPrefix("--trace=") || (text.hasPrefix("-T") && text.count > 2): break
      case let text where text.hasPrefix("-") && text.count > 1:
        throw Failure("unrecognized option '\(text)'", isUsage: true)
      default: return (.verb(word.text), Array(rest))
      }
    }
    throw Failure("Not enough arguments", isUsage: true)
  }
}
