import Synchronization

/// Sentences on standard error, each behind the program's name. Safe from any thread.
package final class Messages: Sendable {
  package let program: ProgramName
  private let lock = Mutex(())

  package init(_ program: ProgramName) { self.program = program }

  package func error(_ sentence: String) { line("\(program.rawValue): \(sentence)") }

  package func warn(_ sentence: String) { line("\(program.rawValue): warning: \(sentence)") }

  /// A line as it is.
  package func line(_ text: String) {
    lock.withLock { _ in
      let output = Output(descriptor: 2)
      output.write(line: HumanText.printable(text, keepingLineEnds: true))
      output.flush()
    }
  }

  package func report(_ failure: Failure) {
    for sentence in failure.sentences { error(sentence) }
    if let hint = failure.hint { line(hint) }
    if failure.isUsage { line("Try '\(program.rawValue) --help' for more information") }
  }
}
