import Platter
import PlatterCore
import SystemPackage
import TestSupport
import Testing

/// A process that is killed at a random moment leaves an image that checks clean but for leaks, with everything in it that
/// a flush was answered for.
///
/// `PLATTER_KILL_COUNT` sets how often.
@Suite("A process that is killed", .requires(.timeout)) struct KillTests {
  static let count = environmentValue("PLATTER_KILL_COUNT").flatMap(Int.init) ?? 20
  static let options = [
    "cluster_size=4096", "cluster_size=512,refcount_bits=1", "extended_l2=on,cluster_size=16k", "lazy_refcounts=on",
    "compat=0.10", "data_file=data", "data_file=data,data_file_raw=on",
  ]
  private static let diskByteCount = 8 << 20

  /// Runs our program, and kills it.
  private func killed(_ words: [String], in folder: FilePath, input: String? = nil, milliseconds: Int) throws
    -> RunResult
  {
    let path = try #require(Program.path)
    let seconds = "\(milliseconds / 1000).\(String(1000 + milliseconds % 1000).dropFirst())"
    return try run(
      Tool.timeout.path ?? "timeout",
      ["-s", "KILL", seconds, path] + words,
      input: input.map { Array($0.utf8) }, in: folder)
  }

  private func check(_ name: String, in folder: FilePath) throws {
    let result = try Program.run(["check", "-f", "qcow2", name], in: folder)
    #expect([0, 3].contains(result.status), "\(result.outputText) \(result.errorText)")
    guard Tool.qemuImg.isInstalled else { return }
    let theirs = try Tool.qemuImg("check", "-f", "qcow2", name, in: folder)
    #expect([0, 3].contains(theirs.status), "\(theirs.outputText) \(theirs.errorText)")
  }

  /// Sectors that are neither as one state has them nor as the other.
  private func strangeSectors(_ found: [UInt8], _ states: [[UInt8]]) -> [Int] {
    stride(from: 0, to: found.count, by: 512).filter { start in
      let sector = found[start..<start + 512]
      return !states.contains { $0[start..<start + 512].elementsEqual(sector) }
    }
  }

  @Test("writes whose flush was answered are there", arguments: 0..<count)
  func writes(number: Int) throws {
    let scratch = try ScratchDirectory()
    let options = Self.options[number % Self.options.count]
    let made = try Program.run(["create", "-q", "-f", "qcow2", "-o", options, "disk", "8M"], in: scratch.path)
    #expect(made.succeeded, "\(made.errorText)")
    var random = SeededGenerator(seed: UInt64(number))
    var groups: [[(sectors: Range<Int>, pattern: UInt8)]] = []
    var input = ""
    for group in 0..<1500 {
      var writes: [(sectors: Range<Int>, pattern: UInt8)] = []
      for _ in 0..<3 {
        let start = Int.random(in: 0..<Self.diskByteCount / 512 - 100, using: &random)
        let sectors = start..<start + Int.random(in: 1...100, using: &random)
        let pattern = UInt8(1 + group % 255)
        input += "write -q -P \(pattern) \(sectors.lowerBound * 512) \(sectors.count * 512)\n"
        writes.append((sectors, pattern))
      }
      // Answered after the flush.
      input += "flush\nlength\n"
      groups.append(writes)
    }
    let result = try killed(
      ["qemu-io", "-f", "qcow2", "disk"], in: scratch.path, input: input,
      milliseconds: Int.random(in: 20...1500, using: &random))
    let answers = result.outputText.split(separator: "\n").count { $0.hasSuffix("8 MiB") }
    try check("disk", in: scratch.path)
    var openOptions = OpenOptions(format: "qcow2")
    openOptions.locking = .shared
    let disk = try DiskImage.open(scratch["disk"], openOptions)
    let found = try disk.read(Self.diskByteCount, at: 0)
    var known = [Set<UInt8>](repeating: [0], count: Self.diskByteCount / 512)
    for (index, group) in groups.enumerated() {
      for write in group {
        for sector in write.sectors {
          if index < answers { known[sector] = [write.pattern] } else { known[sector].insert(write.pattern) }
        }
      }
    }
    for sector in known.indices {
      let bytes = found[sector * 512..<sector * 512 + 512]
      guard let first = bytes.first, known[sector].contains(first), bytes.allSatisfy({ $0 == first }) else {
        Issue.record("sector \(sector) is not one of \(known[sector]), \(options), \(answers) flushes answered")
        return
      }
    }
  }

  @Test("converting into an image that is there leaves each sector old or new", arguments: 0..<(count + 3) / 4)
  func converts(number: Int) throws {
    let scratch = try ScratchDirectory()
    var random = SeededGenerator(seed: UInt64(number) + 100)
    let (old, new) = (random.bytes(Self.diskByteCount), random.bytes(Self.diskByteCount))
    try scratch.write(old, to: "old")
    try scratch.write(new, to: "new")
    let words = ["-o", Self.options[number % 5], "old", "disk"]
    #expect(try Program.run(["convert", "-f", "raw", "-O", "qcow2"] + words, in: scratch.path).succeeded)
    _ = try killed(
      ["convert", "-n", "-f", "raw", "-O", "qcow2", "new", "disk"], in: scratch.path,
      milliseconds: Int.random(in: 10...250, using: &random))
    try check("disk", in: scratch.path)
    var options = OpenOptions(format: "qcow2")
    options.locking = .shared
    let found = try DiskImage.open(scratch["disk"], options).read(old.count, at: 0)
    #expect(strangeSectors(found, [old, new]) == [])
  }

  @Test("committing leaves a chain that reads as before", arguments: 0..<(count + 3) / 4)
  func commits(number: Int) throws {
    let scratch = try ScratchDirectory()
    var random = SeededGenerator(seed: UInt64(number) + 200)
    let (old, new) = (random.bytes(Self.diskByteCount), random.bytes(Self.diskByteCount / 2))
    try scratch.write(old, to: "old")
    #expect(try Program.run(["convert", "-f", "raw", "-O", "qcow2", "old", "base"], in: scratch.path).succeeded)
    let create = ["create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", "-b", "base", "-F", "qcow2", "top"]
    #expect(try Program.run(create, in: scratch.path).succeeded)
    try scratch.write(new, to: "new")
    let write = ["-c", "write -q -s new 1M \(new.count)"]
    #expect(try Program.run(["qemu-io", "-f", "qcow2"] + write + ["top"], in: scratch.path).succeeded)
    var wanted = old
    wanted.replaceSubrange(1 << 20..<1 << 20 + new.count, with: new)
    _ = try killed(
      ["commit", "-f", "qcow2", "top"], in: scratch.path, milliseconds: Int.random(in: 10...250, using: &random))
    for name in ["top", "base"] { try check(name, in: scratch.path) }
    var options = OpenOptions(format: "qcow2")
    options.locking = .shared
    options.references = .any
    let found = try DiskImage.open(scratch["top"], options).read(wanted.count, at: 0)
    #expect(found == wanted)
    let base = try DiskImage.open(scratch["base"], options).read(wanted.count, at: 0)
    #expect(strangeSectors(base, [old, wanted]) == [])
  }

  /// A limit on the file's size stands for a disk that is full: the system refuses each write that would pass it.
  @Test(
    "a disk that fills up keeps what it has", arguments: [300, 1000, 3000], ["cluster_size=512", "cluster_size=64k"])
  func fullDisk(blocks: Int, options: String) throws {
    let scratch = try ScratchDirectory()
    let made = try Program.run(["create", "-q", "-f", "qcow2", "-o", options, "disk", "8M"], in: scratch.path)
    #expect(made.succeeded, "\(made.errorText)")
    let program = try #require(Program.path)
    // A quarter of a MiB each, until there is no more room.
    var commands: [String] = []
    for index in 0..<30 { commands += ["-c", "write -q -P \(index + 1) \(index * 256)k 256k", "-c", "flush"] }
    let words = commands.map { "'\($0)'" }.joined(separator: " ")
    let script = "trap '' XFSZ; ulimit -f \(blocks); exec '\(program)' qemu-io -f qcow2 \(words) disk"
    let result = try run("bash", ["-c", script], in: scratch.path)
    #expect(result.status == 1)
    #expect((result.outputText + result.errorText).contains("File too large"))
    try check("disk", in: scratch.path)
    var openOptions = OpenOptions(format: "qcow2")
    openOptions.locking = .shared
    let disk = try DiskImage.open(scratch["disk"], openOptions)
    let found = try disk.read(Self.diskByteCount, at: 0)
    var isFull = false
    for index in 0..<30 {
      let part = found[index << 18..<(index + 1) << 18]
      let isWritten = part.allSatisfy { $0 == UInt8(index + 1) }
      #expect(isWritten || part.allSatisfy { $0 == 0 || $0 == UInt8(index + 1) })
      if !isWritten { isFull = true }
      #expect(!(index == 0 && isFull && blocks > 1000), "nothing was written at all")
    }
    #expect(isFull)
  }
}
