import PlatterCore
import PlatterTool
import Testing

@Suite("Commands of the disk exerciser")
struct IOTests {
  @Test("spaces alone part the words of a line")
  func words() {
    #expect(IOArguments.split("  read   -P 3  0 4k ") == ["read", "-P", "3", "0", "4k"])
    #expect(IOArguments.split("read\t0 4k") == ["read\t0", "4k"])
    #expect(IOArguments.split("") == [])
  }

  @Test("letters are joined, values stick to theirs, options follow operands")
  func options() throws {
    let arguments = try IOArguments(["0", "-qP0xaa", "64k", "-s", "3"], letters: "abCl:pP:qs:v")
    #expect(arguments.has("q"))
    #expect(!arguments.has("v"))
    #expect(arguments.value("P") == "0xaa")
    #expect(arguments.value("s") == "3")
    #expect(arguments.operands == ["0", "64k"])
  }

  @Test("two dashes end the options")
  func endOfOptions() throws {
    #expect(try IOArguments(["-q", "--", "-1", "4k"], letters: "q").operands == ["-1", "4k"])
  }

  @Test("an unknown letter and a missing value are told in getopt's words")
  func problems() {
    #expect(throws: IOArguments.Problem(sentence: "invalid option -- '1'")) {
      try IOArguments(["-1", "4k"], letters: "q")
    }
    #expect(throws: IOArguments.Problem(sentence: "invalid option -- ':'")) {
      try IOArguments(["-:"], letters: "P:")
    }
    #expect(throws: IOArguments.Problem(sentence: "option requires an argument -- 'P'")) {
      try IOArguments(["0", "-P"], letters: "P:")
    }
  }

  @Test(
    "sizes lose decimals that are zeros",
    arguments: zip(
      [0, 512, 1000, 65536, 1_572_864, 1 << 30] as [UInt64],
      [
        "0 bytes", "512 bytes", "1000 bytes", "64 KiB", "1.500 MiB", "1 GiB",
      ]))
  func sizes(value: UInt64, text: String) {
    #expect(IOText.size(value) == text)
  }

  @Test("a part of a byte a second keeps six decimals")
  func smallRates() { #expect(IOText.size(13.361528) == "13.361528 bytes") }

  @Test("times name minutes and hours where there are any")
  func times() {
    #expect(IOText.time(0.187) == "00.18 sec")
    #expect(IOText.time(62.03) == "01:02.03")
    #expect(IOText.time(4904.83) == "1:21:44.83")
    #expect(IOText.time(0.01, isFull: true) == "0:00:00.01")
  }

  @Test("a report tells bytes, time and rates")
  func report() {
    #expect(
      IOText.report("wrote", done: 65536, of: 65536, at: 0, seconds: 0.25, isTerse: false)
        == "wrote 65536/65536 bytes at offset 0\n64 KiB, 1 ops; 00.25 sec (256 KiB/sec and 4.0000 ops/sec)")
    #expect(
      IOText.report("read", done: 5, of: 5, at: 0, seconds: 0.5, isTerse: true)
        == "5,1,0:00:00.50,10.000,2.000")
  }

  @Test("a dump has sixteen bytes a line")
  func dump() throws {
    let bytes: [UInt8] = Array("ABCDEFGHIJKLMNOP".utf8) + [0, 0x7f]
    let capture = try Capture()
    let output = Output(descriptor: capture.descriptor)
    IOText.dump(bytes.rawBytes, at: 512, to: output)
    output.flush()
    let text = String(decoding: try capture.bytes(), as: UTF8.self)
    #expect(
      text == """
        00000200:  41 42 43 44 45 46 47 48 49 4a 4b 4c 4d 4e 4f 50  ABCDEFGHIJKLMNOP
        00000210:  00 7f  ..

        """)
  }

  @Test(
    "patterns are bytes in C's notation",
    arguments: zip(["0", "205", "0xcd", "010", "255"], [0, 205, 205, 8, 255] as [UInt8]))
  func patterns(text: String, byte: UInt8) throws {
    #expect(try IONumber.pattern(text) == byte)
  }

  @Test("no other text is a pattern", arguments: ["", "zz", "256", "-1", "0x", "5x", "08"])
  func wrongPatterns(text: String) {
    #expect(throws: IOFailure.line("\(text) is not a valid pattern byte")) { try IONumber.pattern(text) }
  }

  @Test("a length beyond a request is refused before anything is allocated")
  func lengths() throws {
    #expect(try IONumber.length("2147483136") == 0x7fff_fe00)
    #expect(throws: IOFailure.line("length cannot exceed 2147483136, given 3G")) { try IONumber.length("3G") }
    #expect(throws: IOFailure.line("Parsing error: argument too large -- 99E")) { try IONumber.size("99E") }
    #expect(throws: IOFailure.self) { try IONumber.lengths(["1G", "1G", "1G"]) }
  }
}
