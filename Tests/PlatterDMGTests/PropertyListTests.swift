import PlatterCore
import PlatterDMG
import Testing

@Suite("The property list is read as strictly as a stranger's text deserves")
struct PropertyListTests {
  /// An image whose property list was rewritten.
  private func image(_ change: (String) -> String) -> [UInt8] {
    var image = DMGBuilder(chunks: [.raw(0x61), .zlib(0x62), .end])
    image.propertyList = Array(change(text(of: image)).utf8)
    return image.build()
  }

  private func text(of image: DMGBuilder) -> String {
    let bytes = image.build()
    let text = String(decoding: bytes, as: UTF8.self)
    guard let start = text.firstRange(of: "<?xml"), let end = text.firstRange(of: "</plist>") else { return "" }
    return String(text[start.lowerBound..<end.upperBound])
  }

  private let disk = [UInt8](repeating: 0x61, count: 512) + [UInt8](repeating: 0x62, count: 512)

  @Test("comments, CDATA, entities and odd spaces are understood")
  func variety() throws {
    let map = try open(
      image { text in
        "\u{FEFF}"
          + text.replacing("<dict>", with: "<!-- a -- comment > --><dict >")
          .replacing("whole disk (Apple_HFS : 0)", with: "A &amp; B &#x43;&#68;<![CDATA[ <E>]] ]]>")
          .replacing("</data>", with: "\r\n\t </data >")
      })
    #expect(try contents(map) == disk)
    guard case .list(let partitions)? = map.facts.specific?["partitions"] else { return }
    #expect(partitions[0]["name"] == .text("A & B CD <E>]] "))
  }

  @Test("a list without any white space, keys in another order")
  func compact() throws {
    let map = try open(
      image { text in
        let data = text.split(separator: "<data>")[1].split(separator: "</data>")[0]
        return
          "<plist><dict><key>other</key><array><true/><false/><integer>1</integer><real>1.5</real>"
          + "<date>2020</date></array><key>resource-fork</key><dict><key>cSum</key><array/><key>blkx</key><array><dict>"
          + "<key>Data</key><data>" + data.filter { !$0.isWhitespace } + "</data><key>Name</key><string>n</string>"
          + "</dict></array></dict></dict></plist>"
      })
    #expect(try contents(map) == disk)
  }

  struct Attack: Sendable, CustomTestStringConvertible {
    var name: String
    var words: String
    var change: @Sendable (String) -> String
    var testDescription: String { name }
    init(_ name: String, _ words: String, _ change: @escaping @Sendable (String) -> String) {
      self.name = name
      self.words = words
      self.change = change
    }
  }

  static let attacks: [Attack] = [
    Attack("entities of its own", "declares entities") { text in
      text.replacing(
        "PropertyList-1.0.dtd\">", with: "x\" [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;&a;\">]>")
    },
    Attack("an outside entity", "declares entities") { text in
      text.replacing("PUBLIC", with: "[<!ENTITY x SYSTEM \"file:///etc/passwd\">] PUBLIC")
    },
    Attack("an unknown entity", "uses the entity &nbsp;") { $0.replacing("whole", with: "&nbsp;") },
    Attack("an endless entity", "entity that does not end") { $0.replacing("whole", with: "&aaaaaaaaaaaaaaaaaa") },
    Attack("a character that is none", "uses the entity &#xD800;") { $0.replacing("whole", with: "&#xD800;") },
    Attack("a nesting bomb", "nested more than 64 deep") {
      $0.replacing("<plist version=\"1.0\">", with: "<plist>" + String(repeating: "<array>", count: 100_000))
    },
    Attack("a giant name", "more than 4096 bytes") {
      $0.replacing("whole", with: String(repeating: "w", count: 100_000))
    },
    Attack("a giant tag", "a tag of the property list has more than") {
      $0.replacing("<plist version", with: "<plist " + String(repeating: "v", count: 100_000))
    },
    Attack("base64 with foreign characters", "holds the byte 0x2a") { $0.replacing("<data>", with: "<data>*") },
    Attack("base64 behind its padding", "goes on behind its padding") { $0.replacing("<data>", with: "<data>AA==") },
    Attack("elements inside data", "<data> holds another element") { $0.replacing("<data>", with: "<data><key>") },
    Attack("tags that do not match", "is closed by") { $0.replacing("</array>", with: "</dict>") },
    Attack("a value without its key", "a value without its <key>") {
      $0.replacing("<key>CFName</key>", with: "")
    },
    Attack("two keys in a row", "a <key> where none belongs") {
      $0.replacing("<key>Data</key>", with: "<key>a</key><key>Data</key>")
    },
    Attack("a second list of tables", "names \"blkx\" twice") {
      $0.replacing("<key>plst</key>", with: "<key>blkx</key>")
    },
    Attack("data twice", "has its \"Data\" twice") {
      $0.replacing("<key>ID</key>", with: "<key>Data</key><data>AAAA</data><key>ID</key>")
    },
    Attack("a table without data", "has no \"Data\"") { $0.replacing("<key>Data</key>", with: "<key>data</key>") },
    Attack("an element of another language", "holds an element <script>") {
      $0.replacing("<plist version=\"1.0\">", with: "<plist><script>")
    },
    Attack("text between elements", "text outside of any value") { $0.replacing("<array>", with: "<array>hello") },
    Attack("an end that never comes", "ends inside") {
      $0.replacing("</plist>", with: "")
    },
    Attack("a comment that never ends", "ends inside a tag") { $0.replacing("<array>", with: "<array><!-- ") },
    Attack("UTF-16", "UTF-16") { _ in "" },
  ]

  @Test("attacks are refused before they cost anything", .timeLimit(.minutes(1)), arguments: attacks)
  func attack(_ attack: Attack) {
    var image = DMGBuilder(chunks: [.raw(0x61), .zlib(0x62), .end])
    image.propertyList = Array(attack.change(text(of: image)).utf8)
    if attack.name == "UTF-16" { image.propertyList = [0xFE, 0xFF, 0, 0x3C] }
    let error = #expect(throws: ImageError.self) { try open(image.build()) }
    #expect(error?.message.contains(attack.words) == true, "\(String(describing: error))")
  }

  @Test("a block table of more than a million chunks' room is refused while it is read")
  func giantData() {
    let image = image {
      $0.replacing("<data>", with: "<data>" + String(repeating: "AAAA", count: 14_000_000), maxReplacements: 1)
    }
    let error = #expect(throws: ImageError.self) { try open(image) }
    #expect(error?.message.contains("a block table has more than") == true)
  }
}
