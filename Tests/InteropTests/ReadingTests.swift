import Platter
import PlatterCore
import SystemPackage
import TestSupport
import Testing

@Suite("Images made by qemu-img read as qemu-img reads them", .requires(.qemuImg, .qemuIO))
struct ReadingTests {
  @Test("qcow2, over all options of create", arguments: Creation.qcow2)
  func qcow2(creation: Creation) throws { try compare(creation) }

  @Test("the other formats", arguments: Creation.others)
  func others(creation: Creation) throws { try compare(creation) }

  @Test(
    "images that convert -c and streamOptimized pack",
    arguments: [
      ["-c", "-O", "qcow2"], ["-c", "-O", "qcow2", "-o", "compression_type=zstd"],
      ["-c", "-O", "qcow2", "-o", "cluster_size=4k"],
      ["-c", "-O", "qcow2", "-o", "cluster_size=2M,compression_type=zstd"],
      ["-O", "vmdk", "-o", "subformat=streamOptimized"],
    ])
  func packed(options: [String]) throws {
    let scratch = try ScratchDirectory()
    var generator = SeededGenerator(seed: 11)
    let zeros = [UInt8](repeating: 0, count: 300_000)
    let content = generator.text(700_000) + zeros + generator.bytes(400_000) + generator.text(100_000)
    try scratch.write(content + [UInt8](repeating: 7, count: 512 - content.count % 512), to: "source")
    let result = try run(
      Tool.qemuImg.path ?? "qemu-img", ["convert", "-f", "raw"] + options + ["source", "disk"], in: scratch.path)
    #expect(result.succeeded, "\(result.errorText)")
    try compareContent(Creation(format: options.contains("vmdk") ? "vmdk" : "qcow2"), scratch)
    try compareWords(["info", "--output=json", "disk"], scratch)
  }

  @Test("internal snapshots keep what was there") func snapshots() throws {
    let scratch = try ScratchDirectory()
    try Tool.qemuImg.succeed("create", "-q", "-f", "qcow2", "disk", "3M", in: scratch.path)
    for (number, pattern) in ["0x31", "0x32", "0x33"].enumerated() {
      try Tool.qemuIO.succeed("-c", "write -q -P \(pattern) \(number)M 1M", "disk", in: scratch.path)
      try Tool.qemuImg.succeed("snapshot", "-c", "state \(number)", "disk", in: scratch.path)
    }
    for number in 0..<3 {
      try Tool.qemuImg.succeed(
        "convert", "-l", "state \(number)", "-O", "raw", "disk", "right.raw", in: scratch.path)
      var options = OpenOptions(format: "qcow2")
      options.snapshot = "state \(number)"
      let disk = try DiskImage.open(scratch["disk"], options)
      #expect(try disk.read(Int(disk.byteCount), at: 0) == scratch.read("right.raw"))
    }
    try compareWords(["info", "--output=json", "disk"], scratch)
  }

  private func compare(_ creation: Creation) throws {
    let scratch = try ScratchDirectory()
    _ = try creation.make(in: scratch.path)
    try compareContent(creation, scratch)
    // A secret changes the words; the formats' own tests look at those images' facts.
    guard creation.secret == nil else { return }
    try compareWords(["info", "--output=json", "-f", creation.format, "disk"], scratch)
    guard creation.hasSameMap else { return }
    try compareWords(["map", "--output=json", "-f", creation.format, "disk"], scratch)
    try compareWords(["map", "-f", creation.format, "disk"], scratch)
  }

  /// The library's bytes, and the program's, are those of `qemu-img convert`.
  private func compareContent(_ creation: Creation, _ scratch: ScratchDirectory) throws {
    var source = ["-f", creation.format, "disk"]
    if let secret = creation.secret {
      source = ["--object", "secret,id=s0,data=\(secret)", "--image-opts"]
      source.append("driver=\(creation.format),\(creation.secretOption)=s0,file.filename=disk")
    }
    let words = ["convert", "-O", "raw"] + source
    let theirs = try run(Tool.qemuImg.path ?? "qemu-img", words + ["right.raw"], in: scratch.path)
    try #require(theirs.succeeded, "\(theirs.errorText)")
    let right = try scratch.read("right.raw")

    var options = OpenOptions(format: creation.format)
    if let secret = creation.secret {
      options.passphrase = { () throws(ImageError) in Array(secret.utf8) }
    }
    let disk = try DiskImage.open(scratch["disk"], options)
    #expect(disk.byteCount == UInt64(right.count))
    #expect(try disk.read(right.count, at: 0) == right)

    let ours = try Program.run(["qemu-img"] + words + ["ours.raw"], in: scratch.path)
    #expect(ours.succeeded, "\(ours.errorText)")
    #expect(try scratch.read("ours.raw") == right)
  }

  /// What qemu-img prints, ours prints too, in the same order; it may know more.
  private func compareWords(_ words: [String], _ scratch: ScratchDirectory) throws {
    let theirs = try run(Tool.qemuImg.path ?? "qemu-img", words, in: scratch.path)
    let ours = try Program.run(["qemu-img"] + words, in: scratch.path)
    #expect(ours.status == theirs.status)
    var rest = comparable(ours.outputText)[...]
    for line in comparable(theirs.outputText) {
      guard let place = rest.firstIndex(of: line) else {
        Issue.record("no line \"\(line)\" at its place in:\n\(ours.outputText)")
        return
      }
      rest = rest[(place + 1)...]
    }
    if words.contains("map") { #expect(ours.outputText == theirs.outputText) }
  }

  /// Lines without the commas that follow from their place, and without the space on disk, which the file system
  /// settles at its own time.
  private func comparable(_ text: String) -> [String] {
    text.split(separator: "\n").filter { !$0.contains("\"actual-size\"") }.map { line in
      String(line.hasSuffix(",") ? line.dropLast() : line)
    }
  }
}
