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

  /// Options that say how to treat the image rather than what it is; accepted and of no effect on reading.
  private static let neutral: Set<String> = [
    "read-only", "auto-read-only", "force-share", "node-name", "discard", "detect-zeroes", "cache.direct",
    "cache.no-flush", "cache.writeback", "file.driver", "file.aio", "file.locking", "file.read-only",
    "file.auto-read-only", "file.node-name", "file.discard", "file.cache.direct", "file.cache.no-flush", "aio",
    "locking",
    "file.detect-zeroes", "lazy-refcounts", "pass-discard-request", "pass-discard-snapshot", "pass-discard-other",
    "overlap-check", "cache-size", "l2-cache-size", "refcount-cache-size", "cache-clean-interval",
    "l2-cache-entry-size",
  ]
  /// Options that a format's driver takes.
  private static let forDrivers: Set<String> = [
    "encrypt.key-secret", "encrypt.format", "key-secret", "offset", "size", "data-file.filename", "data-file.driver",
    "data-file.file.filename", "data-file.file.driver",
  ]

  /// - Throws: `.invalidArgument` for an option that nobody knows or a node without a file.
  init(_ node: [String: String]) throws(ImageError) {
    var rest = node
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
      if Self.forDrivers.contains(key) {
        options[key] = value
      } else if !Self.neutral.contains(key) {
        throw ImageError.invalidArgument("Block format '\(format ?? "raw")' does not support the option '\(key)'")
      }
    }
  }
}
