import SystemPackage
import TestSupport
import Testing

@Suite("The source tree is tidy")
struct TidyTests {
  @Test("the tree was found") func found() {
    #expect(SourceTree.swiftFiles.count > 50)
    #expect(SourceTree.documents.count > 3)
  }

  @Test("every relative link in a document leads somewhere", arguments: SourceTree.documents)
  func links(document: TreeFile) {
    let folder = FilePath(document.name).removingLastComponent()
    for target in linkTargets(document.text) where !target.contains("://") && !target.hasPrefix("mailto:") {
      let path = target.split(separator: "#", omittingEmptySubsequences: false)[0]
      guard !path.isEmpty else { continue }
      let place = folder.appending(String(path)).lexicallyNormalized()
      #expect(SourceTree.exists(place.string), "\(document.name) links to \(target)")
    }
  }

  /// Words that tell of unfinished work or of somebody's own machine; cut in two, so that this list does not find
  /// itself.
  static let bannedWords = [
    "TO" + "DO", "FIX" + "ME", "HA" + "CK:", "Lorem" + " ipsum", "/wo" + "rk/", "/ho" + "me/",
    "/ro" + "ot/",
    "/tm" + "p/",
  ]

  @Test("nothing speaks of unfinished work or of one machine", arguments: SourceTree.files)
  func bannedWords(file: TreeFile) {
    for (number, line) in file.lines.enumerated() {
      for word in Self.bannedWords where line.contains(word) {
        Issue.record("\(file.name):\(number + 1) has \"\(word)\"")
      }
    }
  }

  @Test("a Swift file has at most 600 lines", arguments: SourceTree.swiftFiles)
  func sizes(file: TreeFile) {
    #expect(file.lines.count <= 600, "\(file.name)")
  }

  @Test("products do not use Foundation", arguments: SourceTree.swiftFiles.filter { $0.name.hasPrefix("Sources/") })
  func noFoundation(file: TreeFile) {
    for line in file.lines where line.contains("import Foundation") && !line.hasPrefix("//") {
      Issue.record("\(file.name): \(line)")
    }
  }

  @Test("format targets have no unsafe code", arguments: formatTargets) func safety(target: String) {
    for file in SourceTree.swiftFiles where file.name.hasPrefix("Sources/\(target)/") {
      for (number, line) in file.lines.enumerated() where isUnsafe(line) {
        Issue.record("\(file.name):\(number + 1): \(line)")
      }
    }
  }

  private static let formatTargets = [
    "PlatterRaw", "PlatterQCOW2", "PlatterQED", "PlatterVMDK", "PlatterVHDX", "PlatterDMG", "PlatterLUKS",
  ]

  /// A use of the keyword, outside comments and texts.
  private func isUnsafe(_ line: Substring) -> Bool {
    let code = line.split(separator: "//", omittingEmptySubsequences: false).first ?? ""
    return code.split(separator: "\"", omittingEmptySubsequences: false).enumerated().contains { index, part in
      index % 2 == 0 && part.split(whereSeparator: { !$0.isLetter && !$0.isNumber && $0 != "_" }).contains("unsafe")
    }
  }

  @Test("the picture of the architecture names every target") func architecture() throws {
    let picture = try #require(SourceTree.file("Documentation/Architecture.md"))
    for target in SourceTree.targets { #expect(picture.text.contains("`\(target)`"), "\(target)") }
  }

  @Test("the README's example is the one that compiles") func example() throws {
    let readme = try #require(SourceTree.file("README.md"))
    let source = try #require(SourceTree.file("Tests/TidyTests/ReadmeExample.swift"))
    let blocks = readme.text.components(between: "```swift\nimport Platter\n", and: "```")
    let shown = try #require(blocks.first)
    let compiled = try #require(source.text.components(between: "// README: from here\n", and: "// to here").first)
    #expect(shown.trimmedLines == compiled.trimmedLines)
    #expect(shown.trimmedLines.count <= 14)
  }

  @Test("the changes start with a version and its date, or say that it is not released")
  func changes() throws {
    let changes = try #require(SourceTree.file("CHANGELOG.md"))
    let heading = try #require(changes.lines.first { $0.hasPrefix("## ") })
    #expect(heading.contains(", "))
  }

  /// What the document's links and pictures point to.
  private func linkTargets(_ text: String) -> [String] {
    text.components(between: "](", and: ")").map { String($0.prefix { $0 != " " }) }
  }
}

extension String {
  /// The parts between an opening and the next closing text, in order.
  fileprivate func components(between opening: String, and closing: String) -> [String] {
    var parts: [String] = []
    var rest = self[...]
    while let start = rest.firstRange(of: opening) {
      rest = rest[start.upperBound...]
      guard let end = rest.firstRange(of: closing) else { break }
      parts.append(String(rest[..<end.lowerBound]))
      rest = rest[end.upperBound...]
    }
    return parts
  }

  /// Lines without the spaces around them, without empty ones.
  fileprivate var trimmedLines: [String] {
    split(separator: "\n").map { line in
      String(line.drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
    }.filter { !$0.isEmpty }
  }
}
