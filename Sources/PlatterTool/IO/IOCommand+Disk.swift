import Platter
import PlatterCore

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// The commands that open, look at and change the disk as a whole, and those for the session itself.
extension IOCommand {
  static let all: [IOCommand] = (requests + disks + sessions).sorted { $0.name < $1.name }

  static func named(_ name: String) -> IOCommand? { all.first { $0.name == name || $0.alias == name } }

  private static let disks: [IOCommand] = [
    IOCommand(
      name: "alloc", alias: "a", arguments: "offset [count]", summary: "tells how many bytes the image itself holds",
      count: 1...2
    ) { (session, arguments) throws(IOFailure) in try session.showAllocated(arguments) },
    IOCommand(name: "close", alias: "c", summary: "closes the disk") { (session, _) throws(IOFailure) in
      try session.close()
    },
    IOCommand(name: "info", alias: "i", summary: "tells about the format of the disk") {
      (session, _) throws(IOFailure) in
      try session.showInfo()
    },
    IOCommand(name: "length", alias: "l", summary: "tells the size of the disk") { (session, _) throws(IOFailure) in
      session.output.write(line: IOText.size(try session.openDisk().byteCount))
    },
    IOCommand(name: "map", summary: "tells which parts the image itself holds") { (session, _) throws(IOFailure) in
      try session.showMap()
    },
    IOCommand(
      name: "open", alias: "o", arguments: "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]",
      summary: "opens a disk",
      details: [
        "-C  copy on read", "-d  ignore or unmap: what discards do", "-i, -k  accepted, of no effect",
        "-n  cache mode none", "-o  driver options, KEY=VALUE,...", "-r  read-only",
        "-s  writes go to a temporary file", "-t  cache mode", "-U  also where another program writes the image",
      ], letters: "snCro:ki:t:d:U", count: 1...anyCount, needsDisk: false
    ) { (session, arguments) throws(IOFailure) in try session.open(arguments) },
    IOCommand(
      name: "reopen", arguments: "[(-r|-w)] [-c cache] [-o options]", summary: "opens the same disk in another way",
      details: ["-c  cache mode", "-o  driver options, KEY=VALUE,...", "-r  read-only", "-w  for writing too"],
      letters: "c:o:rw", count: 0...anyCount
    ) { (session, arguments) throws(IOFailure) in try session.reopen(arguments) },
    IOCommand(
      name: "truncate", alias: "t", arguments: "[-m prealloc_mode] off", summary: "changes the size of the disk",
      letters: "m:", count: 1...3, writes: true
    ) { (session, arguments) throws(IOFailure) in try session.truncate(arguments) },
  ]

  private static let sessions: [IOCommand] = [
    IOCommand(name: "abort", summary: "ends the program by a crash", needsDisk: false) { (_, _) in abort() },
    IOCommand(
      name: "help", alias: "?", arguments: "[command]", summary: "explains one command or lists all", count: 0...1,
      needsDisk: false
    ) { (session, arguments) throws(IOFailure) in try session.help(arguments) },
    IOCommand(name: "quit", alias: "q", summary: "ends the program", count: 0...anyCount, needsDisk: false) {
      (session, _) in session.hasQuit = true
    },
    IOCommand(
      name: "sigraise", arguments: "signal", summary: "sends a signal to the program", count: 1...1, needsDisk: false
    ) { (session, arguments) throws(IOFailure) in
      guard let number = arguments.operands.first.flatMap(IONumber.whole), let signal = Int32(exactly: number) else {
        throw .line("\(arguments.operands.first ?? "") is not a valid number")
      }
      // What was said before a deadly signal is not lost.
      session.output.flush()
      raise(signal)
    },
    IOCommand(
      name: "sleep", arguments: "milliseconds", summary: "waits", count: 1...1, needsDisk: false
    ) { (_, arguments) throws(IOFailure) in
      guard let number = arguments.operands.first.flatMap(IONumber.whole), let time = UInt32(exactly: number) else {
        throw .line("\(arguments.operands.first ?? "") is not a valid number")
      }
      usleep(time.multipliedReportingOverflow(by: 1000).overflow ? UInt32.max : time * 1000)
    },
  ]
}

extension IOSession {
  func help(_ arguments: IOArguments) throws(IOFailure) {
    guard let name = arguments.operands.first else {
      for command in IOCommand.all { output.write(line: command.usage) }
      output.write(line: "\n'help COMMAND' tells more about one.")
      return
    }
    guard let command = IOCommand.named(name) else { throw .line("command \(name) not found") }
    output.write(line: command.usage)
    for line in command.details { output.write(line: "  " + line) }
  }

  func open(_ arguments: IOArguments) throws(IOFailure) {
    guard arguments.operands.count <= 1, !(arguments.operands.isEmpty && !arguments.has("o")) else { throw .usage }
    var options = IODiskOptions()
    options.isReadOnly = arguments.has("r")
    options.isShared = arguments.has("U")
    options.isSnapshot = arguments.has("s")
    options.copiesOnRead = arguments.has("C")
    if arguments.has("n") { options.cache = .none }
    do throws(Failure) {
      try IOProgram.setCache(&options, arguments.value("t"))
      try IOProgram.setDiscard(&options, arguments.value("d"))
    } catch {
      throw .message(error.sentences.first ?? "")
    }
    var node: [String: String] = [:]
    for list in arguments.options["o"] ?? [] { node.merge(OptionString.dictionary(list)) { $1 } }
    try open(arguments.operands.first.map { Argument($0) }, node: node, options)
  }

  func reopen(_ arguments: IOArguments) throws(IOFailure) {
    guard arguments.operands.isEmpty else { throw .usage }
    if arguments.has("r"), arguments.has("w") { throw .message("Only one -r/-w option may be given") }
    var options = try openDisk().options
    var node: [String: String] = [:]
    for list in arguments.options["o"] ?? [] { node.merge(OptionString.dictionary(list)) { $1 } }
    if let complaint = reopenComplaint(node, arguments) { throw .message(complaint) }
    if arguments.has("r") || node["read-only"] == "on" { options.isReadOnly = true }
    if arguments.has("w") || node["read-only"] == "off" { options.isReadOnly = false }
    do throws(Failure) {
      try IOProgram.setCache(&options, arguments.value("c"))
    } catch {
      throw .message(error.sentences.first ?? "")
    }
    try reopen(options, node)
  }

  /// What is wrong with options for an open disk, or nil: what it is cannot change.
  private func reopenComplaint(_ node: [String: String], _ arguments: IOArguments) -> String? {
    if arguments.has("r") || arguments.has("w"), node["read-only"] != nil {
      return "Cannot set both -r/-w and 'read-only'"
    }
    if arguments.has("c"), node.keys.contains(where: { $0.hasPrefix("cache.") }) {
      return "Cannot set both -c and the cache options"
    }
    for name in ["read-only", "cache.no-flush", "cache.direct", "auto-read-only"] {
      guard let value = node[name], value != "on", value != "off" else { continue }
      return "Parameter '\(name)' expects 'on' or 'off'"
    }
    for key in node.keys.sorted() {
      let parts = key.split(separator: ".")
      guard let name = parts.last, name == "driver" || name == "node-name" else { continue }
      if node[key] != present(parts.dropLast().joined(separator: "."), String(name)) {
        return "Cannot change the option '\(name)'"
      }
    }
    guard let map = disk?.image.layers[0].map, map.formatName == "qcow2" else { return nil }
    return RunTimeOptions(node, byteCount: map.byteCount, clusterByteCount: map.allocationUnit ?? 65536).complaint
  }

  /// What the open disk has under an option that cannot change.
  private func present(_ child: String, _ name: String) -> String? {
    guard name == "driver" else { return openNode[child.isEmpty ? name : "\(child).\(name)"] }
    switch child {
    case "": return disk?.image.formatName
    case "file": return openNode["file.driver"] ?? "file"
    case "backing":
      guard let layers = disk?.image.layers, layers.count > 1 else { return nil }
      return layers[1].map.formatName
    default: return nil
    }
  }

  func truncate(_ arguments: IOArguments) throws(IOFailure) {
    let mode = arguments.value("m").map { Preallocation(rawValue: $0) } ?? .off
    guard let mode else { throw .message("Invalid preallocation mode '\(arguments.value("m") ?? "")'") }
    guard arguments.operands.count == 1 else { throw .usage }
    let byteCount = try IONumber.size(arguments.operands[0])
    let disk = try openDisk()
    guard let writer = disk.writer else { return }
    let old = disk.image.byteCount
    guard mode == .off || byteCount >= old else {
      throw .message(
        disk.image.formatName == "raw"
          ? "Cannot use preallocation for shrinking files" : "Preallocation can't be used for shrinking an image")
    }
    guard writer.supports(mode) else { throw .message("Unsupported preallocation mode: \(mode.rawValue)") }
    do throws(ImageError) {
      try writer.resize(to: byteCount)
      try writer.preallocate(min(old, byteCount)..<byteCount, mode)
      try disk.finishRequest()
    } catch {
      throw .message(error.message)
    }
  }

  func showMap() throws(IOFailure) {
    let disk = try openDisk()
    let end = disk.image.byteCount
    try forEachAllocation(disk, 0..<end, "Failed to get allocation status") { start, count, isPresent in
      let count = start + count == end ? disk.byteCount - start : count
      output.write(
        line: "\(IOText.size(count)) (\(count.hex)) bytes \(isPresent ? "    allocated" : "not allocated") at offset "
          + "\(IOText.size(start)) (\(start.hex))")
    }
  }

  func showAllocated(_ arguments: IOArguments) throws(IOFailure) {
    guard let first = arguments.operands.first else { throw .usage }
    let disk = try openDisk()
    let start = try IONumber.size(first)
    let count = arguments.operands.count > 1 ? try IONumber.size(arguments.operands[1]) : 512
    let from = min(start, disk.byteCount)
    let length = min(count, disk.byteCount - from)
    var sum: UInt64 = 0
    let range = min(from, disk.image.byteCount)..<min(from + length, disk.image.byteCount)
    try forEachAllocation(disk, range, "is_allocated failed") { _, count, isPresent in if isPresent { sum += count } }
    output.write(line: "\(sum)/\(length) bytes allocated at offset \(IOText.size(start))")
  }

  /// The parts of a range that the top image holds or leaves to its backing image, neighbours joined.
  private func forEachAllocation(
    _ disk: IODisk, _ range: Range<UInt64>, _ failure: String, _ body: (UInt64, UInt64, Bool) -> Void
  ) throws(IOFailure) {
    var run: (start: UInt64, count: UInt64, isPresent: Bool)?
    try request(failure) { () throws(ImageError) in
      var position = range.lowerBound
      var extents: [Extent] = []
      while position < range.upperBound {
        extents.removeAll(keepingCapacity: true)
        position = try disk.image.layers[0].map.map(position..<range.upperBound, limit: 1024, into: &extents)
        for extent in extents {
          let isPresent = extent.kind != .absent
          if let last = run, last.isPresent == isPresent {
            run?.count += extent.byteCount
          } else {
            if let last = run { body(last.start, last.count, last.isPresent) }
            run = (extent.start, extent.byteCount, isPresent)
          }
        }
      }
    }
    if let run { body(run.start, run.count, run.isPresent) }
  }

  func showInfo() throws(IOFailure) {
    let image = try openDisk().image
    let map = image.layers[0].map
    output.write(line: "format name: \(map.formatName)")
    guard map.formatName != "null-co" else {
      // A driver that is a protocol too says that name as well, and knows nothing else.
      output.write(line: "format name: \(map.formatName)")
      hasFailed = true
      return
    }
    output.write(line: "cluster size: \(IOText.size(map.allocationUnit ?? 0))")
    output.write(line: "vm state offset: \(IOText.size((map as? any MachineStateMap)?.machineStateOffset ?? 0))")
    guard let specific = InfoReport.shownFacts(map, isDropIn: call.program.isDropIn) else { return }
    output.write(line: "Format specific information:")
    HumanText.write(specific, level: 1, to: output)
  }
}
