import PlatterTool
import Testing

/// The habits of getopt that scripts rely on.
@Suite("Command lines", .serialized)
struct GrammarTests {
  private static let specs = [
    OptionSpec("f", "format", .required("FORMAT"), ""), OptionSpec("O", nil, .required("FORMAT"), ""),
    OptionSpec("o", nil, .required("OPTIONS"), ""), OptionSpec("p", nil, ""), OptionSpec("q", nil, ""),
    OptionSpec(nil, "output", .required("FORM"), ""), OptionSpec(nil, "object", .required("OBJECT"), ""),
  ]

  private func parse(_ words: [String]) throws(Failure) -> ParsedOptions {
    try ParsedOptions(name: Argument("convert"), words: words.map { Argument($0) }, specs: Self.specs)
  }

  @Test(
    "an argument may stick to a letter, and letters to each other",
    arguments: [
      ["-pOraw", "a", "b"], ["-p", "-O", "raw", "a", "b"], ["-Oraw", "-p", "a", "b"], ["a", "-pO", "raw", "b"],
      ["a", "b", "-p", "-Oraw"],
    ])
  func joinedLetters(words: [String]) throws {
    let options = try parse(words)
    #expect(options.has("p"))
    #expect(options.value("O") == "raw")
    #expect(options.operands.map(\.text) == ["a", "b"])
  }

  @Test(
    "a long name may be cut short and take its argument after = or as the next word",
    arguments: [
      ["--outp=json"], ["--output=json"], ["--out", "json"],
    ])
  func longNames(words: [String]) throws {
    #expect(try parse(words).value("output") == "json")
  }

  @Test("-oa=b is the option o with a=b, and all of several are kept in order")
  func repeatedOptions() throws {
    let options = try parse(["-oa=b", "-o", "c=d", "-fraw", "-f", "qcow2"])
    #expect(options.values("o") == ["a=b", "c=d"])
    #expect(options.value("format") == "qcow2")
  }

  @Test("-- ends the options")
  func endOfOptions() throws {
    let options = try parse(["--", "-p"])
    #expect(!options.has("p"))
    #expect(options.operands.map(\.text) == ["-p"])
  }

  @Test(
    "an unknown option is named as getopt's users know it",
    arguments: [
      (["--bad", "x"], "unrecognized option '--bad'"), (["-z"], "unrecognized option '-z'"),
      (["-pz", "x"], "unrecognized option '-pz'"), (["--o=json"], "unrecognized option '--o=json'"),
      (["-f"], "missing argument for option '-f'"), (["x", "--output"], "missing argument for option '--output'"),
    ])
  func unknownOptions(words: [String], sentence: String) {
    let failure = #expect(throws: Failure.self) { try parse(words) }
    #expect(failure?.sentences == [sentence])
    #expect(failure?.isUsage == true)
    #expect(failure?.status == 1)
  }

  @Test("names of files keep every byte")
  func operandBytes() throws {
    let name = Argument(bytes: [0x61, 0xff, 0x0a])
    let options = try ParsedOptions(name: Argument("info"), words: [name], specs: Self.specs)
    #expect(options.operands == [name])
  }

  @Test("no verb has two options of one name")
  func tablesAreSound() {
    for verb in Verbs.all {
      for program in ProgramName.allCases {
        let specs = Verbs.options(of: verb, program)
        let shorts = specs.compactMap(\.short)
        let longs = specs.compactMap(\.long)
        #expect(Set(shorts).count == shorts.count, "\(verb.name)")
        #expect(Set(longs).count == longs.count, "\(verb.name)")
        #expect(specs.allSatisfy { !$0.help.isEmpty }, "\(verb.name)")
      }
    }
  }

  @Test(
    "help says how the program was called",
    arguments: [
      (ProgramName.platter, "usage: platter io [options]"), (.qemuIO, "usage: qemu-io [options]"),
    ])
  func usage(program: ProgramName, start: String) throws {
    let capture = try Capture()
    let output = Output(descriptor: capture.descriptor)
    let verb = try #require(Verbs.all.first { $0.name == "io" })
    Help.write(verb, program, to: output)
    output.flush()
    let text = String(decoding: try capture.bytes(), as: UTF8.self)
    #expect(text.hasPrefix(start))
  }

  @Test(
    "the program answers to the last part of its path",
    arguments: [
      ("/usr/bin/qemu-img", ProgramName.qemuImg), ("qemu-nbd", .qemuNBD), ("./platter", .platter), ("other", .platter),
    ])
  func names(path: String, name: ProgramName) {
    #expect(ProgramName.called(Argument(path)) == name)
  }
}

@Suite("Sizes")
struct SizeTextTests {
  @Test(
    "suffixes are powers of 1024",
    arguments: [
      ("0", 0), ("512", 512), ("512b", 512), ("64k", 65536), ("64K", 65536), ("1M", 1 << 20), ("1.5G", 3 << 29),
      ("2T", 2 << 40), ("1P", 1 << 50), ("7E", 7 << 60), ("0x200", 512), (".5k", 512),
      ("9223372036854775807", UInt64(Int64.max)),
    ] as [(String, UInt64)])
  func sizes(text: String, byteCount: UInt64) throws {
    #expect(try SizeText.parse(text) == byteCount)
  }

  @Test(
    "what is no size is refused", arguments: ["", "abc", "-1", "1.5", "1kk", "1x", "0x", "0xg", "k", "1e3", "1 k", "."])
  func malformed(text: String) {
    #expect(throws: SizeText.Problem.malformed) { try SizeText.parse(text) }
  }

  @Test(
    "what no file can have is too large", arguments: ["8E", "9223372036854775808", "99999999999999999999", "16777216T"])
  func tooLarge(text: String) {
    #expect(throws: SizeText.Problem.tooLarge) { try SizeText.parse(text) }
  }
}

@Suite("Option lists")
struct OptionStringTests {
  @Test("a doubled comma is a comma of the value")
  func doubledComma() {
    #expect(
      OptionString.dictionary("driver=raw,file.filename=a,,b=c,size=1") == [
        "driver": "raw", "file.filename": "a,b=c", "size": "1",
      ])
  }

  @Test("an odd number of commas ends the value after the pairs")
  func threeCommas() {
    #expect(OptionString.parse("a=x,,,b=y") == [OptionString.Pair("a", "x,"), OptionString.Pair("b", "y")])
  }

  @Test("a key alone has no value, and an empty list no pairs")
  func keysAlone() {
    #expect(OptionString.parse("secret,id=a") == [OptionString.Pair("secret", nil), OptionString.Pair("id", "a")])
    #expect(OptionString.parse("").isEmpty)
    #expect(OptionString.parse("a=") == [OptionString.Pair("a", "")])
  }
}
