import PlatterCore
import SystemPackage

extension RequestFilter {
  private static let maximumConfigurationByteCount = 1 << 20  // ours
  private static let faultKeys: Set<String> = ["event", "state", "iotype", "errno", "sector", "once", "immediately"]
  private static let transitionKeys: Set<String> = ["event", "state", "new_state"]

  /// The filter that the options of a "blkdebug" node describe, with its file of rules.
  convenience init(_ node: [String: String]) throws(Failure) {
    let zeroStep = try Self.zeroStep(node)
    var sections = Self.sections(node)
    if let path = node["config"], !path.isEmpty { sections += try Self.readSections(path) }
    var faults: [Fault] = []
    var transitions: [Transition] = []
    for section in sections {
      switch section.name {
      case "inject-error": faults.append(try Self.fault(section.values))
      case "set-state": transitions.append(try Self.transition(section.values))
      default: throw Failure("a 'blkdebug' node has no rules named '\(section.name)'")
      }
    }
    self.init(zeroStep: zeroStep, faults: faults, transitions: transitions)
  }

  /// The node without its rules, which nobody else has to understand.
  static func withoutRules(_ node: [String: String]) -> [String: String] {
    node.filter { $0.key != "config" && !$0.key.hasPrefix("inject-error.") && !$0.key.hasPrefix("set-state.") }
  }

  // MARK: Limits

  private static func zeroStep(_ node: [String: String]) throws(Failure) -> UInt64 {
    var limits: [String: UInt64] = [:]
    // Each limit is a multiple of what stands in its second place.
    let names: [(name: String, unit: String)] = [
      ("align", ""), ("max-transfer", "align"), ("opt-write-zero", "align"), ("max-write-zero", "opt-write-zero"),
      ("opt-discard", "align"), ("max-discard", "opt-discard"),
    ]
    for (name, unit) in names {
      guard let text = node[name] else { continue }
      do throws(ImageError) {
        limits[name] = try CreationValue.size(text, of: name)
      } catch {
        throw Failure(error.message)
      }
      let value = limits[name] ?? 0
      let step = max(limits[unit] ?? 1, limits["align"] ?? 1, 1)
      guard value < UInt64(Int32.max), name == "align" ? value.nonzeroBitCount <= 1 : value % step == 0 else {
        throw Failure("Cannot meet constraints with \(name) \(value)")
      }
    }
    return max(limits["align"] ?? 1, limits["opt-write-zero"] ?? 1)
  }

  // MARK: Rules

  private struct Section {
    var name: String
    var values: [String: String] = [:]
  }

  /// Rules among the options: "inject-error.0.event" and so on.
  private static func sections(_ node: [String: String]) -> [Section] {
    var found: [String: Section] = [:]
    for (key, value) in node {
      let parts = key.split(separator: ".", maxSplits: 2)
      guard parts.count == 3, parts[0] == "inject-error" || parts[0] == "set-state" else { continue }
      let place = "\(parts[0]).\(parts[1])"
      found[place, default: Section(name: String(parts[0]))].values[String(parts[2])] = value
    }
    return found.sorted { $0.key < $1.key }.map(\.value)
  }

  /// Rules of a file: a line `[inject-error]` or `[set-state]`, then `key = "value"`; `#` begins a comment.
  private static func readSections(_ path: String) throws(Failure) -> [Section] {
    let bytes: [UInt8]
    do throws(ImageError) {
      bytes = try FileStore(FilePath(path)).readPrefix(count: maximumConfigurationByteCount)
    } catch {
      throw Failure("Could not read blkdebug config file: \(error.systemSentence)")
    }
    var sections: [Section] = []
    for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
      let line = trimmed(line)
      if line.isEmpty || line.hasPrefix("#") { continue }
      if line.hasPrefix("["), line.hasSuffix("]") {
        sections.append(Section(name: String(line.dropFirst().dropLast())))
        continue
      }
      let pair = line.split(separator: "=", maxSplits: 1).map(trimmed)
      guard pair.count == 2, pair[1].count >= 2, pair[1].hasPrefix("\""), pair[1].hasSuffix("\""), !sections.isEmpty
      else { throw Failure("Could not parse blkdebug config file: '\(line)' is neither a section nor key = \"value\"") }
      sections[sections.count - 1].values[String(pair[0])] = String(pair[1].dropFirst().dropLast())
    }
    return sections
  }

  private static func trimmed(_ text: Substring) -> Substring {
    let start = text.drop { $0.isWhitespace }
    return start.dropLast(start.reversed().prefix { $0.isWhitespace }.count)
  }

  private static func event(_ values: [String: String], _ section: String, _ keys: Set<String>) throws(Failure)
    -> String
  {
    for key in values.keys.sorted() where !keys.contains(key) {
      throw Failure("[\(section)] section doesn't support the option '\(key)'")
    }
    guard let event = values["event"] else { throw Failure("Missing event name for rule") }
    // The other events of QEMU's happen inside its formats and its request queue.
    guard event == noEvent || event == copyOnRead else {
      throw Failure("the event '\(event)' of a 'blkdebug' node is not supported")
    }
    return event
  }

  private static func fault(_ values: [String: String]) throws(Failure) -> Fault {
    var fault = Fault(event: try event(values, "inject-error", faultKeys))
    fault.state = try number(values, "state") ?? 0
    if let code = try number(values, "errno") {
      guard let code = CInt(exactly: code), code > 0 else { throw Failure("Parameter 'errno' expects a number") }
      fault.errno = Errno(rawValue: code)
    }
    if let text = values["iotype"] {
      guard text != "block-status" else {
        throw Failure("faults of the kind 'block-status' by a 'blkdebug' node are not supported")
      }
      guard let kind = Kind(rawValue: text) else { throw Failure("invalid parameter value: \(text)") }
      fault.kind = kind
    }
    // -1 is QEMU's word for any; other negative numbers are no sector's.
    if let sector = try number(values, "sector"), sector != -1 {
      fault.sector = UInt64(exactly: sector).map { min($0, .max >> 9) } ?? .max >> 9
    }
    fault.isOnce = try flag(values, "once")
    _ = try flag(values, "immediately")
    return fault
  }

  private static func transition(_ values: [String: String]) throws(Failure) -> Transition {
    let event = try event(values, "set-state", transitionKeys)
    return Transition(
      event: event, state: try number(values, "state") ?? 0, newState: try number(values, "new_state") ?? 0)
  }

  private static func number(_ values: [String: String], _ key: String) throws(Failure) -> Int64? {
    guard let text = values[key] else { return nil }
    guard let value = Int64(text) else { throw Failure("Parameter '\(key)' expects a number") }
    return value
  }

  private static func flag(_ values: [String: String], _ key: String) throws(Failure) -> Bool {
    guard let text = values[key] else { return false }
    guard text == "on" || text == "off" else { throw Failure("Parameter '\(key)' expects 'on' or 'off'") }
    return text == "on"
  }
}
