import Platter
import PlatterCore
import TestSupport
import WriterProof

/// The images below, and what moves bytes between them and the disk.
extension TurnModel {
  // MARK: Making

  func makeBases(_ random: inout SeededGenerator) throws {
    let format = row.backing ?? "raw"
    // A VMDK lies over a VMDK alone.
    let deep = format == "vmdk" ? format : BaseImage.formats.randomElement(using: &random) ?? "raw"
    try makeBase("deep", deep, content(&random), by: .theirs)
    if ["qcow2", "qed", "vmdk"].contains(format), random.chance(2) {
      try makeOverlay("below", format, over: "deep", &random)
    } else {
      try makeBase("below", format, content(&random), by: .theirs)
    }
    try makeBase("other", BaseImage.formats.randomElement(using: &random) ?? "raw", content(&random), by: .theirs)
  }

  private func randomCount(_ random: inout SeededGenerator) -> Int {
    Int.random(in: 1...bytes.count * 5 / 4 / 512, using: &random) * 512
  }

  /// Sometimes shorter than the disk, sometimes longer.
  private func content(_ random: inout SeededGenerator) -> [UInt8] {
    var content = [UInt8](repeating: 0, count: randomCount(&random))
    let step = max(1536, content.count / 40 / 512 * 512)
    for start in stride(from: 0, to: content.count, by: step) where !random.chance(3) {
      content.put(randomBytes(min(step * 2 / 3, content.count - start), from: start * 7 + 1), at: start)
    }
    return content
  }

  private func makeBase(_ name: String, _ format: String, _ content: [UInt8], by side: TurnSide) throws {
    try scratch.write(content, to: "content")
    try succeed(side, Tool.qemuImg, ["convert", "-f", "raw", "-O", format, "content", name])
    try takeOver(Base(format: format, bytes: content), name, by: side)
  }

  /// An image of a few parts over another one.
  private func makeOverlay(_ name: String, _ format: String, over deep: String, _ random: inout SeededGenerator) throws
  {
    guard let lower = bases[deep] else { return }
    var content = lower.bytes.resized(to: randomCount(&random))
    let words = ["create", "-q", "-f", format, "-b", deep, "-F", lower.format, name, "\(content.count)"]
    try succeed(.theirs, Tool.qemuImg, words)
    var requests: [String] = []
    for number in 0..<4 where !random.chance(4) {
      let start = Int.random(in: 0..<content.count, using: &random)
      let count = min(content.count - start, Int.random(in: 1...1 << 16, using: &random))
      requests += ["-c", "write -q -s payload\(number) \(start) \(count)"]
      content.put(Self.payload(number, count), at: start)
    }
    try succeed(.theirs, .qemuIO, requests + ["-c", "flush", "-f", format, name])
    try takeOver(Base(format: format, bytes: content, over: deep), name, by: .theirs)
  }

  private func takeOver(_ base: Base, _ name: String, by side: TurnSide) throws {
    bases[name] = base
    let found = try readBase(name)
    // Some formats have whole units alone.
    guard found.count >= base.bytes.count, found == base.bytes.resized(to: found.count) else {
      throw WriterFault("\(side) made another \(base.format) image than was asked for")
    }
    bases[name]?.bytes = found
  }

  // MARK: Looking

  private func readBase(_ name: String) throws -> [UInt8] {
    var options = OpenOptions(format: bases[name]?.format, references: .siblings)
    options.locking = .shared
    let disk = try DiskImage.open(scratch[name], options)
    return try disk.read(Int(disk.byteCount), at: 0)
  }

  /// The images below: checked, and read as they should.
  func auditBases() throws {
    for (name, base) in bases {
      try compare(try readBase(name), base.bytes, "in \(name)")
      if base.format == "qcow2" { try succeed(.theirs, Tool.qemuImg, ["check", "-q", "-f", "qcow2", name]) }
    }
  }

  /// The images below, from the top on.
  var chain: [String] {
    var names: [String] = []
    var next = backing
    while let name = next {
      names.append(name)
      next = bases[name]?.over
    }
    return names
  }

  // MARK: Steps

  /// Writes what the image has into one below it.
  func commit(_ side: TurnSide, _ random: inout SeededGenerator) throws {
    let chain = chain
    guard let backing else { return }
    var target = backing
    // A VMDK knows the image below it by a number, which is another one after it was written.
    if chain.count > 1, bases[backing]?.format != "vmdk", !random.chance(3) { target = chain[1] }
    guard let base = bases[target] else { return }
    let more = target != backing ? ["-b", target] : random.chance(3) ? ["-d"] : []
    let words = image.words("commit", ["-q"] + more)
    guard try take(side, words, isTheirsAlone: !["raw", "qcow2"].contains(base.format)) else { return }
    bases[target]?.bytes = bytes + base.bytes.dropFirst(bytes.count)
    try noteChange(of: target)
    try noteBelow()
  }

  /// Another backing image, or none, and the same disk.
  func rebase(_ side: TurnSide, _ random: inout SeededGenerator) throws {
    guard let target = newBacking(&random) else { return }
    let format = bases[target]?.format
    let words = image.words("rebase", ["-b", target] + (format.map { ["-F", $0] } ?? []))
    // QEMU goes round in circles where the old backing image ends before the disk, and stands on the new one.
    let hangs = chain.contains(target) && below.count < bytes.count
    // And in version 2 it forgets that the disk had zeros where it stood on nothing: the new image shows there.
    let forgets = version == 2 && backing == nil
    guard try take(side, words, isOursAlone: hangs || forgets) else { return }
    backing = target.isEmpty ? nil : target
    try noteBelow()
  }

  private func newBacking(_ random: inout SeededGenerator) -> String? {
    (bases.keys.sorted() + [""]).filter { $0 != backing ?? "" }.randomElement(using: &random)
  }

  /// A copy of the backing image in another format takes its place, by name alone.
  func rename(_ side: TurnSide, _ random: inout SeededGenerator) throws {
    guard backing != nil, names < 100, let format = BaseImage.formats.randomElement(using: &random) else { return }
    names += 1
    let name = "twin\(names)"
    try makeBase(name, format, below, by: ["raw", "qcow2"].contains(format) ? side.other : .theirs)
    guard try take(side, image.words("rebase", ["-u", "-b", name, "-F", format])) else { return }
    backing = name
  }

  // MARK: What shows through

  /// An image below was written: what it shows in those that lie over it.
  private func noteChange(of name: String) throws {
    let over = bases.keys.sorted().filter { bases[$0]?.over == name }
    for above in over {
      guard let old = bases[above], let lower = bases[name] else { continue }
      if old.format == "vmdk" {
        bases[above] = nil
        continue
      }
      // Not in one line: a change of what may be missing begins before the value is made.
      let shown = try settled(try readBase(above), old.bytes, over: lower.bytes, in: above)
      bases[above]?.bytes = shown
      try noteChange(of: above)
    }
  }

  /// The disk stands on something else: snapshots show it where they have nothing of their own.
  private func noteBelow() throws {
    untouched = []
    for name in bitmaps.keys { bitmaps[name]?.noteEverything(bytes.count) }
    for (index, snapshot) in snapshots.enumerated() {
      let found = try read(by: .ours, snapshot: snapshot.name)
      snapshots[index].bytes = try settled(found, snapshot.bytes, over: below, in: "snapshot \(snapshot.name)")
    }
  }

  /// Each sector is as it was, or shows what lies below.
  private func settled(_ found: [UInt8], _ old: [UInt8], over lower: [UInt8], in what: String) throws -> [UInt8] {
    guard found.count == old.count else { throw WriterFault("\(what) has \(found.count) bytes, not \(old.count)") }
    let lower = lower.resized(to: found.count)
    for start in stride(from: 0, to: found.count, by: 512) {
      let sector = start..<min(start + 512, found.count)
      guard found.isEqual(old, sector) || found.isEqual(lower, sector) else {
        throw WriterFault("sector \(start / 512) of \(what) is neither what it was nor what lies below")
      }
    }
    return found
  }
}
