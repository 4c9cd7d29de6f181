/// Why a command of the disk exerciser failed, and where that is said: scripts read both streams.
package enum IOFailure: Error, Equatable {
  /// A line of output, as the result of a request.
  case line(String)
  /// The command was called wrongly: its usage is shown.
  case usage
  /// A sentence behind the program's name on standard error.
  case message(String)
  /// A line on standard error as it is.
  case plain(String)
}

/// One command of the disk exerciser.
struct IOCommand: Sendable {
  let name: String
  var alias: String?
  /// Its arguments, for help.
  var arguments = ""
  let summary: String
  /// More help, line by line.
  var details: [String] = []
  /// Its option letters in getopt's notation.
  var letters = ""
  /// Words after the name; options count.
  var count: ClosedRange<Int> = 0...0
  var needsDisk = true
  var writes = false
  let run: @Sendable (IOSession, IOArguments) throws(IOFailure) -> Void

  /// No limit on the number of words.
  static let anyCount = Int.max

  var usage: String { "\(name) \(arguments)\(arguments.isEmpty ? "" : " ")-- \(summary)" }

  /// What is wrong with a number of words, or nil.
  func complaint(count given: Int) -> String? {
    guard !count.contains(given) else { return nil }
    let expected =
      count.upperBound == Self.anyCount
      ? "at least \(count.lowerBound) arguments"
      : count.lowerBound == count.upperBound
        ? "\(count.lowerBound) arguments" : "between \(count.lowerBound) and \(count.upperBound) arguments"
    return "bad argument count \(given) to \(name), expected \(expected)"
  }
}

/// The words of a command behind its name: options, then operands.
package struct IOArguments: Sendable, Equatable {
  package private(set) var options: [Character: [String]] = [:]
  package private(set) var operands: [String] = []

  package func has(_ letter: Character) -> Bool { options[letter] != nil }

  /// The last value given.
  package func value(_ letter: Character) -> String? { options[letter]?.last }

  /// What getopt would complain about.
  package struct Problem: Error, Equatable {
    package let sentence: String
    package init(sentence: String) { self.sentence = sentence }
  }

  /// Reads words as getopt does: letters may be joined, a value may stick to its letter, options may follow operands,
  /// "--" ends them.
  package init(_ words: [String], letters: String) throws(Problem) {
    var rest = words[...]
    while let word = rest.popFirst() {
      if word == "--" {
        operands += rest
        return
      }
      guard word.hasPrefix("-"), word.count > 1 else {
        operands.append(word)
        continue
      }
      var joined = word.dropFirst()
      while let letter = joined.popFirst() {
        guard letter != ":", let place = letters.firstIndex(of: letter) else {
          throw Problem(sentence: "invalid option -- '\(letter)'")
        }
        let next = letters.index(after: place)
        guard next < letters.endIndex, letters[next] == ":" else {
          options[letter, default: []].append("")
          continue
        }
        guard let value = joined.isEmpty ? rest.popFirst() : String(joined) else {
          throw Problem(sentence: "option requires an argument -- '\(letter)'")
        }
        options[letter, default: []].append(value)
        joined = ""
      }
    }
  }

  /// The words of a command line: spaces alone part them.
  package static func split(_ line: String) -> [String] { line.split(separator: " ").map(String.init) }
}
