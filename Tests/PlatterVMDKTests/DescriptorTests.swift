import PlatterCore
import PlatterVMDK
import Testing

private func descriptor(_ text: String) throws(ImageError) -> Descriptor { try Descriptor(parsing: Array(text.utf8)) }

private let head = "# Disk DescriptorFile\nversion=1\n"

@Suite("VMDK: the descriptor") struct DescriptorTests {
  @Test("line ends, blanks around '=', key case and quotes do not matter", arguments: ["\n", "\r\n", "\r"])
  func spelling(lineEnd: String) throws {
    let lines = [
      "# Disk DescriptorFile", "version = 1", "cid=89193f1", "PARENTCID = ffffffff", "CreateType = \"custom\"",
      "rw 300 flat \"a b.bin\" 7", "  RDONLY\t5 ZERO", "ddb.adapterType=lsilogic", "ddb.uuid = \"60 00 C2\"",
      "nonsense",
    ]
    let parsed = try descriptor(lines.joined(separator: lineEnd))
    #expect(parsed.contentID == 0x89193f1)
    #expect(parsed.parentContentID == Descriptor.noContentID)
    #expect(parsed.createType == "custom")
    #expect(parsed.extents.map(\.sectorCount) == [300, 5])
    #expect(parsed.extents[0].name == Array("a b.bin".utf8))
    #expect(parsed.extents[0].offset == 7)
    #expect(parsed.extents[1].access == .readOnly)
    #expect(parsed.database.map(\.name) == ["adapterType", "uuid"])
    #expect(parsed.databaseValue("ADAPTERTYPE") == "lsilogic")
    #expect(parsed.databaseValue("uuid") == "60 00 C2")
  }

  @Test("a key inside a file name or inside another key is not that key")
  func substrings() throws {
    let parsed = try descriptor(head + "parentCID=00000001\nRW 1 FLAT \"CID=7777.bin\" 0\nCID=00000002\n")
    #expect(parsed.contentID == 2)
    #expect(parsed.parentContentID == 1)
  }

  @Test("a content id of zeros is one")
  func zeroContentID() throws {
    #expect(try descriptor(head + "CID=00000000\n").contentID == 0)
  }

  @Test("what stands behind a zero byte, and a byte order mark, do not count")
  func edges() throws {
    let bytes = [0xef, 0xbb, 0xbf] + Array((head + "CID=5\n").utf8) + [0] + Array("CID=6\n".utf8)
    #expect(try Descriptor(parsing: bytes).contentID == 5)
  }

  @Test("the title or the version, after comments, make a descriptor; other text does not")
  func probing() throws {
    func probe(_ text: String) throws -> Int { try VMDK.probe(Array(text.utf8).rawBytes, MemoryStore()) }
    #expect(try probe("# Disk DescriptorFile\nencoding=\"UTF-8\"\n") == 100)
    #expect(try probe("# disk descriptorfile\r\n") == 100)
    #expect(try probe("# made by hand\n\nversion = 1\n") == 100)
    #expect(try probe("COWD") == 100)
    #expect(try probe("KDMV") == 100)
    #expect(try probe("name=x\nversion=1\n") == 0)
    #expect(try probe("version=two\n") == 0)
    #expect(try probe("") == 0)
    #expect(try probe("# a comment alone\n") == 0)
  }

  static let badLines: [(String, String)] = [
    ("RW", "line 3 of the descriptor is no extent: no number of sectors"),
    ("RW -5 ZERO", "line 3 of the descriptor is no extent: \"-5\" is no number of sectors"),
    (
      "RW 99999999999999999999 ZERO",
      "line 3 of the descriptor is no extent: \"99999999999999999999\" is no number of sectors"
    ),
    ("RW 5", "line 3 of the descriptor is no extent: no type"),
    ("RW 5 FLOPPY \"a\"", "line 3 of the descriptor has the unknown extent type \"FLOPPY\""),
    ("RW 5 SPARSE", "line 3 of the descriptor is no extent: no file name in quotes"),
    ("RW 5 SPARSE \"open", "line 3 of the descriptor is no extent: no file name in quotes"),
    ("RW 5 SPARSE \"\"", "line 3 of the descriptor is no extent: no file name in quotes"),
    ("RW 5 FLAT \"a\"", "line 3 of the descriptor is no extent: a flat extent without an offset"),
    ("RW 5 FLAT \"a\" x", "line 3 of the descriptor is no extent: \"x\" is no offset in sectors"),
    ("CID=123456789", "the descriptor's CID is \"123456789\", not up to eight hexadecimal digits"),
    ("parentCID=+1", "the descriptor's parentCID is \"+1\", not up to eight hexadecimal digits"),
    ("CID=", "the descriptor's CID is \"\", not up to eight hexadecimal digits"),
  ]

  @Test("a line that starts as an extent or content id must be one", arguments: badLines)
  func refused(line: String, sentence: String) throws {
    let error = #expect(throws: ImageError.self) { try descriptor(head + line + "\n") }
    #expect(error?.message == sentence)
  }

  @Test("a control character in a bad line does not reach the terminal")
  func controlCharacters() throws {
    let error = #expect(throws: ImageError.self) { try descriptor(head + "RW \u{1b}[2J ZERO") }
    #expect(error?.message.contains("\u{1b}") == false)
  }

  @Test("4096 extents and 1 MiB of text are the most")
  func limits() throws {
    let line = "RW 1 ZERO\n"
    #expect(try descriptor(head + String(repeating: line, count: 4096)).extents.count == 4096)
    #expect(throws: ImageError.self) { try descriptor(head + String(repeating: line, count: 4097)) }
    #expect(throws: ImageError.self) { try Descriptor(parsing: [UInt8](repeating: 10, count: (1 << 20) + 1)) }
  }
}
