import PlatterCore
import SystemPackage

/// An image described by driver options with dotted names, as `--image-opts` and `json:` give them.
struct NodeName {
  var path: FilePath
  var format: String?
  /// What is left for the format's driver.
  var options: [String: String]
  /// The caller said that there is no backing image.
  var isWithoutBacking = false
  /// Why the image may not be written, in QEMU's words; nil where it may.
  private let refusalToWrite: String?
  /// What the caller says of the backing image, in the same form; empty where the image's own word counts.
  var backing: [String: String] = [:]

  /// Options that say how to treat the image rather than what it is; accepted and of no effect on reading. Those that
  /// forbid writing do.
  private static let neutral: Set<String> = [
    "read-only", "auto-read-only", "force-share", "node-name", "discard", "detect-zeroes", "cache.direct",
    "cache.no-flush", "cache.writeback", "file.driver", "file.aio", "file.locking", "file.read-only",
    "file.auto-read-only", "file.node-name", "file.discard", "file.cache.direct", "file.cache.no-flush", "aio",
    "locking",
    "file.detect-zeroes", "lazy-refcounts", "pass-discard-request", "pass-discard-snapshot", "pass-discard-other",
    "overlap-check", "cache-size", "l2-cache-size", "refcount-cache-size", "cache-clean-interval",
    "l2-cache-entry-size",
  ]
  private static let neutralPrefixes = ["overlap-check."]
  /// Options that a format's driver takes.
  private static let forDrivers: Set<String> = [
    "encrypt.key-secret", "encrypt.format", "key-secret", "offset", "size", "data-file.filename", "data-file.driver",
    "data-file.file.filename", "data-file.file.driver",
  ]

  /// - Throws: `.invalidArgument` for an option that nobody knows or a node without a file.
  init(_ node: [String: String]) throws(ImageError) {
    var rest = try Self.unwrapped(node)
    let isReadOnly = ["read-only", "file.read-only"].contains { rest[$0] == "on" }
    refusalToWrite =
      isReadOnly
      ? "Block node is read-only"
      : rest["force-share"] == "on" ? "force-share=on can only be used with read-only images" : nil
    format = rest.removeValue(forKey: "driver")
    let name: String?
    if format == "file" || format == "host_device" {
      name = rest.removeValue(forKey: "filename")
      format = "raw"
    } else {
      name = rest.removeValue(forKey: "file.filename") ?? rest.removeValue(forKey: "filename")
    }
    guard let name, !name.isEmpty else {
      if let reference = rest["file"] {
        throw ImageError.invalidArgument("Cannot find device='' nor node-name='\(reference)'")
      }
      throw ImageError.invalidArgument("A block device must be specified for \"file\"")
    }
    if let driver = rest["file.driver"], driver != "file", driver != "host_device" {
      throw ImageError.unsupported("the protocol driver '\(driver)' is not supported")
    }
    path = FilePath(name)
    if let backing = rest.removeValue(forKey: "backing") {
      guard backing.isEmpty else {
        throw ImageError.unsupported("a backing node named by reference ('\(backing)') is not supported")
      }
      isWithoutBacking = true
    }
    options = [:]
    for (key, value) in rest {
      if key.hasPrefix("backing.") {
        backing[String(key.dropFirst("backing.".count))] = value
        continue
      }
      if Self.forDrivers.contains(key) {
        options[key] = value
      } else if !Self.neutral.contains(key), !Self.neutralPrefixes.contains(where: key.hasPrefix) {
        throw ImageError.invalidArgument("Block format '\(format ?? "raw")' does not support the option '\(key)'")
      }
    }
  }

  /// - Throws: `.invalidArgument` where the options say that the image is only to be read.
  func checkWritable() throws(ImageError) {
    if let refusalToWrite { throw .invalidArgument(refusalToWrite) }
  }

  // MARK: blkdebug

  /// Limits that QEMU's test filter puts on requests. Requests here have none, so there is nothing to limit.
  private static let requestLimits: Set<String> = [
    "align", "max-transfer", "opt-write-zero", "max-write-zero", "opt-discard", "max-discard",
  ]

  /// The same image without the filters that are between it and its files.
  private static func unwrapped(_ node: [String: String]) throws(ImageError) -> [String: String] {
    var node = node
    if node["driver"] == "compress" { node = try withoutFilter(node, prefix: "", child: "file.") }
    let image = node.removeValue(forKey: "x-image")
    if node["driver"] == "blkdebug" {
      node = try withoutFilter(node, prefix: "")
      if let image { node["file.filename"] = image }
    } else if let image {
      node["file.driver"] = "blkdebug"
      node["file.image.filename"] = image
    }
    for prefix in ["file.", "data-file.", "data-file.file."] where node[prefix + "driver"] == "blkdebug" {
      node = try withoutFilter(node, prefix: prefix)
    }
    return node
  }

  /// Options of the filter go; those of its child take the place of its own.
  private static func withoutFilter(_ node: [String: String], prefix: String, child: String = "image.")
    throws(ImageError) -> [String: String]
  {
    var result: [String: String] = [:]
    for (key, value) in node {
      guard key.hasPrefix(prefix) else {
        result[key] = value
        continue
      }
      let name = key.dropFirst(prefix.count)
      if name == "driver" || requestLimits.contains(String(name)) { continue }
      guard name != "config" || value.isEmpty, !name.hasPrefix("inject-error"), !name.hasPrefix("set-state") else {
        throw ImageError.unsupported("faults by a 'blkdebug' node are supported in qemu-io only, above the format")
      }
      if name == "config" { continue }
      result[prefix + (name.hasPrefix(child) ? String(name.dropFirst(child.count)) : String(name))] = value
    }
    return result
  }
}
