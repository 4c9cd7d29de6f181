import PlatterCore
import SystemPackage
import TestSupport
import Testing

@Suite("What tests stand on")
struct SupportTests {
  @Test("a program's output, errors and status come back") func programRuns() throws {
    let result = try run("sh", ["-c", "cat; echo oops >&2; exit 3"], input: [0x61, 0x62])
    #expect(result.output == [0x61, 0x62])
    #expect(result.errorText == "oops\n")
    #expect(result.status == 3)
  }

  @Test("more input and output than a pipe holds flows both ways") func largeFlow() throws {
    var generator = SeededGenerator(seed: 1)
    let bytes = generator.bytes(1 << 20)
    #expect(try run("cat", [], input: bytes).output == bytes)
  }

  @Test("a program that hangs is ended, and the result says so") func hangs() throws {
    let result = try run("sleep", ["60"], timeoutSeconds: 1)
    #expect(result.timedOut)
  }

  @Test("a program starts with no signal blocked or ignored") func signals() throws {
    #expect(try run("sh", ["-c", "kill -TERM $$; sleep 5"]).status == 128 + 15)
    #expect(try run("sh", ["-c", "kill -PIPE $$; sleep 5"]).status == 128 + 13)
  }

  @Test("folder and environment reach the program") func folderAndEnvironment() throws {
    let scratch = try ScratchDirectory()
    try scratch.write([1], to: "sub/file")
    let result = try run("sh", ["-c", "ls; echo $COLOUR"], in: scratch.file("sub"), environment: ["COLOUR": "red"])
    #expect(result.outputText == "file\nred\n")
  }

  @Test("a program that is not there is an error") func missingProgram() {
    #expect(throws: RunError.self) { try run("no-such-program-here", []) }
  }

  @Test("a scratch folder goes with its owner") func scratchIsRemoved() throws {
    var path: FilePath?
    do {
      let scratch = try ScratchDirectory()
      try scratch.write([1, 2, 3], to: "a/b/c")
      path = scratch.path
      #expect(try scratch.read("a/b/c") == [1, 2, 3])
    }
    let gone = try #require(path)
    #expect(!isFolder(gone))
  }

  @Test("a faulty store fails from the nth read on, and counts") func faults() throws {
    let store = FaultyStore(MemoryStore([1, 2, 3, 4]), .failRead(nth: 2))
    #expect(try store.readPrefix(count: 4) == [1, 2, 3, 4])
    #expect(throws: ImageError.self) { try store.readPrefix(count: 4) }
    #expect(store.counts.reads == 2)
    #expect(store.counts.bytesRead == 4)
  }

  @Test("a recording gives back what a power cut leaves") func recording() throws {
    let store = RecordingStore([0, 0, 0, 0])
    let one: [UInt8] = [1]
    try store.write(one.rawBytes, at: 0)
    try store.flush()
    try store.write(one.rawBytes, at: 1)
    try store.write(one.rawBytes, at: 2)
    #expect(try store.content(afterOperations: 4) == [1, 1, 1, 0])
    #expect(try store.content(afterOperations: 4, survives: { $0 == 3 }) == [1, 0, 1, 0])
    #expect(try store.content(afterOperations: 1, survives: { _ in false }) == [0, 0, 0, 0])
  }
}
