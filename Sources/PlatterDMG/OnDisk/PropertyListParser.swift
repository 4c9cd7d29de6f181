import PlatterCore

/// Reads the block tables out of the XML property list: `resource-fork` > `blkx` > dictionaries with `Name` and `Data`.
///
/// A small part of XML, on purpose: the elements of property lists, the five entities that XML itself defines and
/// numeric ones, comments, a document type without declarations. Nothing is looked up, nothing expands. Memory: a
/// window of the text and one block table.
struct PropertyListParser {
  /// Most bytes of a property list.
  static let maximumByteCount: UInt64 = 64 << 20
  /// Deepest nesting of elements.
  static let maximumDepth = 64
  /// Longest tag with its attributes.
  static let maximumTagByteCount = 1024

  /// What a container means to us.
  private enum Role { case document, top, resourceFork, tables, table, other }

  private struct Container {
    var element: String
    var role: Role
    /// In a dictionary: the key that waits for its value.
    var key: String?
    var isDictionary: Bool { element == "dict" }
  }

  private var scanner: ByteScanner
  private var containers: [Container] = []
  private var table = BlockTableResource(name: "", bytes: [])
  private var hasData = false
  private var hasFullName = false
  /// Lists that may stand only once were seen.
  private var hasResourceFork = false
  private var hasTables = false
  private var hasTop = false

  private init(_ scanner: ByteScanner) { self.scanner = scanner }

  /// Hands over the block tables one by one, in the order of the list.
  ///
  /// - Parameter range: checked to lie inside the store.
  /// - Throws: `.corrupt`, `.truncated`, `.unsupported`, and what `body` throws.
  static func forEachBlockTable(
    in store: any ByteStore, _ range: FileRange, _ body: (BlockTableResource) throws(ImageError) -> Void
  ) throws(ImageError) {
    guard range.byteCount <= maximumByteCount else {
      throw .unsupported("the property list has \(range.byteCount) bytes, more than \(maximumByteCount)")
    }
    var parser = PropertyListParser(ByteScanner(store, range))
    // What the caller finds in a table is not about the text, and says its own place.
    var isTextAtFault = true
    do {
      try parser.skipByteOrderMark()
      while try parser.parseNext({ table throws(ImageError) in
        isTextAtFault = false
        try body(table)
        isTextAtFault = true
      }) {}
    } catch {
      guard isTextAtFault, error.code != .io, error.file == nil else { throw error }
      var placed = error
      placed.message += " (before byte \(parser.scanner.position.hex) of the property list)"
      throw placed
    }
  }

  private mutating func skipByteOrderMark() throws(ImageError) {
    switch try scanner.peek() {
    case 0xEF:
      for expected: UInt8 in [0xEF, 0xBB, 0xBF] {
        guard try scanner.take() == expected else { throw .corrupt("the property list is not XML") }
      }
    case 0xFE, 0xFF: throw .unsupported("the property list is in UTF-16, not UTF-8")
    default: break
    }
  }

  /// Reads up to the next tag and acts on it.
  ///
  /// - Returns: false at the end of the document; what may follow is not looked at.
  private mutating func parseNext(_ body: (BlockTableResource) throws(ImageError) -> Void) throws(ImageError) -> Bool {
    guard let byte = try scanner.take() else {
      throw .truncated("the property list ends inside \(containers.last.map { "<\($0.element)>" } ?? "its head")")
    }
    switch byte {
    case 0x20, 0x09, 0x0A, 0x0D: return true
    case UInt8(ascii: "<"): break
    default: throw .corrupt("the property list holds text outside of any value")
    }
    switch try scanner.peek() {
    case UInt8(ascii: "?"):
      try skipInstruction()
    case UInt8(ascii: "!"):
      _ = try next()
      try skipDeclaration()
    case UInt8(ascii: "/"):
      _ = try next()
      return try close(try readTag().name, body)
    default:
      try open(try readTag())
    }
    return !containers.isEmpty || !hasTop
  }

  private mutating func next() throws(ImageError) -> UInt8 {
    guard let byte = try scanner.take() else { throw .truncated("the property list ends inside a tag") }
    return byte
  }
}

// Tags and what looks like them.
extension PropertyListParser {
  private struct Tag {
    var name: String
    var isEmpty: Bool
  }

  /// Reads name and attributes up to ">". "<" and "/" of an end tag are already taken.
  private mutating func readTag() throws(ImageError) -> Tag {
    var name: [UInt8] = []
    var count = 0
    var isInName = true
    var quote: UInt8?
    var last: UInt8 = 0
    while true {
      let byte = try next()
      count += 1
      guard count <= Self.maximumTagByteCount else {
        throw .corrupt("a tag of the property list has more than \(Self.maximumTagByteCount) bytes")
      }
      if let open = quote {
        if byte == open { quote = nil }
      } else if byte == UInt8(ascii: ">") {
        return Tag(name: String(decoding: name, as: UTF8.self), isEmpty: last == UInt8(ascii: "/"))
      } else if byte == UInt8(ascii: "<") {
        throw .corrupt("a tag of the property list is not closed")
      } else if byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "'") {
        quote = byte
      }
      switch byte {
      case 0x20, 0x09, 0x0A, 0x0D, UInt8(ascii: "/"): isInName = false
      default: if isInName { name.append(byte) }
      }
      last = byte
    }
  }

  /// "<" is taken; the instruction ends with "?>".
  private mutating func skipInstruction() throws(ImageError) {
    var last: UInt8 = 0
    _ = try next()
    while true {
      let byte = try next()
      if last == UInt8(ascii: "?"), byte == UInt8(ascii: ">") { return }
      last = byte
    }
  }

  /// "<!" is taken: a comment, or a document type that declares nothing.
  private mutating func skipDeclaration() throws(ImageError) {
    guard try scanner.peek() != UInt8(ascii: "-") else { return try skipComment() }
    var word: [UInt8] = []
    var quote: UInt8?
    while true {
      let byte = try next()
      if word.count < 7 { word.append(byte) }
      if let open = quote {
        if byte == open { quote = nil }
      } else if byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "'") {
        quote = byte
      } else if byte == UInt8(ascii: "[") || byte == UInt8(ascii: "<") {
        throw .unsupported("the property list declares entities or elements of its own")
      } else if byte == UInt8(ascii: ">") {
        guard word == Array("DOCTYPE".utf8), containers.isEmpty else {
          throw .corrupt("the property list holds a declaration <!\(String(decoding: word, as: UTF8.self))")
        }
        return
      }
    }
  }

  /// "<!" is taken; the comment ends with "-->".
  private mutating func skipComment() throws(ImageError) {
    for _ in 0..<2 {
      guard try next() == UInt8(ascii: "-") else { throw .corrupt("the property list holds a broken comment") }
    }
    var dashes = 0
    while true {
      let byte = try next()
      if byte == UInt8(ascii: ">"), dashes >= 2 { return }
      dashes = byte == UInt8(ascii: "-") ? dashes + 1 : 0
    }
  }

  /// Reads the text of a value up to its end tag.
  private mutating func readText(of element: String, into text: inout LeafText) throws(ImageError) {
    while true {
      let byte = try next()
      switch byte {
      case UInt8(ascii: "<"):
        switch try scanner.peek() {
        case UInt8(ascii: "/"):
          _ = try next()
          let tag = try readTag()
          guard tag.name == element else { throw .corrupt("<\(element)> is closed by </\(printable(tag.name))>") }
          return try text.finish()
        case UInt8(ascii: "!"):
          _ = try next()
          if try scanner.peek() == UInt8(ascii: "[") { try readLiteral(into: &text) } else { try skipComment() }
        default: throw .corrupt("<\(element)> holds another element")
        }
      case UInt8(ascii: "&"):
        for byte in String(try readEntity()).utf8 { try text.take(byte) }
      default: try text.take(byte)
      }
    }
  }

  /// `[CDATA[...]]>`, of which "<!" is taken.
  private mutating func readLiteral(into text: inout LeafText) throws(ImageError) {
    for expected in "[CDATA[".utf8 {
      guard try next() == expected else { throw .corrupt("the property list holds a broken CDATA section") }
    }
    var brackets = 0
    while true {
      let byte = try next()
      if byte == UInt8(ascii: "]") {
        brackets += 1
        continue
      }
      if byte == UInt8(ascii: ">"), brackets >= 2 {
        for _ in 2..<brackets { try text.take(UInt8(ascii: "]")) }
        return
      }
      for _ in 0..<brackets { try text.take(UInt8(ascii: "]")) }
      brackets = 0
      try text.take(byte)
    }
  }

  /// The character of an entity, of which "&" is taken.
  private mutating func readEntity() throws(ImageError) -> Character {
    var name: [UInt8] = []
    while true {
      let byte = try next()
      if byte == UInt8(ascii: ";") { break }
      name.append(byte)
      guard name.count <= 10 else { throw .corrupt("the property list holds an entity that does not end") }
    }
    let text = String(decoding: name, as: UTF8.self)
    switch text {
    case "lt": return "<"
    case "gt": return ">"
    case "amp": return "&"
    case "quot": return "\""
    case "apos": return "'"
    default: break
    }
    let code: UInt32? =
      if text.hasPrefix("#x") {
        UInt32(text.dropFirst(2), radix: 16)
      } else if text.hasPrefix("#") { UInt32(text.dropFirst(), radix: 10) } else { nil }
    guard let code, let scalar = Unicode.Scalar(code) else {
      throw .unsupported("the property list uses the entity &\(printable(text)); which XML itself does not define")
    }
    return Character(scalar)
  }

  private func printable(_ text: String) -> String { text.printable(limit: 40) }
}

// What the elements mean.
extension PropertyListParser {
  private mutating func open(_ tag: Tag) throws(ImageError) {
    switch tag.name {
    case "plist", "dict", "array":
      guard containers.count < Self.maximumDepth else {
        throw .corrupt("the property list is nested more than \(Self.maximumDepth) deep")
      }
      let role = try role(ofContainer: tag.name)
      containers.append(Container(element: tag.name, role: role))
      if role == .table {
        table = BlockTableResource(name: "", bytes: [])
        hasData = false
        hasFullName = false
      }
      if tag.isEmpty { _ = try close(tag.name) { _ throws(ImageError) in } }
    case "key":
      guard let last = containers.indices.last, containers[last].isDictionary, containers[last].key == nil else {
        throw .corrupt("the property list holds a <key> where none belongs")
      }
      var text = LeafText(.text)
      if !tag.isEmpty { try readText(of: "key", into: &text) }
      containers[last].key = String(decoding: text.bytes, as: UTF8.self)
    case "string", "data", "integer", "real", "date", "true", "false":
      try readValue(tag)
    default:
      throw .corrupt("the property list holds an element <\(printable(tag.name))>")
    }
  }

  /// What a container that opens here means; takes the key that waits for it.
  private mutating func role(ofContainer element: String) throws(ImageError) -> Role {
    guard let parent = containers.last else {
      guard !hasTop else { throw .corrupt("the property list has more than one root") }
      if element == "plist" { return .document }
      hasTop = true
      return element == "dict" ? .top : .other
    }
    guard element != "plist" else { throw .corrupt("the property list holds another <plist>") }
    let key = try takeKey()
    switch (parent.role, key, element) {
    case (.document, _, "dict") where !hasTop:
      hasTop = true
      return .top
    case (.document, _, _) where hasTop: throw .corrupt("the property list has more than one root")
    case (.top, "resource-fork", "dict"):
      guard !hasResourceFork else { throw .corrupt("the property list names \"resource-fork\" twice") }
      hasResourceFork = true
      return .resourceFork
    case (.resourceFork, "blkx", "array"):
      guard !hasTables else { throw .corrupt("the property list names \"blkx\" twice") }
      hasTables = true
      return .tables
    case (.tables, _, "dict"): return .table
    default: return .other
    }
  }

  /// In a dictionary a value follows its key; elsewhere there is none.
  private mutating func takeKey() throws(ImageError) -> String? {
    guard let last = containers.indices.last, containers[last].isDictionary else { return nil }
    guard let key = containers[last].key else { throw .corrupt("the property list holds a value without its <key>") }
    containers[last].key = nil
    return key
  }

  private mutating func readValue(_ tag: Tag) throws(ImageError) {
    guard let parent = containers.last else { throw .corrupt("the property list has no root dictionary") }
    if parent.role == .document { hasTop = true }
    let key = try takeKey()
    let mode: LeafText.Mode =
      switch (parent.role, key, tag.name) {
      case (.table, "Data", "data"): .base64
      case (.table, "Name", "string"), (.table, "CFName", "string"): .text
      default: .ignored
      }
    var text = LeafText(mode)
    if !tag.isEmpty { try readText(of: tag.name, into: &text) }
    guard mode != .ignored else { return }
    switch key {
    case "Data":
      guard !hasData else { throw .corrupt("a block table of the property list has its \"Data\" twice") }
      hasData = true
      table.bytes = text.bytes
    case "CFName":
      hasFullName = true
      table.name = String(decoding: text.bytes, as: UTF8.self)
    default:
      if !hasFullName { table.name = String(decoding: text.bytes, as: UTF8.self) }
    }
  }

  /// - Returns: false when the document is complete.
  private mutating func close(_ element: String, _ body: (BlockTableResource) throws(ImageError) -> Void)
    throws(ImageError) -> Bool
  {
    guard let container = containers.popLast() else {
      throw .corrupt("the property list closes </\(printable(element))> before it opens")
    }
    guard container.element == element else {
      throw .corrupt("<\(container.element)> is closed by </\(printable(element))>")
    }
    guard container.key == nil else { throw .corrupt("the property list holds a <key> without its value") }
    if container.role == .table {
      guard hasData else { throw .corrupt("a block table of the property list has no \"Data\"") }
      try body(table)
      table.bytes = []
    }
    return !containers.isEmpty
  }
}

extension String {
  /// The text for people: at most `limit` characters, none that could drive a terminal.
  func printable(limit: Int = 200) -> String {
    var text = ""
    for scalar in unicodeScalars.prefix(limit) {
      switch scalar.value {
      case 0..<0x20, 0x7F...0x9F: text += "\\x" + String(scalar.value, radix: 16)
      default: text.unicodeScalars.append(scalar)
      }
    }
    return text
  }
}
