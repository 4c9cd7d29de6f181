package import PlatterCore

/// The text that says what a disk consists of. Names and values are kept as the bytes that they are.
package struct Descriptor: Sendable, Equatable {
  static let maximumByteCount = 1 << 20  // ours; QEMU reads as much
  static let maximumExtentCount = 4096  // ours
  static let maximumNameByteCount = 4095  // the system's

  /// No parent.
  package static let noContentID: UInt32 = 0xffff_ffff
  /// The long content id is to be compared instead.
  package static let longContentID: UInt32 = 0xffff_fffe

  /// Keys of the disk data base, without "ddb.", in the order of the file.
  package struct DatabaseEntry: Sendable, Equatable {
    package var name: String
    package var value: String
  }

  package var encoding = "UTF-8"
  /// Changes with the disk's content.
  package var contentID = noContentID
  /// What the parent's content id was when the child was made.
  package var parentContentID = noContentID
  package var createType = ""
  package var parentHint: [UInt8]?
  package var changeTrackPath: [UInt8]?
  package var extents: [ExtentLine] = []
  package var database: [DatabaseEntry] = []

  /// Of a disk whose extent has none.
  package init() {}

  /// Whether a file's head is that of a descriptor: its first line that says something is the title or the version.
  static func isLikely(_ head: RawSpan) -> Bool {
    for line in Lines(head.array()) {
      let text = line.trimmed
      if text.isEmpty { continue }
      if text.lowercased == Array("# disk descriptorfile".utf8) { return true }
      if text.first == UInt8(ascii: "#") { continue }
      guard let (key, value) = keyAndValue(text) else { return false }
      return key == "version" && !value.isEmpty && value.allSatisfy(\.isDigit)
    }
    return false
  }

  /// Reads the text.
  ///
  /// Lines that mean nothing are skipped; a line that starts as an extent must be one.
  package init(parsing bytes: [UInt8]) throws(ImageError) {
    guard bytes.count <= Self.maximumByteCount else {
      throw .corrupt("the descriptor has \(bytes.count) bytes, more than \(Self.maximumByteCount)")
    }
    var number = 0
    for line in Lines(bytes) {
      number += 1
      let text = line.trimmed
      guard let first = text.first, first != UInt8(ascii: "#") else { continue }
      if let extent = try ExtentLine(parsing: text, line: number) {
        guard extents.count < Self.maximumExtentCount else {
          throw .unsupported("the descriptor lists more than \(Self.maximumExtentCount) extents")
        }
        extents.append(extent)
      } else if let (key, value) = Self.keyAndValue(text) {
        try set(key, value)
      }
    }
  }

  private mutating func set(_ key: String, _ value: [UInt8]) throws(ImageError) {
    switch key {
    case "encoding": encoding = String(decoding: value, as: UTF8.self)
    case "cid": contentID = try Self.contentID("CID", value)
    case "parentcid": parentContentID = try Self.contentID("parentCID", value)
    case "createtype": createType = String(decoding: value, as: UTF8.self)
    case "parentfilenamehint": parentHint = value
    case "changetrackpath": changeTrackPath = value
    default:
      guard key.hasPrefix("ddb.") else { return }
      database.append(
        DatabaseEntry(name: String(key.dropFirst(4)), value: String(decoding: value, as: UTF8.self)))
    }
  }

  /// Up to eight hexadecimal digits; writers leave out leading zeros.
  private static func contentID(_ key: String, _ value: [UInt8]) throws(ImageError) -> UInt32 {
    let digits = String(decoding: value, as: UTF8.self)
    guard value.count <= 8, let number = UInt32(digits, radix: 16), value.first != UInt8(ascii: "+") else {
      throw .corrupt("the descriptor's \(key) is \"\(digits.shown)\", not up to eight hexadecimal digits")
    }
    return number
  }

  /// A value of the data base.
  package func databaseValue(_ name: String) -> String? {
    database.first { $0.name.lowercased() == name.lowercased() }?.value
  }

  /// The key, in lower case but for the data base's, and the value without its quotes.
  static func keyAndValue(_ line: ArraySlice<UInt8>) -> (String, [UInt8])? {
    guard let equals = line.firstIndex(of: UInt8(ascii: "=")) else { return nil }
    let name = String(decoding: line[..<equals].trimmed, as: UTF8.self)
    guard !name.isEmpty else { return nil }
    let lower = name.lowercased()
    var value = line[(equals + 1)...].trimmed
    if value.first == UInt8(ascii: "\"") {
      value = value.dropFirst()
      value = value[..<(value.firstIndex(of: UInt8(ascii: "\"")) ?? value.endIndex)]
    }
    return (lower.hasPrefix("ddb.") ? "ddb." + name.dropFirst(4) : lower, Array(value))
  }
}

/// One line of the descriptor that stands for a run of the disk.
package struct ExtentLine: Sendable, Equatable {
  package enum Access: String, Sendable {
    case readWrite = "RW"
    case readOnly = "RDONLY"
    case none = "NOACCESS"
  }

  package enum Kind: String, Sendable {
    case flat = "FLAT"
    case vmfs = "VMFS"
    case sparse = "SPARSE"
    case vmfsSparse = "VMFSSPARSE"
    case seSparse = "SESPARSE"
    case zero = "ZERO"
    case vmfsRDM = "VMFSRDM"
    case vmfsRaw = "VMFSRAW"
  }

  /// Longest disk: file offsets are signed.
  static let maximumSectorCount: UInt64 = (1 << 63) / 512 - 1

  package var access: Access
  /// Sectors of the disk that the extent stands for.
  package var sectorCount: UInt64
  package var kind: Kind
  /// The file's name as it is written.
  package var name: [UInt8]?
  /// FLAT: sector of the file at which the extent starts.
  package var offset: UInt64 = 0

  /// The extent of a line, or nil where the line does not start as one.
  init?(parsing line: ArraySlice<UInt8>, line number: Int) throws(ImageError) {
    var words = Words(line)
    guard let first = words.next(), let access = Access(rawValue: first.upper) else { return nil }
    func bad(_ reason: String) -> ImageError {
      .corrupt("line \(number) of the descriptor is no extent: \(reason)")
    }
    guard let count = words.next() else { throw bad("no number of sectors") }
    // "RW = 1" would be a key of that name.
    if count.first == UInt8(ascii: "=") { return nil }
    guard let sectors = count.number, sectors <= Self.maximumSectorCount else {
      throw bad("\"\(count.text.shown)\" is no number of sectors")
    }
    guard let type = words.next() else { throw bad("no type") }
    guard let kind = Kind(rawValue: type.upper) else {
      throw .unsupported("line \(number) of the descriptor has the unknown extent type \"\(type.text.shown)\"")
    }
    self.access = access
    sectorCount = sectors
    self.kind = kind
    guard kind != .zero else { return }
    guard let name = words.nextQuoted(), !name.isEmpty else { throw bad("no file name in quotes") }
    guard name.count <= Descriptor.maximumNameByteCount else { throw bad("a file name of \(name.count) bytes") }
    self.name = Array(name)
    guard let offset = words.next() else {
      guard kind != .flat else { throw bad("a flat extent without an offset") }
      return
    }
    guard let sector = offset.number, sector <= Self.maximumSectorCount else {
      throw bad("\"\(offset.text.shown)\" is no offset in sectors")
    }
    self.offset = sector
  }
}

/// The lines of a text, by "\n", "\r\n" or "\r", up to its first zero byte; a byte order mark is skipped.
struct Lines: Sequence, IteratorProtocol {
  private var rest: ArraySlice<UInt8>

  init(_ bytes: [UInt8]) {
    rest = bytes[..<(bytes.firstIndex(of: 0) ?? bytes.endIndex)]
    if rest.starts(with: [0xef, 0xbb, 0xbf]) { rest = rest.dropFirst(3) }
  }

  mutating func next() -> ArraySlice<UInt8>? {
    guard !rest.isEmpty else { return nil }
    let end = rest.firstIndex { $0 == UInt8(ascii: "\n") || $0 == UInt8(ascii: "\r") } ?? rest.endIndex
    let line = rest[..<end]
    rest = rest[end...]
    // "\r\n" gives an empty line more, which nobody minds but the line numbers.
    if rest.starts(with: [0x0d, 0x0a]) { rest = rest.dropFirst(2) } else { rest = rest.dropFirst() }
    return line
  }
}

/// The words of a line, by blanks; a word may stand in quotes.
struct Words {
  private var rest: ArraySlice<UInt8>

  init(_ line: ArraySlice<UInt8>) { rest = line }

  mutating func next() -> ArraySlice<UInt8>? {
    rest = rest.trimmed
    guard !rest.isEmpty else { return nil }
    let end = rest.firstIndex(where: \.isBlank) ?? rest.endIndex
    defer { rest = rest[end...] }
    return rest[..<end]
  }

  /// What stands between quotes; nil where the next word has none.
  mutating func nextQuoted() -> ArraySlice<UInt8>? {
    rest = rest.trimmed
    guard rest.first == UInt8(ascii: "\"") else { return nil }
    let inside = rest.dropFirst()
    guard let end = inside.firstIndex(of: UInt8(ascii: "\"")) else { return nil }
    rest = inside[(end + 1)...]
    return inside[..<end]
  }
}

extension UInt8 {
  var isBlank: Bool { self == 0x20 || self == 0x09 || self == 0x0b || self == 0x0c }
  var isDigit: Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(self) }
}

extension ArraySlice<UInt8> {
  var trimmed: ArraySlice<UInt8> {
    guard let first = firstIndex(where: { !$0.isBlank }), let last = lastIndex(where: { !$0.isBlank }) else {
      return []
    }
    return self[first...last]
  }

  var text: String { String(decoding: self, as: UTF8.self) }
  var upper: String { text.uppercased() }
  var lowercased: [UInt8] { map { (0x41...0x5a).contains($0) ? $0 + 0x20 : $0 } }

  /// A decimal number without a sign.
  var number: UInt64? { allSatisfy(\.isDigit) ? UInt64(text) : nil }
}

extension String {
  /// For an error: control characters escaped, and not without end.
  var shown: String {
    var text = ""
    for scalar in unicodeScalars.prefix(80) {
      text += scalar.value < 0x20 || (0x7f...0x9f).contains(scalar.value) ? "?" : String(Character(scalar))
    }
    return text
  }
}
