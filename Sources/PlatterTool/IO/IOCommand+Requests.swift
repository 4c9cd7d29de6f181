import Platter
import PlatterCore
import SystemPackage

/// The commands that read and write.
extension IOCommand {
  static let requests: [IOCommand] = [
    IOCommand(
      name: "aio_flush", summary: "waits for all asynchronous requests"
    ) { (session, _) throws(IOFailure) in
      // Requests have ended when their command has.
      let disk = try session.openDisk()
      try session.request("aio_flush failed") { () throws(ImageError) in try disk.finishRequest() }
    },
    IOCommand(
      name: "aio_read", arguments: "[-Ciqv] [-P pattern] off len [len..]", summary: "reads bytes asynchronously",
      details: reading + ["-i  a request that is not valid, for its statistics"],
      letters: "CP:iqv", count: 2...anyCount
    ) { (session, arguments) throws(IOFailure) in
      if arguments.has("i") { return session.output.write(line: "injecting invalid read request") }
      try session.readMany(arguments, isAsynchronous: true)
    },
    IOCommand(
      name: "aio_write", arguments: "[-Cfiquz] [-P pattern] off len [len..]", summary: "writes bytes asynchronously",
      details: writing + ["-i  a request that is not valid, for its statistics"],
      letters: "CfiP:quz", count: 2...anyCount, writes: true
    ) { (session, arguments) throws(IOFailure) in try session.writeAsynchronously(arguments) },
    IOCommand(
      name: "discard", alias: "d", arguments: "[-Cq] off len", summary: "tells that bytes are no longer needed",
      letters: "Cq", count: 2...anyCount, writes: true
    ) { (session, arguments) throws(IOFailure) in try session.discard(arguments) },
    IOCommand(
      name: "flush", alias: "f", summary: "puts everything written on stable storage"
    ) { (session, _) throws(IOFailure) in
      let disk = try session.openDisk()
      try session.request("flush failed") { () throws(ImageError) in try disk.finishRequest(forced: true) }
    },
    IOCommand(
      name: "read", alias: "r", arguments: "[-abCqv] [-P pattern [-s off] [-l len]] off len",
      summary: "reads bytes from an offset",
      details: reading + [
        "-b  from the area that holds a machine's state", "-l  how many bytes to compare with the pattern",
        "-p  accepted, of no effect", "-s  where in the bytes read the pattern begins",
      ], letters: "abCl:pP:qs:v", count: 2...anyCount
    ) { (session, arguments) throws(IOFailure) in try session.read(arguments) },
    IOCommand(
      name: "readv", alias: "rv", arguments: "[-Cqv] [-P pattern] off len [len..]",
      summary: "reads bytes into several buffers", details: reading, letters: "CP:qv", count: 2...anyCount
    ) { (session, arguments) throws(IOFailure) in try session.readMany(arguments, isAsynchronous: false) },
    IOCommand(
      name: "write", alias: "w", arguments: "[-bcCfnquz] [-P pattern | -s source_file] off len",
      summary: "writes bytes at an offset",
      details: writing + [
        "-b  to the area that holds a machine's state", "-c  compressed, in whole clusters",
        "-n  with -z: fail rather than write zeros as data", "-p  accepted, of no effect",
        "-s  repeat the content of a file",
      ], letters: "bcCfnpP:qs:uz", count: 2...anyCount, writes: true
    ) { (session, arguments) throws(IOFailure) in try session.write(arguments) },
    IOCommand(
      name: "writev", alias: "wv", arguments: "[-Cfq] [-P pattern] off len [len..]",
      summary: "writes bytes from several buffers", details: writing, letters: "CfqP:", count: 2...anyCount,
      writes: true
    ) { (session, arguments) throws(IOFailure) in try session.writeMany(arguments) },
  ]

  private static let reading = [
    "-C  statistics as numbers parted by commas", "-P  compare every byte with this one", "-q  say nothing",
    "-v  show the bytes",
  ]
  private static let writing = [
    "-C  statistics as numbers parted by commas", "-f  on stable storage before the command ends",
    "-P  this byte instead of 0xcd", "-q  say nothing", "-u  with -z: space may be given back", "-z  zeros",
  ]
}

extension IOSession {
  private static let defaultPattern: UInt8 = 0xcd

  // MARK: Reading

  func read(_ arguments: IOArguments) throws(IOFailure) {
    let pattern = try arguments.value("P").map { text throws(IOFailure) in try IONumber.pattern(text) }
    let start = try arguments.value("s").map { text throws(IOFailure) in try IONumber.size(text) }
    let length = try arguments.value("l").map { text throws(IOFailure) in try IONumber.size(text) }
    guard arguments.operands.count == 2, pattern != nil || (start == nil && length == nil) else { throw .usage }
    let offset = try IONumber.size(arguments.operands[0])
    let count = try IONumber.length(arguments.operands[1])
    var compared: (pattern: UInt8, range: Range<UInt64>)?
    if let pattern {
      let first = start ?? 0
      guard first <= count, length ?? 0 <= count - first else {
        throw .line("pattern verification range exceeds end of read data")
      }
      compared = (pattern, first..<first + (length ?? count - first))
    }
    if arguments.has("b") {
      try IONumber.sectorAligned(offset, "offset")
      try IONumber.sectorAligned(count, "count")
    }
    if try read(offset, count, compared, arguments, failure: "read failed") { hasFailed = true }
  }

  func readMany(_ arguments: IOArguments, isAsynchronous: Bool) throws(IOFailure) {
    let pattern = try arguments.value("P").map { text throws(IOFailure) in try IONumber.pattern(text) }
    guard arguments.operands.count >= 2 else { throw .usage }
    let offset = try IONumber.size(arguments.operands[0])
    let count = try IONumber.lengths(arguments.operands[1...])
    do throws(IOFailure) {
      let differs = try read(offset, count, pattern.map { ($0, 0..<count) }, arguments, failure: "readv failed")
      // An asynchronous request counts as a success once it is under way.
      if differs, !isAsynchronous { hasFailed = true }
    } catch {
      guard isAsynchronous, case .line(let text) = error else { throw error }
      output.write(line: text)
    }
  }

  /// Reads, compares and shows. Returns whether the bytes differ from the pattern.
  private func read(
    _ offset: UInt64, _ count: UInt64, _ compared: (pattern: UInt8, range: Range<UInt64>)?, _ arguments: IOArguments,
    failure: String
  ) throws(IOFailure) -> Bool {
    let disk = try openDisk()
    let shows = arguments.has("v")
    let begin = ContinuousClock.now
    var differs = false
    // What is shown waits for the end: a request that fails shows nothing, and a wrong pattern is told first.
    var shown: [UInt8] = []
    try request(failure) { () throws(ImageError) in
      let readDisk = arguments.has("b") ? disk.readMachineState : disk.read
      try readDisk(offset, count) { bytes, place in
        if let compared, !differs {
          let from = max(compared.range.lowerBound, place)
          let to = min(compared.range.upperBound, place + UInt64(bytes.byteCount))
          if from < to {
            differs = !Self.consists(bytes.extracting(Int(from - place)..<Int(to - place)), of: compared.pattern)
          }
        }
        if shows { shown += bytes.array() }
      }
    }
    if differs, let compared {
      output.write(
        line: "Pattern verification failed at offset \(offset + compared.range.lowerBound), "
          + "\(compared.range.upperBound - compared.range.lowerBound) bytes")
    }
    if shows, !arguments.has("q") { IOText.dump(shown.rawBytes, at: offset, to: output) }
    report("read", count, at: offset, since: begin, arguments)
    return differs
  }

  private static func consists(_ bytes: RawSpan, of byte: UInt8) -> Bool {
    let word = UInt64(byte) * 0x0101_0101_0101_0101
    var position = 0
    while position + 8 <= bytes.byteCount {
      guard bytes.littleEndian(at: position, as: UInt64.self) == word else { return false }
      position += 8
    }
    while position < bytes.byteCount {
      guard bytes[position] == byte else { return false }
      position += 1
    }
    return true
  }

  // MARK: Writing

  func write(_ arguments: IOArguments) throws(IOFailure) {
    let pattern = try arguments.value("P").map { text throws(IOFailure) in try IONumber.pattern(text) }
    guard arguments.operands.count == 2 else { throw .usage }
    try checkCombination(arguments)
    let offset = try IONumber.size(arguments.operands[0])
    let count = try IONumber.length(arguments.operands[1])
    if arguments.has("b") || arguments.has("c") {
      try IONumber.sectorAligned(offset, "offset")
      try IONumber.sectorAligned(count, "count")
    }
    let filling = arguments.has("z") ? [] : try filling(arguments, pattern, count)
    let disk = try openDisk()
    let begin = ContinuousClock.now
    try request("write failed") { () throws(ImageError) in
      if arguments.has("b") {
        try disk.writeMachineState(offset, count, filling: filling)
      } else if arguments.has("z") {
        try zero(disk, offset, count, arguments)
      } else if arguments.has("c") {
        try disk.writeCompressed(offset, count, filling: filling)
      } else {
        try disk.write(offset, count, filling: filling)
      }
      try disk.finishRequest(forced: arguments.has("f"))
    }
    report("wrote", count, at: offset, since: begin, arguments)
  }

  private func checkCombination(_ arguments: IOArguments) throws(IOFailure) {
    if arguments.has("b"), arguments.has("z") { throw .line("-b and -z cannot be specified at the same time") }
    if arguments.has("f"), arguments.has("b") || arguments.has("c") {
      throw .line("-f and -b or -c cannot be specified at the same time")
    }
    if arguments.has("n"), !arguments.has("z") { throw .line("-n requires -z to be specified") }
    if arguments.has("u"), !arguments.has("z") { throw .line("-u requires -z to be specified") }
    guard ["z", "P", "s"].count(where: { arguments.has($0) }) <= 1 else {
      throw .line("Only one of -z, -P, and -s can be specified at the same time")
    }
  }

  private func zero(_ disk: IODisk, _ offset: UInt64, _ count: UInt64, _ arguments: IOArguments) throws(ImageError) {
    if arguments.has("n"), let unit = (disk.image.layers[0].map as? any WritableMap)?.mapUnit {
      guard offset % unit == 0, count % unit == 0 || offset + count == disk.byteCount else {
        throw ImageError(.unsupported, "zeros would have to be written as data")
      }
    }
    try disk.zero(offset, count, mayUnmap: arguments.has("u"))
  }

  /// The bytes that a write repeats: a pattern, or the start of a file.
  private func filling(_ arguments: IOArguments, _ pattern: UInt8?, _ count: UInt64) throws(IOFailure) -> [UInt8] {
    guard let name = arguments.value("s") else { return [pattern ?? Self.defaultPattern] }
    let bytes: [UInt8]
    do throws(ImageError) {
      let file = try FileStore(FilePath(name))
      bytes = try file.readPrefix(count: Int(min(try file.byteCount(), count)))
    } catch {
      throw .plain("\(name): \(error.systemSentence)")
    }
    guard !bytes.isEmpty || count == 0 else { throw .plain("\(name): file is empty") }
    return bytes
  }

  func writeMany(_ arguments: IOArguments) throws(IOFailure) {
    let pattern = try arguments.value("P").map { text throws(IOFailure) in try IONumber.pattern(text) }
    guard arguments.operands.count >= 2 else { throw .usage }
    let offset = try IONumber.size(arguments.operands[0])
    let count = try IONumber.lengths(arguments.operands[1...])
    let disk = try openDisk()
    let begin = ContinuousClock.now
    try request("writev failed") { () throws(ImageError) in
      try disk.write(offset, count, filling: [pattern ?? Self.defaultPattern])
      try disk.finishRequest(forced: arguments.has("f"))
    }
    report("wrote", count, at: offset, since: begin, arguments)
  }

  func writeAsynchronously(_ arguments: IOArguments) throws(IOFailure) {
    let pattern = try arguments.value("P").map { text throws(IOFailure) in try IONumber.pattern(text) }
    guard arguments.operands.count >= 2 else { throw .usage }
    if arguments.has("i") { return output.write(line: "injecting invalid write request") }
    if arguments.has("z"), arguments.operands.count != 2 { throw .line("-z supports only a single length parameter") }
    if arguments.has("u"), !arguments.has("z") { throw .line("-u requires -z to be specified") }
    let offset = try IONumber.size(arguments.operands[0])
    let count = try IONumber.lengths(arguments.operands[1...])
    let disk = try openDisk()
    let begin = ContinuousClock.now
    do throws(IOFailure) {
      try request("aio_write failed") { () throws(ImageError) in
        if arguments.has("z") {
          try disk.zero(offset, count, mayUnmap: arguments.has("u"))
        } else {
          try disk.write(offset, count, filling: [pattern ?? Self.defaultPattern])
        }
        try disk.finishRequest(forced: arguments.has("f"))
      }
    } catch {
      guard case .line(let text) = error else { throw error }
      return output.write(line: text)
    }
    report("wrote", count, at: offset, since: begin, arguments)
  }

  func discard(_ arguments: IOArguments) throws(IOFailure) {
    guard arguments.operands.count == 2 else { throw .usage }
    let offset = try IONumber.size(arguments.operands[0])
    let count = try IONumber.length(arguments.operands[1])
    let disk = try openDisk()
    let begin = ContinuousClock.now
    try request("discard failed") { () throws(ImageError) in
      try disk.discard(offset, count)
      try disk.finishRequest()
    }
    report("discard", count, at: offset, since: begin, arguments)
  }
}
