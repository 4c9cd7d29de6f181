import Platter
import PlatterCore
import PlatterQCOW2
import Synchronization
import SystemPackage
package import TestSupport

/// A way to create a qcow2 image, and what it lies over.
package struct ProofRow: Sendable, Hashable, CustomStringConvertible {
  /// "name=value" for each option of `create`, and "backing=format".
  package var words: [String]

  package init(words: [String]) { self.words = words }

  package func value(_ name: String) -> String {
    words.first { $0.hasPrefix(name + "=") }.map { String($0.dropFirst(name.utf8.count + 1)) } ?? ""
  }

  package var description: String { words.joined(separator: " ") }
  package var cluster: UInt64 { UInt64(value("cluster_size")) ?? 65536 }
  package var isExtended: Bool { value("extended_l2") == "on" }
  package var mapUnit: UInt64 { isExtended ? cluster / 32 : cluster }
  package var encryption: String { value("encrypt.format") }
  package var isEncrypted: Bool { encryption != "off" }
  package var hasDataFile: Bool { value("data_file") != "off" }
  /// Guest bytes that one L2 table stands for.
  package var tableCoverage: UInt64 { cluster / (isExtended ? 16 : 8) * cluster }
  package var backing: String? { value("backing") == "none" ? nil : value("backing") }

  /// A few dozen clusters, fewer of the large ones, and the last one cut.
  package var byteCount: UInt64 {
    let count: UInt64 =
      switch cluster {
      case ...1024: 90
      case ...8192: 30
      case ...65536: 7
      default: 3
      }
    return count * cluster - (cluster > 512 ? cluster / 2 : 0)
  }

  // MARK: All

  /// Any two values of two options that can stand together do so in one of them.
  package static let all: [ProofRow] = PairwiseChoice.all(
    [
      ["compat=0.10", "compat=1.1"],
      (9...21).map { "cluster_size=\(1 << $0)" },
      (0...6).map { "refcount_bits=\(1 << $0)" },
      ["lazy_refcounts=off", "lazy_refcounts=on"],
      ["extended_l2=off", "extended_l2=on"],
      ["data_file=off", "data_file=plain", "data_file=raw"],
      ["compression_type=zlib", "compression_type=zstd"],
      ["encrypt.format=off", "encrypt.format=aes", "encrypt.format=luks"],
      ["preallocation=off", "preallocation=metadata", "preallocation=falloc", "preallocation=full"],
      ["backing=none"] + BaseImage.formats.map { "backing=\($0)" },
    ], isPossible: isPossible
  ).map { ProofRow(words: $0) }

  private static func isPossible(_ words: Set<String>) -> Bool {
    func has(_ name: String, not value: String) -> Bool { words.contains { $0.hasPrefix(name) && $0 != name + value } }
    if words.contains("compat=0.10") {
      if has("refcount_bits=", not: "16") || has("lazy_refcounts=", not: "off") || has("extended_l2=", not: "off")
        || has("data_file=", not: "off") || has("compression_type=", not: "zlib")
      {
        return false
      }
    }
    let isSmall = (9...13).contains { words.contains("cluster_size=\(1 << $0)") }
    if words.contains("extended_l2=on"), isSmall { return false }
    let hasBacking = has("backing=", not: "none")
    if words.contains("data_file=raw"), hasBacking { return false }
    if hasBacking, has("preallocation=", not: "off"), !words.contains("extended_l2=on"),
      words.contains("extended_l2=off") || isSmall || words.contains("compat=0.10")
    {
      return false
    }
    return true
  }

  // MARK: Making

  package static let secret: @Sendable () -> [UInt8] = { Array("secret".utf8) }
  private static let made = Mutex<[ProofRow: (top: PagedBytes, data: PagedBytes?)]>([:])

  /// The image as `create` makes it, and its data file. Made once: key derivation is measured when a LUKS volume is made.
  package func create() throws -> (top: PagedBytes, data: PagedBytes?) {
    if let made = Self.made.withLock({ $0[self] }) { return made }
    var options: [String: String] = [:]
    for word in words {
      let parts = word.split(separator: "=", maxSplits: 1).map(String.init)
      switch (parts[0], parts[1]) {
      case ("data_file", "off"), ("encrypt.format", "off"), ("backing", "none"): continue
      case ("data_file", let kind):
        options["data_file"] = "data"
        if kind == "raw" { options["data_file_raw"] = "on" }
      case ("backing", let format):
        options["backing_file"] = "below"
        options["backing_fmt"] = format
      case ("encrypt.format", let format):
        options["encrypt.format"] = format
        options["encrypt.key-secret"] = "s"
        if format == "luks" { options["encrypt.iter-time"] = "1" }
      default: options[parts[0]] = parts[1]
      }
    }
    var request = CreationRequest(byteCount: byteCount, options: options, path: "top.qcow2")
    request.secret = { _ in Self.secret() }
    let data = PagedStore(name: "data")
    request.makeFile = { _ in data }
    let top = PagedStore(name: "top.qcow2")
    try QCOW2.create(in: top, request)
    let result = (top: top.bytes, data: hasDataFile ? data.bytes : nil)
    Self.made.withLock { $0[self] = result }
    return result
  }
}
