import PlatterCore

/// Options of QEMU's qcow2 driver for caches and checks of its own. They change nothing here, but a wrong value is refused
/// in the same words. [observed: qemu-io 7.2]
struct RunTimeOptions {
  private static let flags = [
    "lazy-refcounts", "pass-discard-request", "pass-discard-snapshot", "pass-discard-other",
  ]
  private static let overlapFlags = [
    "main-header", "active-l1", "active-l2", "refcount-table", "refcount-block", "snapshot-table", "inactive-l1",
    "inactive-l2", "bitmap-directory",
  ]
  private static let overlapTemplates = ["none", "constant", "cached", "all"]
  private static let sizes = ["cache-size", "l2-cache-size", "l2-cache-entry-size", "refcount-cache-size"]

  private let node: [String: String]
  private let byteCount: UInt64
  private let clusterByteCount: UInt64

  init(_ node: [String: String], byteCount: UInt64, clusterByteCount: UInt64) {
    self.node = node
    self.byteCount = byteCount
    self.clusterByteCount = clusterByteCount
  }

  /// What is wrong with them, or nil.
  var complaint: String? {
    for name in Self.flags + Self.overlapFlags.map({ "overlap-check." + $0 }) {
      guard let value = node[name], value != "on", value != "off" else { continue }
      return "Parameter '\(name)' expects 'on' or 'off'"
    }
    var values: [String: UInt64] = [:]
    for name in Self.sizes {
      guard let text = node[name] else { continue }
      do throws(SizeText.Problem) {
        values[name] = try SizeText.parse(text)
      } catch {
        // Sizes from 2^63 on are beyond every limit that follows, whatever they are.
        guard error == .malformed else {
          values[name] = .max
          continue
        }
        return """
          Parameter '\(name)' expects a non-negative number below 2^64
          Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-
          and exabytes, respectively.
          """
      }
    }
    return sizeComplaint(values) ?? intervalComplaint ?? overlapComplaint
  }

  private func sizeComplaint(_ values: [String: UInt64]) -> String? {
    let tables = values["l2-cache-size"]
    let refcounts = values["refcount-cache-size"]
    if let all = values["cache-size"] {
      if tables != nil, refcounts != nil {
        return "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time"
      }
      if tables ?? 0 > all { return "l2-cache-size may not exceed cache-size" }
      if refcounts ?? 0 > all { return "refcount-cache-size may not exceed cache-size" }
    }
    let entry = values["l2-cache-entry-size"] ?? clusterByteCount
    guard entry >= 512, entry <= clusterByteCount, entry & (entry - 1) == 0 else {
      return "L2 cache entry size must be a power of two between 512 and the cluster size (\(clusterByteCount))"
    }
    // No more is cached than the tables of the disk have.
    let needed = byteCount.dividedRoundingUp(by: clusterByteCount).multiplied(by: 8)
    if let tables, min(tables, needed ?? .max) / entry > UInt64(Int32.max) { return "L2 cache size too big" }
    if let refcounts, refcounts / clusterByteCount > UInt64(Int32.max) { return "Refcount cache size too big" }
    return nil
  }

  private var intervalComplaint: String? {
    guard let text = node["cache-clean-interval"] else { return nil }
    guard let seconds = Int64(text).map({ UInt64(bitPattern: $0) }) ?? UInt64(text) else {
      return "Parameter 'cache-clean-interval' expects a number"
    }
    return seconds > UInt64(UInt32.max) ? "Cache clean interval too big" : nil
  }

  private var overlapComplaint: String? {
    let plain = node["overlap-check"]
    let template = node["overlap-check.template"]
    if let plain, let template, plain != template {
      return
        "Conflicting values for qcow2 options 'overlap-check' ('\(plain)') and 'overlap-check.template' ('\(template)')"
    }
    guard let value = plain ?? template, !Self.overlapTemplates.contains(value) else { return nil }
    return "Unsupported value '\(value)' for qcow2 option 'overlap-check'. Allowed are any of the following: "
      + Self.overlapTemplates.joined(separator: ", ")
  }
}
