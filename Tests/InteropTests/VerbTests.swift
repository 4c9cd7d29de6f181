import SystemPackage
import TestSupport
import Testing

/// Two folders with the same images: qemu-img works in one of them, we in the other.
struct Twins {
  private static let zone = ["LC_ALL": "C.UTF-8", "TZ": "UTC"]

  private let folder: ScratchDirectory
  let theirs: FilePath
  let ours: FilePath

  /// - Parameter preparation: lines for qemu-img, or for qemu-io where they start so.
  init(_ preparation: String...) throws {
    folder = try ScratchDirectory()
    theirs = try folder.makeFolder("theirs")
    ours = try folder.makeFolder("ours")
    for line in preparation {
      for place in [theirs, ours] {
        let result: RunResult
        if line.hasPrefix("qemu-io ") {
          let words = line.split(separator: " ", maxSplits: 2).map(String.init)
          result = try run(Tool.qemuIO.path ?? "qemu-io", ["-f", "qcow2", "-c", words[2], words[1]], in: place)
        } else {
          result = try run(Tool.qemuImg.path ?? "qemu-img", Self.words(line), in: place)
        }
        guard result.succeeded else { throw RunError(description: "\(line): \(result.errorText)") }
      }
    }
  }

  /// Words between blanks; '' is an empty one.
  private static func words(_ line: String) -> [String] {
    line.split(separator: " ").map { $0 == "''" ? "" : String($0) }
  }

  /// Runs the same line under both programs, and expects the same words and the same exit status.
  func expectSame(_ line: String, hidesTimes: Bool = false, sourceLocation: SourceLocation = #_sourceLocation) throws {
    let words = Self.words(line)
    let their = try run(Tool.qemuImg.path ?? "qemu-img", words, in: theirs, environment: Self.zone)
    let our = try Program.run(["qemu-img"] + words, in: ours, environment: Self.zone)
    let (expected, found) =
      hidesTimes
      ? (Self.withoutTimes(their.outputText), Self.withoutTimes(our.outputText)) : (their.outputText, our.outputText)
    #expect(found == expected, "qemu-img \(line)", sourceLocation: sourceLocation)
    #expect(our.errorText == their.errorText, "qemu-img \(line)", sourceLocation: sourceLocation)
    #expect(our.status == their.status, "qemu-img \(line)", sourceLocation: sourceLocation)
  }

  /// Runs the same line under both programs, and expects the same standard output and exit status; what is told beside it
  /// is for people.
  func expectSameOutput(_ line: String, sourceLocation: SourceLocation = #_sourceLocation) throws {
    let words = Self.words(line)
    let their = try run(Tool.qemuImg.path ?? "qemu-img", words, in: theirs, environment: Self.zone)
    let our = try Program.run(["qemu-img"] + words, in: ours, environment: Self.zone)
    #expect(our.outputText == their.outputText, "qemu-img \(line)", sourceLocation: sourceLocation)
    #expect(our.status == their.status, "qemu-img \(line)", sourceLocation: sourceLocation)
  }

  /// A list of snapshots without the moments at which they were taken.
  private static func withoutTimes(_ text: String) -> String {
    text.split(separator: "\n", omittingEmptySubsequences: false).map { line in
      line.split(separator: " ").filter { !$0.hasPrefix("20") && $0.split(separator: ":").count != 3 }
        .joined(separator: " ")
    }.joined(separator: "\n")
  }

  /// Our image is sound, holds the same disk, and is the same kind of image.
  func expectEqual(_ image: String, format: String = "qcow2", sourceLocation: SourceLocation = #_sourceLocation)
    throws
  {
    if format == "qcow2" {
      let check = try Tool.qemuImg("check", "-f", format, image, in: ours)
      #expect(check.succeeded, "\(check.outputText)\(check.errorText)", sourceLocation: sourceLocation)
    }
    let comparison = try Tool.qemuImg(
      "compare", "-f", format, "-F", format, theirs.appending(image).string, ours.appending(image).string)
    #expect(comparison.succeeded, "\(comparison.outputText)\(comparison.errorText)", sourceLocation: sourceLocation)
    #expect(comparison.outputText == "Images are identical.\n", sourceLocation: sourceLocation)
    let facts = try [theirs, ours].map { place in
      try Tool.qemuImg("info", "--output=json", "-f", format, image, in: place).outputText
        .split(separator: "\n").filter { line in !["actual-size", "date-"].contains { line.contains($0) } }
    }
    #expect(facts[1] == facts[0], sourceLocation: sourceLocation)
  }
}

/// What the verbs that change images leave behind, and what they say, is what qemu-img leaves and says.
@Suite("Verbs that write", .serialized, .requires(.qemuImg, .qemuIO))
struct VerbTests {
  @Test("snapshot: take, list, apply, delete")
  func snapshots() throws {
    let twins = try Twins("create -q -f qcow2 disk 8M", "qemu-io disk write -q -P 1 0 1M")
    try twins.expectSame("snapshot -l disk")
    for name in ["one", "one", "2"] { try twins.expectSame("snapshot -c \(name) disk") }
    try twins.expectSame("snapshot -l disk", hidesTimes: true)
    try twins.expectSame("snapshot -a nope disk")
    try twins.expectSame("snapshot -d nope disk")
    try twins.expectSame("snapshot -d 2 disk")
    try twins.expectEqual("disk")
    try twins.expectSame("snapshot -a 1 disk")
    try twins.expectSame("snapshot -d one disk")
    try twins.expectSame("snapshot -U -l disk", hidesTimes: true)
    try twins.expectEqual("disk")
  }

  @Test("an applied snapshot brings back content and size")
  func apply() throws {
    let twins = try Twins(
      "create -q -f qcow2 disk 8M", "qemu-io disk write -q -P 1 0 1M", "snapshot -c before disk",
      "qemu-io disk write -q -P 2 512k 1M", "resize -q disk 9M")
    try twins.expectSame("snapshot -a before disk")
    try twins.expectEqual("disk")
  }

  @Test(
    "snapshot: mistakes",
    arguments: [
      "snapshot", "snapshot -l -c x disk", "snapshot -U -c x disk", "snapshot -l a b", "snapshot -l nope",
      "snapshot -c x nope", "snapshot -c x volume", "snapshot -d x volume", "snapshot -f qcow2 -l disk",
    ])
  func snapshotMistakes(line: String) throws {
    let twins = try Twins("create -q -f qcow2 disk 1M", "create -q -f raw volume 1M")
    try twins.expectSame(line)
    try twins.expectEqual("disk")
  }

  /// Where the map of an image changes between data, zeros and nothing; where that lies is the writer's business.
  private func presence(_ image: String) throws -> [String] {
    var changes: [String] = []
    var last = ""
    for line in try Tool.qemuImg("map", "--output=json", image).outputText.split(separator: "\n") {
      let parts = line.split(separator: ",").map(String.init)
      let kind = parts[3...5].joined()
      if kind != last { changes.append("\(kind) from \(parts[0])") }
      last = kind
    }
    return changes
  }

  @Test(
    "zeros among data leave gaps of the length that -S says, where clusters are shorter",
    arguments: ["", "-S 4k", "-S 8k", "-S 512", "-S 0"], ["512", "1k", "4k"])
  func gaps(sparse: String, cluster: String) throws {
    let twins = try Twins(
      "create -q -f qcow2 source 1M", "qemu-io source write -q -P 1 0 1k", "qemu-io source write -q -P 1 8k 1k",
      "qemu-io source write -q -P 1 17k 1k", "qemu-io source write -q -P 1 40k 512")
    for arguments in ["source out", "source source out"] {
      let line = "convert -O qcow2 -o cluster_size=\(cluster) \(sparse) \(arguments)"
      try twins.expectSame(line.split(separator: " ").joined(separator: " "))
      let maps = try [twins.theirs, twins.ours].map { folder in try presence(folder.appending("out").string) }
      #expect(maps[0] == maps[1])
      try twins.expectEqual("out")
    }
  }

  @Test("a data file that is missing or not named is told in the same words", arguments: ["gone.data", ""])
  func missingDataFile(name: String) throws {
    let twins = try Twins(
      "create -q -f qcow2 -o data_file=disk.data disk 1M", "amend -f qcow2 -o data_file=\(name) disk")
    for line in ["map disk", "convert -O raw disk out", "compare disk disk"] { try twins.expectSame(line) }
  }

  @Test("resize: larger, smaller, by a difference")
  func resize() throws {
    let twins = try Twins(
      "create -q -f qcow2 disk 8M", "qemu-io disk write -q -P 1 0 8M", "create -q -f qcow2 -b disk -F qcow2 over 4M",
      "create -q -f raw volume 1M")
    for line in ["resize over 8M", "resize disk +1M", "resize -q disk 16M", "resize disk -1M"] {
      try twins.expectSame(line)
    }
    try twins.expectEqual("over")
    try twins.expectSame("resize --shrink disk -13M")
    try twins.expectEqual("disk")
    try twins.expectSame("resize disk 10M")
    try twins.expectSame("resize --preallocation=full disk +1M")
    try twins.expectEqual("disk")
    try twins.expectSame("resize -f raw --preallocation=falloc volume +1M")
    for mode in ["off", "metadata", "falloc", "full"] {
      try twins.expectSame("resize --preallocation=\(mode) disk +1M")
      try twins.expectEqual("disk")
    }
    try twins.expectSame("resize -f raw --preallocation=full volume +1M")
    try twins.expectSame("resize -f raw --shrink volume 1000")
    try twins.expectEqual("volume", format: "raw")
  }

  @Test(
    "resize: mistakes",
    arguments: [
      "resize disk", "resize disk foo", "resize disk +", "resize disk 0", "resize --shrink disk -- -90M",
      "resize disk +1000", "resize --preallocation=blah disk +1M", "resize --preallocation=full --shrink disk -512",
      "resize disk 1M 2M", "resize nope 1M", "resize -f raw volume 1000", "resize volume -512",
      "resize -f raw --preallocation=metadata volume +1M",
    ])
  func resizeMistakes(line: String) throws {
    let twins = try Twins("create -q -f qcow2 disk 1M", "create -q -f raw volume 1M")
    try twins.expectSame(line)
    try twins.expectEqual("disk")
    try twins.expectEqual("volume", format: "raw")
  }

  @Test("dd: whole disks and parts of them")
  func parts() throws {
    let twins = try Twins("create -q -f qcow2 disk 3M", "qemu-io disk write -q -P 7 64k 2M")
    try twins.expectSame("dd if=disk of=whole")
    try twins.expectEqual("whole", format: "raw")
    try twins.expectSame("dd -f qcow2 -O qcow2 if=disk of=part bs=64k skip=3 count=20")
    try twins.expectEqual("part")
    try twins.expectSame("dd if=disk of=odd bs=700 count=3")
    try twins.expectEqual("odd", format: "raw")
    try twins.expectSame("dd if=disk of=none skip=9999999")
    try twins.expectEqual("none", format: "raw")
  }

  @Test("dd under the program's own name counts the blocks that it copies")
  func partsCounted() throws {
    let folder = try ScratchDirectory()
    try folder.write((0..<4096).map { UInt8($0 / 512) }, to: "disk")
    let result = try Program.run(
      ["dd", "-f", "raw", "if=disk", "of=part", "bs=512", "skip=2", "count=1"], in: folder.path)
    #expect(result.status == 0, "\(result.errorText)")
    #expect(try folder.read("part") == [UInt8](repeating: 2, count: 512))
  }

  @Test(
    "dd: mistakes",
    arguments: [
      "dd", "dd if=disk", "dd of=disk", "dd if=disk of=disk", "dd if=disk of=x bs=0", "dd if=disk of=x bs=4G",
      "dd if=disk of=x foo=1", "dd if=disk of=x foo", "dd if=disk of=x bs=foo", "dd if=nope of=x",
      "dd -O blah if=disk of=x", "dd if=disk of=x count=-1", "dd if=disk of=nowhere/x",
    ])
  func partMistakes(line: String) throws {
    let twins = try Twins("create -q -f qcow2 disk 1M")
    try twins.expectSame(line)
    try twins.expectEqual("disk")
  }

  @Test("commit: into the backing image, into one further down, into a shorter one")
  func commit() throws {
    let twins = try Twins(
      "create -q -f qcow2 base 2M", "qemu-io base write -q -P 1 0 1M", "create -q -f qcow2 -b base -F qcow2 middle",
      "qemu-io middle write -q -P 2 512k 1M", "create -q -f qcow2 -b middle -F qcow2 top 3M",
      "qemu-io top write -q -P 3 2M 1M")
    try twins.expectSame("commit middle")
    for image in ["base", "middle", "top"] { try twins.expectEqual(image) }
    try twins.expectSame("map middle")
    try twins.expectSame("commit -q -d top")
    try twins.expectEqual("middle")
    try twins.expectSame("commit -b base top")
    for image in ["base", "middle", "top"] { try twins.expectEqual(image) }
    for line in ["commit base", "commit -b nope top", "commit nope", "commit", "commit -t foo top"] {
      try twins.expectSame(line)
    }
  }

  @Test("rebase: the disk stays what it was; -u changes the name alone")
  func rebase() throws {
    let twins = try Twins(
      "create -q -f qcow2 one 2M", "qemu-io one write -q -P 1 0 1M", "create -q -f qcow2 two 3M",
      "qemu-io two write -q -P 9 512k 1M", "create -q -f qcow2 -b one -F qcow2 top 3M",
      "qemu-io top write -q -P 3 2M 64k")
    try twins.expectSame("rebase -b two -F qcow2 top")
    try twins.expectEqual("top")
    for line in ["rebase top", "rebase -b one top", "rebase -b nope -F qcow2 top", "rebase -b one -F blah top"] {
      try twins.expectSame(line)
    }
    try twins.expectSame("rebase -u -b one -F qcow2 top")
    try twins.expectEqual("top")
    try twins.expectSame("rebase -b '' top")
    try twins.expectEqual("top")
  }

  @Test("amend: version, refcounts, size")
  func amend() throws {
    let twins = try Twins("create -q -f qcow2 disk 8M", "qemu-io disk write -q -P 1 0 1M")
    for options in ["compat=0.10", "compat=1.1", "lazy_refcounts=on", "refcount_bits=8", "size=16M"] {
      try twins.expectSame("amend -o \(options) disk")
      try twins.expectEqual("disk")
    }
    for line in [
      "amend disk", "amend -o cluster_size=4k disk", "amend -o foo=1 disk", "amend -o backing_file=x disk",
      "amend -f raw -o size=1M disk", "amend -o size=1M nope",
    ] {
      try twins.expectSame(line)
    }
    try twins.expectEqual("disk")
  }

  @Test("a data file's name may begin with file:, which does not go into the image")
  func dataFileName() throws {
    let twins = try Twins("create -q -f raw disk.raw 1M")
    try twins.expectSame("create -f qcow2 -o data_file=file:one.data one 1M")
    try twins.expectSame("convert -f raw -O qcow2 -o data_file=file:two.data disk.raw two")
    for name in ["one", "two"] {
      #expect(try Tool.qemuImg("check", name, in: twins.ours).succeeded)
      let facts = try Tool.qemuImg("info", name, in: twins.ours).outputText
      #expect(facts.contains("data file: \(name).data\n"))
    }
  }

  @Test(
    "amend and resize refuse what an image cannot become, in the same words",
    arguments: [
      ("refcount_bits=8", ["amend -o compat=0.10 disk", "amend -o refcount_bits=7 disk", "amend -o compat=0.42 disk"]),
      ("extended_l2=on", ["amend -o compat=0.10 disk", "amend -o data_file=x disk"]),
      ("data_file=data", ["amend -o compat=0.10 disk", "amend -o data_file_raw=on disk"]),
      (
        "compat=0.10",
        ["amend -o lazy_refcounts=on disk", "amend -o refcount_bits=8 disk", "snapshot -c a disk", "resize disk 16M"]
      ),
      (
        "compat=1.1",
        ["snapshot -c a disk", "resize -q disk 16M", "amend -o compat=0.10 disk", "snapshot -d a disk"]
      ),
    ])
  func refusals(options: String, lines: [String]) throws {
    let twins = try Twins("create -q -f qcow2 -o \(options) disk 8M", "qemu-io disk write -q -P 1 0 1M")
    for line in lines { try twins.expectSame(line) }
  }
}
