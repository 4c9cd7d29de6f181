import SystemPackage
import TestSupport
import Testing

@Suite("The program reads what it must of the corpus and refuses what it must")
struct ProgramTests {
  @Test("the corpus's own script finds nothing wrong with platter qemu-img", .requires(.python))
  func verify() throws {
    let program = try #require(Program.path)
    let script = Corpus.folder.appending("verify").string
    let result = try run(
      Tool.python.path ?? "python3", [script, "--tool", "'\(program)' qemu-img"], timeoutSeconds: 1200)
    let lines = result.outputText.split(separator: "\n")
    let wrong = lines.filter { $0.hasPrefix("WRONG") }
    #expect(wrong.isEmpty, "\(wrong.joined(separator: "\n"))")
    #expect(lines.last == "corpus: 216 right, 0 wrong of 216")
    #expect(result.status == 0)
  }
}
