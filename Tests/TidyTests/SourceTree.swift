import PlatterCore
import SystemPackage
import TestSupport

/// A text file of the tree.
struct TreeFile: Sendable, CustomStringConvertible {
  /// The name from the tree's root, with slashes.
  var name: String
  var text: String
  var description: String { name }
  var lines: [Substring] { text.split(separator: "\n", omittingEmptySubsequences: false) }
}

/// The files that people wrote, as they lie in the tree; the corpus's images and what is built are not among them.
enum SourceTree {
  static let root = sourceTree()
  private static let folders = [".ci", "Benchmarks", "Documentation", "Fuzz", "Scripts", "Sources", "Tests"]
  private static let others = [
    "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "Package.swift", "README.md", ".gitignore",
    ".swift-format",
  ]

  static let files: [TreeFile] = {
    var files = others.filter { exists($0) }.compactMap { read($0) }
    for folder in folders { files += below(folder) }
    return files
  }()

  static var swiftFiles: [TreeFile] { files.filter { $0.name.hasSuffix(".swift") } }
  static var documents: [TreeFile] { files.filter { $0.name.hasSuffix(".md") } }

  /// Names of the targets' folders in Sources.
  static var targets: [String] { namesInFolder(root.appending("Sources")) }

  static func file(_ name: String) -> TreeFile? { files.first { $0.name == name } }

  static func exists(_ name: String) -> Bool {
    let path = root.appending(name)
    let parent = path.removingLastComponent()
    return path.lastComponent.map { namesInFolder(parent).contains($0.string) } ?? true
  }

  private static func below(_ folder: String) -> [TreeFile] {
    namesInFolder(root.appending(folder)).flatMap { name -> [TreeFile] in
      let full = folder + "/" + name
      if isFolder(root.appending(full)) {
        // The cases of the corpus are images and nothing else; Python leaves its own files about.
        return folder == "Tests/Corpus" || name == "__pycache__" ? [] : below(full)
      }
      return read(full).map { [$0] } ?? []
    }
  }

  /// Nil where the file is not text.
  private static func read(_ name: String) -> TreeFile? {
    guard let bytes = try? readFile(root.appending(name)), let text = String(validating: bytes, as: UTF8.self) else {
      return nil
    }
    return TreeFile(name: name, text: text)
  }
}
