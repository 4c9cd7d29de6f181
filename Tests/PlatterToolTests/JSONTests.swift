import PlatterCore
import PlatterTool
import TestSupport
import Testing

@Suite("JSON in")
struct JSONTextTests {
  @Test("nested names are joined with dots, items of lists by their number")
  func flattening() throws {
    let text = #"{"driver":"qcow2", "file": {"filename":"a\u00e9\n","list":[1,true,null,-2.5]}}"#
    #expect(
      try JSONValue.parse(text).flattened() == [
        "driver": "qcow2", "file.filename": "a\u{e9}\n", "file.list.0": "1", "file.list.1": "on", "file.list.3": "-2.5",
      ])
  }

  @Test("a pair of surrogates is one character")
  func surrogates() throws {
    #expect(try JSONValue.parse(#""\ud83d\ude00""#) == .text("\u{1f600}"))
  }

  @Test(
    "what is no JSON is refused",
    arguments: [
      "", " ", "{", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "[1,]", "[1", "\"a", "\"\\x\"", "\"\\ud800\"", "\"\\u00\"",
      "tru",
      "1.2.3", "{} x", "{\"a\":1,\"a\":2}", "\"\u{1}\"", "--1", "{1:2}",
    ])
  func malformed(text: String) {
    #expect(throws: Failure.self) { try JSONValue.parse(text) }
  }

  @Test("depth and length are bounded")
  func bounds() {
    let deep = String(repeating: "[", count: 100_000)
    #expect(throws: Failure.self) { try JSONValue.parse(deep) }
    let long = "\"" + String(repeating: "a", count: JSONValue.maximumByteCount) + "\""
    #expect(throws: Failure.self) { try JSONValue.parse(long) }
  }

  @Test("two spellings of one dotted name are refused")
  func collidingNames() throws {
    let value = try JSONValue.parse(#"{"file.filename":"a","file":{"filename":"b"}}"#)
    #expect(throws: Failure.self) { try value.flattened() }
  }
}

@Suite("JSON out")
struct JSONWriterTests {
  /// What a value looks like on a descriptor.
  private func printed(_ body: (Output) -> Void) throws -> String {
    let capture = try Capture()
    let output = Output(descriptor: capture.descriptor)
    body(output)
    #expect(output.flush())
    return String(decoding: try capture.bytes(), as: UTF8.self)
  }

  @Test("objects and lists take four spaces a level")
  func layout() throws {
    let value: Property = [
      "a": .unsigned(1), "b": .list([.text("x"), .flag(false)]), "c": .object([]), "d": .integer(-1), "e": .null,
    ]
    let text = """
      {
          "a": 1,
          "b": [
              "x",
              false
          ],
          "c": {
          },
          "d": -1,
          "e": null
      }
      """
    #expect(try printed { JSONWriter.write(value, to: $0) } == text)
  }

  @Test(
    "everything beyond printable ASCII is escaped",
    arguments: [
      ("a\"b\\", #""a\"b\\""#), ("\u{8}\u{c}\n\r\t", #""\b\f\n\r\t""#), ("\u{1}\u{7f}", #""\u0001\u007F""#),
      ("é\u{1f600}", #""\u00E9\uD83D\uDE00""#), ("/", "\"/\""),
    ])
  func escapes(text: String, json: String) {
    #expect(JSONWriter.quoted(text) == json)
  }

  @Test("digits are written as they are", arguments: [0, 7, 10, 4096, UInt64.max])
  func digits(value: UInt64) throws {
    #expect(try printed { $0.write(decimal: value) } == String(value))
  }

  @Test("a value for people: names without hyphens, lists numbered")
  func human() throws {
    let value: Property = ["a-b": .text("x"), "c": .list([.text("y"), ["d-e": .flag(true)]])]
    let lines = ["    a b: x", "    c:", "        [0]: y", "        [1]:", "            d e: true"]
    let text = lines.map { $0 + "\n" }.joined()
    #expect(try printed { HumanText.write(value, level: 1, to: $0) } == text)
  }

  @Test("a write that fails is remembered")
  func failedWrite() {
    let output = Output(descriptor: -1)
    output.write("x")
    #expect(!output.flush())
    #expect(output.failure != nil)
  }
}

@Suite("Text for people")
struct HumanTextTests {
  @Test(
    "sizes have three digits and the next unit from 1000 on",
    arguments: [
      (0, "0 B"), (512, "512 B"), (999, "999 B"), (1000, "0.977 KiB"), (1024, "1 KiB"), (200_704, "196 KiB"),
      (1_400_832, "1.34 MiB"), (67_108_864, "64 MiB"), (8_000_000_000_000, "7.28 TiB"), (1 << 60, "1 EiB"),
    ] as [(UInt64, String)])
  func sizes(byteCount: UInt64, text: String) {
    #expect(HumanText.size(byteCount) == text)
  }

  @Test("hexadecimal columns have a bare zero")
  func hexadecimal() {
    #expect(HumanText.hexadecimal(0, 6) == "0     ")
    #expect(HumanText.hexadecimal(0x50000, 8) == "0x50000 ")
  }

  @Test("a guest's clock counts hours past a day")
  func clock() {
    #expect(HumanText.clock(nanoseconds: 0) == "00:00:00.000")
    #expect(HumanText.clock(nanoseconds: 360_061_002_999_999) == "100:01:01.002")
  }

  @Test("control characters of a name from an image do not reach the terminal")
  func printable() {
    #expect(HumanText.printable("a\u{1b}[2J\n") == "a\\x1b[2J\\x0a")
    #expect(HumanText.printable("a\n", keepingLineEnds: true) == "a\n")
  }
}
