package import PlatterCore

/// Why the program ends with another status than 0.
package struct Failure: Error, Sendable {
  /// Sentences for standard error, each printed behind the program's name.
  package var sentences: [String]
  /// A line printed as it is after them.
  package var hint: String?
  package var status: Int32
  /// The command line itself was wrong: help is pointed at.
  package var isUsage: Bool

  package init(_ sentence: String, status: Int32 = 1, isUsage: Bool = false, hint: String? = nil) {
    sentences = [sentence]
    self.status = status
    self.isUsage = isUsage
    self.hint = hint
  }

  package init(_ error: ImageError, status: Int32 = 1, hint: String? = nil) {
    self.init(error.description, status: status, hint: hint)
  }

  /// Ends the program with a status and no word.
  package static func silent(status: Int32) -> Failure {
    var failure = Failure("", status: status)
    failure.sentences = []
    return failure
  }

  package func with(status: Int32) -> Failure {
    var failure = self
    failure.status = status
    return failure
  }
}
