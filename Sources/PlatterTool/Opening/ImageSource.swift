import PlatterCore
package import SystemPackage

/// An image as the command line names it: a path, `file:` and a path, `json:{…}`, or a list of driver options.
package struct ImageSource: Sendable {
  package enum Place: Sendable, Equatable {
    case path(FilePath)
    case node([String: String])
  }

  package let place: Place
  /// As the user wrote it, for errors.
  package let written: String
  /// The bytes of the file's name for people; nil where the image is more than a file.
  package let fileNameBytes: [UInt8]

  /// - Parameter isOptionList: `--image-opts` was given.
  package init(_ argument: Argument, isOptionList: Bool) throws(Failure) {
    written = argument.text
    if isOptionList {
      place = .node(try Self.node(fromOptions: argument.text))
    } else if argument.text.hasPrefix("json:") {
      place = .node(try Self.node(fromJSON: argument.text))
    } else if let node = Self.filterNode(argument.text) {
      place = .node(node)
    } else {
      place = .path(try Self.path(argument))
    }
    switch place {
    case .path: fileNameBytes = Self.withoutFilePrefix(argument.bytes)
    case .node(let node): fileNameBytes = Array(NodeText.name(node).utf8)
    }
  }

  package var fileName: String { String(decoding: fileNameBytes, as: UTF8.self) }

  /// The format, where the source names one.
  package var driver: String? {
    if case .node(let node) = place { node["driver"] } else { nil }
  }

  /// The file, where the source names one.
  package var path: FilePath? {
    switch place {
    case .path(let path): path
    case .node(let node): (node["file.filename"] ?? node["filename"] ?? node["x-image"]).map { FilePath($0) }
    }
  }

  /// `blkdebug:CONFIG:FILE`, the old way to put QEMU's test filter before a file.
  private static func filterNode(_ text: String) -> [String: String]? {
    guard text.hasPrefix("blkdebug:") else { return nil }
    let rest = text.dropFirst("blkdebug:".count)
    guard let end = rest.firstIndex(of: ":") else { return nil }
    var node = ["x-image": String(rest[rest.index(after: end)...])]
    if end > rest.startIndex { node["file.config"] = String(rest[..<end]) }
    return node
  }

  private static func path(_ argument: Argument) throws(Failure) -> FilePath {
    let bytes = withoutFilePrefix(argument.bytes)
    let written = argument.text
    guard !bytes.isEmpty else {
      throw Failure("Could not open '\(written)': The 'file' block driver requires a file name")
    }
    if bytes.count == argument.bytes.count, let scheme = protocolName(bytes) {
      throw networkProtocols.contains(scheme)
        ? Failure("Could not open '\(written)': the protocol '\(scheme)' is not supported")
        : Failure("Could not open '\(written)': Unknown protocol '\(scheme)'")
    }
    guard let path = FilePath(bytes: bytes) else { throw Failure("Could not open '\(written)': not a file name") }
    return path
  }

  private static let networkProtocols: Set<String> = [
    "nbd", "nbd+tcp", "nbd+unix", "nbds", "http", "https", "ftp", "ftps", "ssh", "rbd", "iscsi", "nfs", "gluster",
    "fat", "blkdebug", "blkverify", "null-co", "null-aio", "nvme", "host_device", "host_cdrom", "quorum",
  ]

  /// A file's name as the system takes it.
  static func withoutFilePrefix(_ bytes: [UInt8]) -> [UInt8] {
    guard bytes.starts(with: "file:".utf8) else { return bytes }
    let rest = Array(bytes.dropFirst(5))
    // What is left must not look like another protocol.
    return protocolName(rest) == nil ? rest : Array("./".utf8) + rest
  }

  /// What stands before a colon that comes before any slash.
  private static func protocolName(_ bytes: [UInt8]) -> String? {
    guard let end = bytes.firstIndex(where: { $0 == UInt8(ascii: ":") || $0 == UInt8(ascii: "/") }),
      bytes[end] == UInt8(ascii: ":")
    else { return nil }
    return String(decoding: bytes[..<end], as: UTF8.self)
  }

  private static func node(fromJSON text: String) throws(Failure) -> [String: String] {
    do throws(Failure) {
      return try checked(try JSONValue.parse(String(text.dropFirst(5))).flattened(), text)
    } catch {
      guard !error.sentences[0].hasPrefix("Could not open") else { throw error }
      throw Failure("Could not open '\(text)': Could not parse the JSON options: \(error.sentences[0])")
    }
  }

  private static func node(fromOptions text: String) throws(Failure) -> [String: String] {
    let pairs = OptionString.parse(text)
    if let first = pairs.first, first.value == nil {
      throw Failure("Could not open '\(text)': Cannot find device='\(first.key)' nor node-name='\(first.key)'")
    }
    return try checked(OptionString.dictionary(text), text)
  }

  private static func checked(_ node: [String: String], _ text: String) throws(Failure) -> [String: String] {
    guard node["driver"] != nil || node.keys.contains(where: { $0 == "file" || $0.hasPrefix("file.") }) else {
      throw Failure("Could not open '\(text)': Must specify either driver or file")
    }
    return node
  }
}

/// Driver options as a name: the file's where that says it all, else `json:{…}`.
package enum NodeText {
  /// Options that make the image another one than its file alone would be.
  private static func isTelling(_ key: String) -> Bool {
    ["offset", "size", "key-secret", "backing"].contains(key) || key.hasPrefix("encrypt.") || key.hasPrefix("backing.")
  }

  package static func name(_ node: [String: String]) -> String {
    let file = node["file.filename"] ?? node["filename"] ?? node["x-image"] ?? ""
    let telling = node.filter { isTelling($0.key) }
    guard !telling.isEmpty else { return file }
    var members: [(String, String)] = telling.map { ($0.key, JSONWriter.quoted($0.value)) }
    if let driver = node["driver"] { members.append(("driver", JSONWriter.quoted(driver))) }
    members.append(("file", object([("driver", "\"file\""), ("filename", JSONWriter.quoted(file))])))
    return "json:" + object(members)
  }

  private static func object(_ members: [(String, String)]) -> String {
    let sorted = members.sorted { QEMUOrder.key($0.0) < QEMUOrder.key($1.0) }
    return "{" + sorted.map { "\(JSONWriter.quoted($0.0)): \($0.1)" }.joined(separator: ", ") + "}"
  }
}

/// The order in which QEMU's programs print the members of an object: by a hash of their names (observed: qemu-img 7.2).
package enum QEMUOrder {
  private static let bucketCount: UInt32 = 512

  /// Where a member stands.
  package static func key(_ name: String) -> UInt32 {
    var value = 0x238f_13af &* UInt32(truncatingIfNeeded: name.utf8.count)
    for (index, byte) in name.utf8.enumerated() { value &+= UInt32(byte) << UInt32(index * 5 % 24) }
    return (value &* 1_103_515_243 &+ 12345) % bucketCount
  }
}
