import PlatterCore
import SystemPackage

/// The secrets that `--object` defines. Never printed, not even in an error.
package struct SecretTable: Sendable {
  /// Ours: no passphrase or key file is longer.
  package static let maximumByteCount = 1 << 20

  private var secrets: [String: [UInt8]] = [:]

  package init() {}

  /// - Parameter objects: the values of `--object`, as option lists or JSON.
  package init(objects: [String]) throws(Failure) {
    for object in objects { try add(object) }
  }

  package subscript(id: String) -> [UInt8]? { secrets[id] }

  private mutating func add(_ object: String) throws(Failure) {
    var options: [String: String]
    if object.hasPrefix("{") {
      options = try JSONValue.parse(object).flattened()
    } else {
      var pairs = OptionString.parse(object)
      guard let first = pairs.first else { throw Failure("Parameter 'qom-type' is missing") }
      if first.value == nil { pairs[0] = OptionString.Pair("qom-type", first.key) }
      options = [:]
      for pair in pairs { options[pair.key] = pair.value ?? "on" }
    }
    guard let type = options.removeValue(forKey: "qom-type") else { throw Failure("Parameter 'qom-type' is missing") }
    guard type == "secret" else { throw Failure("Parameter 'qom-type' does not accept value '\(type)'") }
    guard let id = options.removeValue(forKey: "id") else { throw Failure("Parameter 'id' is missing") }
    guard secrets[id] == nil else {
      throw Failure("attempt to add duplicate property '\(id)' to object (type 'container')")
    }
    for key in options.keys.sorted() where !["data", "file", "format"].contains(key) {
      throw Failure(
        ["keyid", "iv"].contains(key)
          ? "encrypted secrets ('\(key)') are not supported" : "Invalid parameter '\(key)'")
    }
    secrets[id] = try bytes(options)
  }

  private func bytes(_ options: [String: String]) throws(Failure) -> [UInt8] {
    let content: [UInt8]
    switch (options["data"], options["file"]) {
    case (.some, .some): throw Failure("'file' and 'data' are mutually exclusive")
    case (nil, nil): throw Failure("Either 'file' or 'data' must be provided")
    case (let data?, nil): content = Array(data.utf8)
    case (nil, let file?): content = try Self.read(file: file)
    }
    switch options["format"] ?? "raw" {
    case "raw": return content
    case "base64":
      guard let decoded = Base64.decode(content) else { throw Failure("Base64 data contains invalid characters") }
      return decoded
    case let other: throw Failure("Parameter 'format' does not accept value '\(other)'")
    }
  }

  /// All bytes of a small file.
  package static func read(file: String) throws(Failure) -> [UInt8] {
    do throws(ImageError) {
      let store = try FileStore(FilePath(file))
      let bytes = try store.readPrefix(count: maximumByteCount + 1)
      guard bytes.count <= maximumByteCount else { throw ImageError.invalidArgument("is longer than 1 MiB") }
      return bytes
    } catch {
      let reason = error.errno?.description ?? error.message
      throw Failure("Unable to read \(file): Failed to open file “\(file)”: \(reason)")
    }
  }
}

/// RFC 4648 base 64; line ends are skipped.
package enum Base64 {
  /// Nil for a character outside the alphabet or a wrong length.
  package static func decode(_ text: [UInt8]) -> [UInt8]? {
    var result: [UInt8] = []
    var bits: UInt32 = 0
    var count = 0
    var padding = 0
    for byte in text where byte != 0x0a && byte != 0x0d {
      if byte == UInt8(ascii: "=") {
        padding += 1
        continue
      }
      guard padding == 0, let digit = digit(byte) else { return nil }
      bits = bits << 6 | digit
      count += 1
      if count % 4 == 0 { result += [UInt8(bits >> 16 & 0xff), UInt8(bits >> 8 & 0xff), UInt8(bits & 0xff)] }
    }
    guard padding <= 2, (count + padding) % 4 == 0 else { return nil }
    switch count % 4 {
    case 2: result.append(UInt8(bits >> 4 & 0xff))
    case 3: result += [UInt8(bits >> 10 & 0xff), UInt8(bits >> 2 & 0xff)]
    default: break
    }
    return result
  }

  private static func digit(_ byte: UInt8) -> UInt32? {
    switch byte {
    case UInt8(ascii: "A")...UInt8(ascii: "Z"): UInt32(byte - UInt8(ascii: "A"))
    case UInt8(ascii: "a")...UInt8(ascii: "z"): UInt32(byte - UInt8(ascii: "a")) + 26
    case UInt8(ascii: "0")...UInt8(ascii: "9"): UInt32(byte - UInt8(ascii: "0")) + 52
    case UInt8(ascii: "+"): 62
    case UInt8(ascii: "/"): 63
    default: nil
    }
  }
}
