import Platter
import PlatterCore
import SystemPackage
import TestSupport
import WriterProof

/// Whose turn it is.
enum TurnSide: String, CaseIterable, Sendable {
  case ours, theirs

  var other: TurnSide { self == .ours ? .theirs : .ours }

  /// Runs `qemu-img`, or `qemu-io`, of this side.
  /// - Parameter isKilled: a signal is what ends it.
  func run(_ tool: Tool, _ words: [String], in folder: FilePath, isKilled: Bool = false) throws -> RunResult {
    let result =
      switch self {
      case .ours: try Program.run([tool.name] + words, in: folder, timeoutSeconds: 60)
      case .theirs: try TestSupport.run(tool.path ?? tool.name, words, in: folder, timeoutSeconds: 60)
      }
    guard !result.timedOut, result.status < 64 || isKilled else {
      throw WriterFault("\(self): \(tool) \(words) ended with \(result.status)\(result.timedOut ? " (too late)" : "")")
    }
    return result
  }
}

/// A qcow2 image under test: how it was made, and its name.
struct TurnImage: Sendable {
  /// Objects that hold all passphrases, the one that images are made with first.
  static let keys = ["s", "t", "u", "v"]
  static let secret = keys.flatMap { ["--object", "secret,id=\($0),data=\(passphrase($0))"] }
  static func passphrase(_ key: String) -> String { key == "s" ? "secret" : "secret \(key)" }

  var row: ProofRow
  var name: String
  /// The object whose passphrase opens it now.
  var key = "s"
  var dataName: String { name + ".data" }

  /// A command line for `qemu-img`, the image behind the options.
  func words(_ verb: String, _ options: [String] = [], _ operands: [String] = []) -> [String] {
    let named = row.isEncrypted ? ["--image-opts", description] : verb == "snapshot" ? [name] : ["-f", "qcow2", name]
    return [verb] + secret + options + named + operands
  }

  /// A command line for `qemu-io`.
  func requests(_ requests: [String]) -> [String] {
    secret + requests.flatMap { ["-c", $0] }
      + (row.isEncrypted ? ["--image-opts", description] : ["-f", "qcow2", name])
  }

  private var secret: [String] { row.isEncrypted ? Self.secret : [] }
  var description: String { "driver=qcow2,file.filename=\(name),encrypt.key-secret=\(key)" }

  /// What `-o` takes.
  var options: String {
    var options: [String] = []
    for word in row.words {
      let parts = word.split(separator: "=", maxSplits: 1).map(String.init)
      switch (parts[0], parts[1]) {
      case ("data_file", "off"), ("encrypt.format", "off"), ("backing", _): continue
      case ("data_file", let kind): options += ["data_file=\(dataName)"] + (kind == "raw" ? ["data_file_raw=on"] : [])
      case ("encrypt.format", let format):
        options += [word, "encrypt.key-secret=s"] + (format == "luks" ? ["encrypt.iter-time=1"] : [])
      default: options.append(word)
      }
    }
    return options.joined(separator: ",")
  }

  func openOptions(snapshot: String? = nil) -> OpenOptions {
    var options = OpenOptions(format: "qcow2", references: .siblings)
    // A program that another test starts holds copies of locks for a moment.
    options.locking = .shared
    options.snapshot = snapshot
    let passphrase = Array(Self.passphrase(key).utf8)
    options.passphrase = { passphrase }
    return options
  }
}

/// A disk that both programs change in turns, beside plain arrays that say what it must read as.
final class TurnModel {
  struct Snapshot {
    var name: String
    var bytes: [UInt8]
  }

  struct Base {
    var format: String
    var bytes: [UInt8]
    /// The image that it lies over.
    var over: String?
  }

  let scratch: ScratchDirectory
  var folder: FilePath { scratch.path }
  var image: TurnImage
  var row: ProofRow { image.row }
  var bytes: [UInt8]
  var snapshots: [Snapshot] = []
  var bitmaps: [String: ProofBitmap] = [:]
  /// Key slots in use, with the object whose passphrase opens each. None without LUKS.
  var slots: [Int: String] = [:]
  /// Images below, by name.
  var bases: [String: Base] = [:]
  var backing: String?
  var version = 3
  var refcountBits = 16
  var isDataFileRaw = false
  /// The raw data file holds the disk: QEMU's discard leaves old bytes in it.
  var isDataFileWhole = true
  /// Old bytes may lie behind the disk's end in its last cluster, and show when QEMU lets it grow: QEMU clears none when it
  /// makes the disk smaller, nor does a data file keep what zeros are enciphered to.
  var mayHideBytes = false
  /// Clusters that nobody has touched yet: QEMU packs into no others.
  var untouched: Set<Int> = []
  var hasPacked = false
  /// What was done, for messages.
  var history: [String] = []
  /// Numbers for names.
  var names = 0

  init(_ row: ProofRow) throws {
    scratch = try ScratchDirectory()
    image = TurnImage(row: row, name: "disk")
    bytes = [UInt8](repeating: 0, count: Int(row.byteCount))
    for index in 0..<4 { try scratch.write(randomBytes(1 << 16, from: index << 17), to: "payload\(index)") }
  }

  /// Makes the disk and what lies below it.
  func start(_ random: inout SeededGenerator) throws {
    if row.value("data_file") != "raw" { try makeBases(&random) }
    backing = row.backing == nil ? nil : "below"
    try create(by: TurnSide.allCases.randomElement(using: &random) ?? .ours)
  }

  var cluster: Int { Int(row.cluster) }
  var below: [UInt8] { backing.flatMap { bases[$0]?.bytes } ?? [] }

  private func create(by side: TurnSide) throws {
    history.append("\(side): create")
    var words = ["create", "-q", "-f", "qcow2"] + (row.isEncrypted ? TurnImage.secret : [])
    words += ["-o", image.options]
    if let backing { words += ["-b", backing, "-F", bases[backing]?.format ?? "raw"] }
    try succeed(side, Tool.qemuImg, words + [image.name, "\(row.byteCount)"])
    bytes.put(below.part(0..<min(below.count, bytes.count)), at: 0)
    takeOver(row)
    if row.value("preallocation") == "off" { untouched = Set(0..<(bytes.count + cluster - 1) / cluster) }
    // Nobody says that space which was given in advance reads as zeros: what it deciphers to is there. We do in version 3.
    if row.isEncrypted, row.value("preallocation") != "off", side == .theirs || version == 2 {
      bytes = try read(by: side)
    }
    try audit(by: side.other, isThorough: true)
  }

  /// What a new image of a row is.
  func takeOver(_ row: ProofRow) {
    image.row = row
    version = row.value("compat") == "0.10" ? 2 : 3
    refcountBits = Int(row.value("refcount_bits")) ?? 16
    isDataFileRaw = row.value("data_file") == "raw"
    isDataFileWhole = true
    // What space that was given in advance deciphers to lies behind the disk's end too.
    mayHideBytes = row.isEncrypted && row.value("preallocation") != "off"
    untouched = []
    hasPacked = false
    slots = row.value("encrypt.format") == "luks" ? [0: "s"] : [:]
  }

  // MARK: Running

  func succeed(_ side: TurnSide, _ tool: Tool, _ words: [String]) throws {
    let result = try side.run(tool, words, in: folder)
    guard result.succeeded else {
      throw WriterFault("\(side): \(tool) \(words.joined(separator: " ")): \(result.outputText)\(result.errorText)")
    }
  }

  /// Lets a side do something that may be impossible. What we refuse QEMU must refuse too.
  ///
  /// - Parameter isOursAlone: QEMU may not try: it is known to leave a damaged image.
  /// - Parameter isTheirsAlone: we need not be able to do it.
  /// - Returns: false where it was refused.
  func take(
    _ side: TurnSide, _ words: [String], with tool: Tool = .qemuImg, isOursAlone: Bool = false,
    isTheirsAlone: Bool = false
  ) throws -> Bool {
    let side = isOursAlone ? .ours : side
    history.append("\(side): \(tool) \(words.joined(separator: " "))")
    let result = try side.run(tool, words, in: folder)
    if result.succeeded { return true }
    history.append("refused: \(result.outputText)\(result.errorText)")
    guard side == .ours, !isOursAlone else { return false }
    let second = try TurnSide.theirs.run(tool, words, in: folder)
    guard second.succeeded else { return false }
    guard isTheirsAlone else { throw WriterFault("we refuse what QEMU does: \(result.outputText)\(result.errorText)") }
    history.append("theirs: done")
    return true
  }

  // MARK: Reading

  func read(by side: TurnSide, snapshot: String? = nil) throws -> [UInt8] {
    switch side {
    case .ours:
      let disk = try DiskImage.open(scratch[image.name], image.openOptions(snapshot: snapshot))
      return try disk.read(Int(disk.byteCount), at: 0)
    case .theirs:
      let options = ["-O", "raw"] + (snapshot.map { ["-l", "snapshot.name=\($0)"] } ?? [])
      try succeed(.theirs, Tool.qemuImg, image.words("convert", options, ["seen"]))
      return try scratch.read("seen")
    }
  }

  /// Looks at what one side left through the eyes of the other, and has QEMU check it.
  /// - Parameter isThorough: snapshots are read by QEMU too, and both programs check.
  func audit(by side: TurnSide, isThorough: Bool) throws {
    try check(.theirs)
    if isThorough { try check(.ours) }
    try compare(try read(by: side), bytes, "for \(side)")
    for snapshot in snapshots {
      for reader in isThorough ? TurnSide.allCases : [.ours] {
        let found = try read(by: reader, snapshot: snapshot.name)
        // QEMU shows a snapshot as long as the disk is now.
        let count = reader == .ours ? snapshot.bytes.count : min(snapshot.bytes.count, bytes.count)
        let shown = reader == .ours ? found : found.resized(to: min(found.count, count))
        try compare(shown, snapshot.bytes.resized(to: count), "in snapshot \(snapshot.name) for \(reader)")
      }
    }
    try checkBitmaps(isThorough: isThorough)
  }

  private func check(_ side: TurnSide) throws {
    let result = try side.run(Tool.qemuImg, image.words("check"), in: folder)
    guard result.succeeded else {
      throw WriterFault("\(side): check: \(result.status): \(result.outputText)\(result.errorText)")
    }
  }

  func compare(_ found: [UInt8], _ wanted: [UInt8], _ what: String) throws {
    guard found.count == wanted.count else {
      throw WriterFault("\(found.count) bytes \(what), not \(wanted.count)")
    }
    if let first = found.rawBytes.firstDifference(from: wanted.rawBytes) {
      throw WriterFault("byte \(first) of \(wanted.count) reads \(found[first]), not \(wanted[first]), \(what)")
    }
  }

  /// Closing words: both programs read, check and describe it alike.
  func finish() throws {
    for key in Set(slots.values) {
      image.key = key
      for side in TurnSide.allCases { try compare(try read(by: side), bytes, "for \(side), opened with \(key)") }
    }
    for side in TurnSide.allCases { try audit(by: side, isThorough: true) }
    try auditBases()
    if isDataFileRaw, isDataFileWhole, !row.isEncrypted {
      // QEMU gives space in advance in whole clusters.
      let data = try scratch.read(image.dataName)
      let hasMore = row.value("preallocation") != "off" && data.count == (bytes.count + cluster - 1) / cluster * cluster
      try compare(hasMore ? data.resized(to: bytes.count) : data, bytes, "in the raw data file")
    }
    // Whether an image looks preallocated depends on the blocks that its file has, which is settled once it is on disk.
    for name in [image.name] + chain { try FileStore(scratch.file(name), FileStore.Options(isWritable: true)).flush() }
    for verb in ["info", "map"] {
      let words = image.words(verb, ["--output=json"])
      let (ours, theirs) = try (
        TurnSide.ours.run(.qemuImg, words, in: folder), TurnSide.theirs.run(.qemuImg, words, in: folder)
      )
      guard ours.succeeded, theirs.succeeded else { throw WriterFault("\(verb): \(ours.errorText)\(theirs.errorText)") }
      if ours.outputText == theirs.outputText { continue }
      if verb == "map" {
        let (ours, theirs) = try (comparable(ours.outputText), comparable(theirs.outputText))
        if ours == theirs { continue }
        throw WriterFault("map: \(ours)\nand not\n\(theirs)")
      }
      throw WriterFault("\(verb): \(ours.outputText)\nand not\n\(theirs.outputText)")
    }
  }

  /// A map without what QEMU does not tell: where a VHDX has its data and what of it is a hole; what is only reserved in a
  /// data file; which of the parts that have no place are packed.
  private func comparable(_ json: String) throws -> TurnMap {
    let formats = chain.map { bases[$0]?.format }
    return try TurnMap(json: json).mapped { entry in
      var entry = entry
      if entry.isZero, !bytes.part(entry.range).rawBytes.isAllZero {
        throw WriterFault("bytes \(entry.range) are zeros on the map alone:\n\(json)")
      }
      let isVHDX = entry.depth > 0 && entry.depth <= formats.count && formats[entry.depth - 1] == "vhdx"
      if isVHDX { entry.offset = nil }
      if entry.isData, isVHDX || entry.depth == 0 && row.hasDataFile { entry.isZero = false }
      return entry
    }
  }
}
