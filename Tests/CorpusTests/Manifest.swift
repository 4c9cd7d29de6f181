import PlatterCore
import SystemPackage
import TestSupport
import Testing

/// One row of the corpus's manifest: an image, and what a reader must make of it.
struct Row: Sendable, CustomTestStringConvertible {
  var file: String
  var format: String
  var features: String
  var sizes: [UInt64]
  /// Digests that are right, and "error" where refusing is.
  var expected: [String]
  /// The case's files, the image first.
  var names: [String]
  var arguments: String

  var folder: String { FilePath(file).removingLastComponent().string }
  var mayBeRefused: Bool { expected.contains("error") }
  var mustBeRefused: Bool { expected == ["error"] }
  var testDescription: String { "\(file): \(features)" }

  /// The passphrase among the arguments, as QEMU spells it: `--object secret,id=s0,data=…`.
  var passphrase: String? {
    for word in arguments.split(separator: " ") {
      for part in word.split(separator: ",") where part.hasPrefix("data=") { return String(part.dropFirst(5)) }
    }
    return nil
  }

  /// The internal snapshot among the arguments: `-l NAME`.
  var snapshot: String? {
    let words = arguments.split(separator: " ").map(String.init)
    guard let flag = words.firstIndex(of: "-l"), flag + 1 < words.count else { return nil }
    return words[flag + 1]
  }

  /// A line of the manifest; nil where it has too few columns.
  init?(line: Substring) {
    let columns = line.split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
    guard columns.count >= 8 else { return nil }
    file = columns[0]
    format = columns[1]
    features = columns[2]
    sizes = columns[3].split(separator: "|").compactMap { UInt64($0) }
    expected = columns[4].split(separator: "|").map(String.init)
    let others = columns[6] == "-" ? [] : columns[6].split(separator: "|").map(String.init)
    names = [FilePath(file).lastComponent?.string ?? ""] + others
    arguments = columns[7] == "-" ? "" : columns[7]
  }
}

/// The corpus as it lies in the source tree.
enum Corpus {
  static let folder = sourceTree().appending("Tests/Corpus")

  /// All rows of the manifest; empty where it cannot be read, which a test of its own reports.
  static let rows: [Row] = {
    guard let bytes = try? readFile(folder.appending("manifest.tsv")) else { return [] }
    return String(decoding: bytes, as: UTF8.self).split(separator: "\n").dropFirst().compactMap { Row(line: $0) }
  }()

  /// Unpacks all files of a row's case, into a folder inside the scratch folder where one is named. Returns the image's
  /// path.
  static func unpack(_ row: Row, into scratch: ScratchDirectory, folder place: String = "") throws -> FilePath {
    for name in row.names {
      let target = FilePath(place).appending(name)
      if let parent = target.removingLastComponent().nonEmpty { try scratch.makeFolder(parent.string) }
      try Unpacking.unpack(
        folder.appending(row.folder).appending(name + ".xz"), to: scratch.path.appending(target.components))
    }
    return scratch.path.appending(place).appending(row.names[0])
  }
}

extension FilePath {
  fileprivate var nonEmpty: FilePath? { isEmpty ? nil : self }
}
