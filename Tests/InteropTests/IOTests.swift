import SystemPackage
import TestSupport
import Testing

/// An image on which our program and QEMU's take turns.
struct IOImage: Sendable, CustomTestStringConvertible {
  var format = "qcow2"
  var options: [String] = []
  var hasBacking = false
  /// Compressed clusters can be written; their size.
  var packedByteCount: Int? = 65536
  var secret: String?

  var testDescription: String { ([format] + options + (hasBacking ? ["backing file"] : [])).joined(separator: " ") }

  static let all: [IOImage] = [
    IOImage(format: "raw", packedByteCount: nil),
    IOImage(),
    IOImage(options: ["cluster_size=512"], packedByteCount: 512),
    IOImage(options: ["cluster_size=4k"], packedByteCount: 4096),
    IOImage(options: ["cluster_size=2M"], packedByteCount: 2 << 20),
    IOImage(options: ["extended_l2=on"]),
    IOImage(options: ["extended_l2=on", "cluster_size=16k"], packedByteCount: 16384),
    IOImage(options: ["compression_type=zstd"]),
    IOImage(options: ["refcount_bits=1"]),
    IOImage(options: ["refcount_bits=64"]),
    IOImage(options: ["lazy_refcounts=on"]),
    IOImage(options: ["compat=0.10"]),
    IOImage(options: ["preallocation=metadata"], packedByteCount: nil),
    IOImage(options: ["data_file=external"], packedByteCount: nil),
    IOImage(options: ["data_file=external", "data_file_raw=on"], packedByteCount: nil),
    IOImage(hasBacking: true),
    IOImage(options: ["extended_l2=on"], hasBacking: true),
    IOImage(options: ["compat=0.10"], hasBacking: true),
    IOImage(
      options: ["encrypt.format=luks", "encrypt.key-secret=s0", "encrypt.iter-time=10"], packedByteCount: nil,
      secret: "abc"),
  ]

  func make(_ name: String, in folder: FilePath) throws {
    var words = ["create", "-q", "-f", format]
    if let secret { words += ["--object", "secret,id=s0,data=\(secret)"] }
    if !options.isEmpty { words += ["-o", options.joined(separator: ",")] }
    if hasBacking {
      try Tool.qemuImg.succeed("create", "-q", "-f", "qcow2", "base", "8M", in: folder)
      try Tool.qemuIO.succeed("-c", "write -q -P 0x11 0 7M", "base", in: folder)
      words += ["-b", "base", "-F", "qcow2"]
    }
    let result = try run(Tool.qemuImg.path ?? "qemu-img", words + [name, "8M"], in: folder)
    guard result.succeeded else { throw RunError(description: "qemu-img create: \(result.errorText)") }
  }

  /// Has `qemu-img check` look at the image, where it knows the format.
  func check(_ name: String, in folder: FilePath) throws {
    guard format == "qcow2" else { return }
    let result = try run(Tool.qemuImg.path ?? "qemu-img", ["check", "-q"] + words(name), in: folder)
    guard result.succeeded else { throw RunError(description: "qemu-img check: \(result.status): \(result.errorText)") }
  }

  /// The words that name the image on qemu-io's command line.
  func words(_ name: String) -> [String] {
    guard let secret else { return ["-f", format, name] }
    return [
      "--object", "secret,id=s0,data=\(secret)", "--image-opts",
      "driver=\(format),file.filename=\(name),encrypt.key-secret=s0",
    ]
  }
}

@Suite("The disk exerciser beside qemu-io", .requires(.qemuImg, .qemuIO))
struct IOTests {
  /// Times and rates differ from run to run.
  private static func masked(_ text: String) -> [String] {
    text.split(separator: "\n", omittingEmptySubsequences: false).map { line in
      guard let end = line.firstRange(of: " ops; ")?.lowerBound else {
        return line.contains(",1,0:0") ? String(line.prefix { $0 != "," }) : String(line)
      }
      return String(line[..<end])
    }
  }

  private func theirs(_ words: [String], _ folder: FilePath, input: String? = nil) throws -> RunResult {
    try run(Tool.qemuIO.path ?? "qemu-io", words, input: input.map { Array($0.utf8) }, in: folder)
  }

  private func ours(_ words: [String], _ folder: FilePath, input: String? = nil) throws -> RunResult {
    try Program.run(["qemu-io"] + words, input: input.map { Array($0.utf8) }, in: folder)
  }

  private func commands(_ list: [String]) -> [String] { list.flatMap { ["-c", $0] } }

  /// The same words on copies of one image: output, messages and exit status agree.
  private func compare(_ words: [String], _ image: IOImage = IOImage(), input: String? = nil) throws {
    let left = try ScratchDirectory()
    let right = try ScratchDirectory()
    try image.make("disk", in: left.path)
    try image.make("disk", in: right.path)
    let expected = try theirs(words, left.path, input: input)
    let got = try ours(words, right.path, input: input)
    #expect(Self.masked(got.outputText) == Self.masked(expected.outputText))
    #expect(got.errorText == expected.errorText)
    #expect(got.status == expected.status)
    try image.check("disk", in: right.path)
  }

  @Test("requests on every kind of image say the same", arguments: IOImage.all)
  func requests(image: IOImage) throws {
    var list = [
      "write -P 1 0 128k", "write -P 2 3000 70000", "write -z 64k 200k", "write -z -u 1M 1M", "read -P 2 3000 1000",
      "read -P 3 3000 1000", "read -v 131070 40", "writev -P 3 5000001 1000 299000", "readv -P 3 5000001 4096 4096",
      "aio_write -P 4 4M 64k 64k", "aio_flush", "aio_read -P 4 4M 128k", "aio_flush", "discard 4M 1M", "flush",
      "write -f -P 5 7M 4k", "write -C 0 4k", "write 7M 2M", "read 8M 512", "write -z 9M 512", "length",
    ]
    if let unit = image.packedByteCount {
      list += ["write -c -P 7 2M 2M", "write -c 2M \(unit)", "read -P 7 2M 2M", "write -P 8 2100000 10", "info"]
      list += ["read -P 8 2100000 10", "read -P 7 2100010 1000", "write -c \(unit / 2) \(unit)"]
    }
    try compare(commands(list) + image.words("disk"), image)
  }

  @Test(
    "commands called wrongly are refused in the same words",
    arguments: [
      "foo", "", "read", "read 0", "read -P", "read -P zz 0 5", "read -P 256 0 5", "read zz 5", "read 0 zz",
      "read 0 3G", "read -P 1 -s 3 -l 4 0 5", "read 99999999999999999999 4k", "read -b 0 5", "write -n 0 64k",
      "write -u 0 64k", "write -z -P 4 0 4k", "write -b -z 0 4k", "write -f -c 0 64k", "write -s x -P 1 0 64k",
      "write -s /nonexistent 0 64k", "writev 0 zz", "aio_write -u 0 4k", "aio_write -z 0 4k 4k", "aio_write 0",
      "aio_write -i 0 4k", "aio_read -i 0 4k", "aio_read zz 4k", "discard zz 3", "discard 0", "flush 3", "truncate",
      "truncate zz", "truncate -m foo 4M", "sleep x", "sleep", "help foo", "open other", "close", "quit 3",
      "alloc 64k", "alloc 0 1M", "alloc 0 9M", "alloc 9M 1M", "map", "info", "length",
    ])
  func refusals(command: String) throws { try compare(["-c", command, "-c", "length", "disk"]) }

  @Test(
    "images that cannot be opened are told in the same words",
    arguments: [
      ["-f", "foo", "disk"], ["-t", "foo", "disk"], ["-d", "foo", "disk"], ["-i", "foo", "disk"], ["-U", "disk"],
      ["nowhere"], ["."], ["--image-opts", "driver=qcow2,file.filename=nowhere"],
      ["--image-opts", "-f", "qcow2", "driver=qcow2,file.filename=disk"],
    ])
  func openings(words: [String]) throws { try compare(["-c", "length"] + words) }

  @Test("a read-only disk takes no change, and says so once a command")
  func readOnly() throws {
    try compare(
      commands(["write 0 4k", "write -z 0 4k", "discard 0 4k", "truncate 9M", "aio_write 0 4k", "read 0 4k", "flush"])
        + ["-r", "disk"])
  }

  @Test("without a disk, commands that need one say so") func noDisk() throws { try compare(["-c", "length"]) }

  @Test("lines from standard input are answered behind the prompt")
  func conversation() throws {
    try compare(
      ["disk"],
      input: "length\nfoo\nread 0 4k\n\n   read   512   1k  \nclose\nlength\nopen -r disk\nwrite 0 1\nquit\nmap\n")
    try compare([], input: "open disk\nopen disk\nlength\nclose\nopen -o driver=qcow2 disk\nreopen -r\nwrite 0 4k\n")
    try compare(["disk"], input: "length")
  }

  @Test("the first sector of a guessed raw disk cannot become another format's head")
  func guessedRaw() throws {
    let scratch = try ScratchDirectory()
    try scratch.write([0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3], to: "head")
    try scratch.write([UInt8](repeating: 0, count: 65536), to: "disk")
    let words =
      commands(["write -P 1 0 512", "write -s head 0 8", "write -s head 512 8", "read -P 1 0 512"]) + ["disk"]
    let got = try ours(words, scratch.path)
    #expect(got.outputText.contains("write failed: Operation not permitted"))
    #expect(try scratch.read("disk").prefix(8) == [1, 1, 1, 1, 1, 1, 1, 1])
    let expected = try theirs(words, scratch.path)
    #expect(Self.masked(got.outputText) == Self.masked(expected.outputText))
    #expect(got.errorText == expected.errorText)
    #expect(got.status == 1)
  }

  @Test("both take turns on one image, and each reads what the other wrote", arguments: IOImage.all)
  func turns(image: IOImage) throws {
    let scratch = try ScratchDirectory()
    try image.make("disk", in: scratch.path)
    var written: [(pattern: Int, offset: Int, count: Int)] = []
    var generator = SeededGenerator(seed: 7)
    for turn in 0..<8 {
      var list: [String] = []
      for step in 0..<4 {
        let offset = Int(generator.next() % (7 << 20))
        let count = 1 + Int(generator.next() % 200_000)
        let pattern = turn * 16 + step + 1
        let isZero = (turn + step) % 5 == 4
        list.append(isZero ? "write -q -z \(offset) \(count)" : "write -q -P \(pattern) \(offset) \(count)")
        written.append((isZero ? 0 : pattern, offset, count))
      }
      let isOurs = turn % 2 == 0
      let writing = commands(list) + image.words("disk")
      let result = try isOurs ? ours(writing, scratch.path) : theirs(writing, scratch.path)
      #expect(result.status == 0 && result.outputText == "" && result.errorText == "", "\(result.outputText)")
      let reading = commands(checks(written)) + ["-r"] + image.words("disk")
      for reader in [try theirs(reading, scratch.path), try ours(reading, scratch.path)] {
        #expect(reader.status == 0 && reader.outputText == "", "turn \(turn): \(reader.outputText)")
      }
      try image.check("disk", in: scratch.path)
    }
  }

  /// Reads of the parts that no later write has touched.
  private func checks(_ written: [(pattern: Int, offset: Int, count: Int)]) -> [String] {
    var list: [String] = []
    for (index, write) in written.enumerated() {
      var parts = [write.offset..<write.offset + write.count]
      for later in written[(index + 1)...] {
        let taken = later.offset..<later.offset + later.count
        parts = parts.flatMap { part in
          guard part.overlaps(taken) else { return [part] }
          let low = part.lowerBound..<max(part.lowerBound, min(part.upperBound, taken.lowerBound))
          let high = min(part.upperBound, max(part.lowerBound, taken.upperBound))..<part.upperBound
          return [low, high].filter { !$0.isEmpty }
        }
      }
      for part in parts { list.append("read -q -P \(write.pattern) \(part.lowerBound) \(part.count)") }
    }
    return list
  }

  /// QEMU ends the file with the last packed byte; a disk open for writing could not be read there.
  @Test("a packed cluster that the file's end cuts inside its sector is read, and written over")
  func packedEnd() throws {
    let scratch = try ScratchDirectory()
    try IOImage().make("disk", in: scratch.path)
    #expect(try theirs(commands(["write -q -c -P 7 0 128k"]) + ["disk"], scratch.path).status == 0)
    #expect(try scratch.read("disk").count % 512 != 0)
    let list = ["read -q -P 7 0 128k", "write -q -P 9 1000 2000", "read -q -P 7 3000 128072", "read -q -P 9 1000 2000"]
    let got = try ours(commands(list) + ["disk"], scratch.path)
    #expect(got.status == 0 && got.outputText == "", "\(got.outputText)")
    try IOImage().check("disk", in: scratch.path)
  }

  @Test("a disk grown by one is whole for the other")
  func truncation() throws {
    let scratch = try ScratchDirectory()
    try IOImage().make("disk", in: scratch.path)
    #expect(try ours(commands(["truncate 600M", "write -q -P 9 590M 64k"]) + ["disk"], scratch.path).status == 0)
    try Tool.qemuImg.succeed("check", "-q", "disk", in: scratch.path)
    let check = commands(["length", "read -q -P 9 590M 64k", "read -q -P 0 8M 512M", "truncate 700M"])
    #expect(try theirs(check + ["disk"], scratch.path).outputText == "600 MiB\n")
    #expect(
      try ours(commands(["length", "read -q -P 0 600M 100M"]) + ["disk"], scratch.path).outputText == "700 MiB\n")
  }

  /// With extended L2 entries a part of a cluster could be given up, but is not.
  @Test("a discard gives up whole clusters, and what reaches the disk's end", arguments: IOImage.all)
  func discards(image: IOImage) throws {
    let requests = [
      "write -P 1 0 512k", "discard 2k 66k", "discard 62k 68k", "discard 131072 4k", "discard 254k 130k", "map",
      "truncate 1000k", "write -P 1 900k 100k", "discard 996k 4k", "map", "discard 900k 100k", "map",
    ]
    try compare(commands(requests) + image.words("disk"), image)
  }

  @Test(
    "the room for a machine's state",
    arguments: [
      IOImage(), IOImage(options: ["cluster_size=512"]), IOImage(options: ["extended_l2=on"]),
      IOImage(options: ["compat=0.10"]), IOImage(hasBacking: true), IOImage.all[0],
    ])
  func machineState(image: IOImage) throws {
    try compare(
      commands([
        "write -b -P 5 1000k 300k", "write -b 512 1k", "read -b -P 5 1000k 300k", "read -b -P 0 2k 10k",
        "read -b 1 512",
        "write -P 6 0 1M", "read -b -P 5 1000k 300k", "write -b -c 0 64k", "map",
      ]) + image.words("disk"), image)
  }

  @Test("the other reads a machine's state")
  func machineStateTurns() throws {
    let scratch = try ScratchDirectory()
    try IOImage().make("disk", in: scratch.path)
    #expect(try ours(commands(["write -b -q -P 5 700k 900k"]) + ["disk"], scratch.path).status == 0)
    #expect(try theirs(commands(["read -b -q -P 5 700k 900k"]) + ["disk"], scratch.path).outputText == "")
    #expect(try theirs(commands(["write -b -q -P 6 900M 100k"]) + ["disk"], scratch.path).status == 0)
    let reading = commands(["read -b -q -P 5 700k 900k", "read -b -q -P 6 900M 100k"])
    #expect(try ours(reading + ["-r", "disk"], scratch.path).outputText == "")
    #expect(try ours(reading + ["disk"], scratch.path).outputText == "")
    try IOImage().check("disk", in: scratch.path)
  }

  @Test("with -s the image keeps every byte, and the commands say the same")
  func temporaryOverlay() throws {
    let list = ["write -P 5 1000 1M", "read -P 5 1000 1M", "write -z 0 4k", "map", "truncate 16M", "length"]
    for image in [IOImage(), IOImage(hasBacking: true), IOImage.all[0]] {
      try compare(commands(list) + ["-s"] + image.words("disk"), image)
      let scratch = try ScratchDirectory()
      try image.make("disk", in: scratch.path)
      let before = try scratch.read("disk")
      #expect(try ours(commands(list) + ["-s"] + image.words("disk"), scratch.path).status == 0)
      #expect(try scratch.read("disk") == before)
    }
    try compare([], input: "open -s disk\nwrite 0 4k\nmap\nclose\nopen disk\nmap\n")
  }

  @Test("with -C what is read becomes the image's own")
  func copyOnRead() throws {
    try compare(
      commands(["read -P 0x11 100k 100k", "map", "read 0 0", "read 1000k 64k", "alloc 1000k 64k"]) + ["-C", "disk"],
      IOImage(hasBacking: true))
    try compare(commands(["length"]) + ["-C", "-r", "disk"], IOImage(hasBacking: true))
  }

  @Test("a disk grows with its new space settled", arguments: ["off", "metadata", "falloc", "full"])
  func settledGrowth(mode: String) throws {
    let list = ["truncate -m \(mode) 9M", "length", "read -P 0 8M 1M", "map", "truncate -m \(mode) 5M", "length"]
    for image in [IOImage(), IOImage.all[0]] { try compare(commands(list) + image.words("disk"), image) }
  }

  @Test(
    "run-time options without effect are checked all the same",
    arguments: [
      "lazy-refcounts=42", "lazy-refcounts=on", "pass-discard-other=x", "overlap-check.active-l1=x", "cache-size=x",
      "cache-size=1M,l2-cache-size=64k,refcount-cache-size=64k", "cache-size=1M,l2-cache-size=2M", "cache-size=0",
      "cache-size=1M,refcount-cache-size=2M", "l2-cache-entry-size=33k", "l2-cache-entry-size=128k",
      "l2-cache-entry-size=4k", "refcount-cache-size=256T", "overlap-check=constant,overlap-check.template=all",
      "overlap-check=blubb", "overlap-check.template=blubb", "overlap-check=cached", "cache-clean-interval=-1",
      "cache-clean-interval=x", "cache-clean-interval=10", "l2-cache-entry-size=512,l2-cache-size=8E",
    ])
  func runTimeOptions(options: String) throws {
    try compare(commands(["reopen -o \(options)", "length"]) + ["disk"])
  }

  @Test("a disk whose refcounts turn out to be damaged is marked corrupt, and scripts see the line that they look for")
  func markedCorrupt() throws {
    let folder = try ScratchDirectory()
    try Tool.qemuImg.succeed(
      "create", "-q", "-f", "qcow2", "-o", "refcount_bits=64,cluster_size=1k", "disk", "1M", in: folder.path)
    _ = try theirs(
      ["-c", "write -q 0 124k", "-c", "discard -q 121k 1k", "-c", "discard -q 123k 1k", "disk"], folder.path)
    var image = try folder.read("disk")
    let table = image[48..<56].reduce(0) { $0 << 8 | Int($1) }
    image[table + 14] = 6
    for isOurs in [false, true] {
      try folder.write(image, to: "disk")
      let words = ["-c", "write 121k 3k", "-c", "write 0 1k", "disk"]
      let result = try isOurs ? ours(words, folder.path) : theirs(words, folder.path)
      #expect(result.outputText.hasPrefix("write failed: Input/output error\nwrite failed: "))
      let lines = result.errorText.split(separator: "\n")
      #expect(lines.count == 1)
      #expect(
        lines.first.map(String.init)
          == "qcow2: Marking image as corrupt: Refblock offset 0x20600 unaligned (reftable index: 0x1); further "
          + "corruption events will be suppressed")
      #expect(result.status == 1)
      let marked = try folder.read("disk")
      #expect(marked[79] & 2 == 2)
    }
  }

  @Test("what an open disk is cannot be changed")
  func reopening() throws {
    let list = [
      "reopen -o node-name=foo", "reopen -o driver=raw", "reopen -o backing.driver=file", "reopen -o driver=qcow2",
      "reopen -r -o read-only=on", "reopen -c none -o cache.direct=on", "reopen -o read-only=foo", "length",
    ]
    for command in list {
      try compare(commands([command, "length"]) + ["disk"], IOImage(hasBacking: true))
    }
  }
}
