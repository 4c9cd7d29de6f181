/// One verb of the program: a table of options and what it does. A file each in this folder.
package protocol Verb: Sendable {
  static var name: String { get }
  /// One line of help.
  static var summary: String { get }
  /// The operands, for help: "FILENAME".
  static var operands: String { get }
  /// The options; `-h` and `--help` are added to every table.
  static var options: [OptionSpec] { get }

  /// The words behind the verb as getopt is to see them.
  static func arrange(_ words: [Argument]) -> [Argument]

  /// Does the work. Returns the exit status.
  static func run(_ call: Invocation) throws(Failure) -> Int32
}

extension Verb {
  package static func arrange(_ words: [Argument]) -> [Argument] { words }
}

/// All verbs.
package enum Verbs {
  package static let all: [any Verb.Type] = [
    AmendVerb.self, BenchVerb.self, BitmapVerb.self, CheckVerb.self, ChecksumVerb.self, CommitVerb.self,
    CompareVerb.self, ConvertVerb.self, CreateVerb.self, DDVerb.self, InfoVerb.self, InspectVerb.self, IOProgram.self,
    MapVerb.self, MeasureVerb.self,
    RebaseVerb.self, ResizeVerb.self, SnapshotVerb.self,
  ]

  /// The table of a verb as it holds under a name of the program.
  package static func options(of verb: any Verb.Type, _ program: ProgramName) -> [OptionSpec] {
    verb.options.filter { !(program.isDropIn && $0.isOwn) } + [SharedOptions.help]
  }

  package static func named(_ name: String) -> (any Verb.Type)? {
    for verb in all where verb.name == name { return verb }
    return nil
  }
}
