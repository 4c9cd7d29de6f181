import SystemPackage
import TestSupport
import Testing

@Suite("The corpus itself")
struct CorpusFormTests {
  @Test("every file that the manifest names is there, and every row says what is right")
  func complete() throws {
    #expect(Corpus.rows.count == 216)
    for row in Corpus.rows {
      #expect(row.mustBeRefused || !row.sizes.isEmpty, "\(row.file)")
      let present = Set(allNames(row.folder))
      for name in row.names { #expect(present.contains(name + ".xz"), "\(row.file): \(name)") }
    }
  }

  @Test("every folder of the corpus is named by the manifest")
  func noStrangers() {
    let folders = namesInFolder(Corpus.folder).filter { isFolder(Corpus.folder.appending($0)) }
    #expect(Set(folders) == Set(Corpus.rows.map(\.folder)))
  }

  /// Names of all files below a case's folder, with the folders inside it.
  private func allNames(_ folder: String, below prefix: String = "") -> [String] {
    let place = Corpus.folder.appending(folder).appending(prefix)
    return namesInFolder(place).flatMap { name in
      isFolder(place.appending(name)) ? allNames(folder, below: prefix + name + "/") : [prefix + name]
    }
  }
}
