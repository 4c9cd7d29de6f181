import SystemPackage
import TestSupport
import Testing

/// A folder with images that QEMU's own programs made, for everything that `info`, `map` and the rest may print.
private struct Gallery {
  let folder: ScratchDirectory

  init() throws {
    folder = try ScratchDirectory()
    try make("create -q -f qcow2 base.qcow2 64M")
    try write("base.qcow2", "write 0 1M", "write -z 2M 1M")
    try make("create -q -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2 80M")
    try write("overlay.qcow2", "write 1M 1M", "write 3M 64k")
    try make("snapshot -c first overlay.qcow2")
    try make("snapshot -c a-name-of-more-than-sixteen-letters overlay.qcow2")
    try make("bitmap --add overlay.qcow2 dirty")
    try make("create -q -f qcow2 -o cluster_size=4k,compat=0.10 old.qcow2 10M")
    try make("create -q -f qcow2 -o extended_l2=on,lazy_refcounts=on,refcount_bits=1 sub.qcow2 10M")
    try write("sub.qcow2", "write 8k 2k", "write 1M 64k")
    try make("create -q -f qcow2 -o data_file=raw.data,data_file_raw=on external.qcow2 10M")
    try make("create -q -f qed plain.qed 10M")
    try write("plain.qed", "write 1M 64k")
    try make("create -q -f vmdk sparse.vmdk 10M")
    try make("create -q -f vmdk -o subformat=monolithicFlat flat.vmdk 10M")
    try make("create -q -f vmdk -o subformat=twoGbMaxExtentSparse split.vmdk 3G")
    try write("split.vmdk", "write 0 1M", "write 2100M 64k")
    try make("create -q -f vhdx dynamic.vhdx 10M")
    try make("create -q -f luks --object secret,id=s,data=abc -o key-secret=s,iter-time=10 volume.luks 10M")
    try make("create -q -f raw disk.raw 5M")
    try write("disk.raw", "write 1M 4k")
    try make("convert -c -O qcow2 disk.raw packed.qcow2")
    try make("convert -O vmdk -o subformat=streamOptimized disk.raw stream.vmdk")
    try folder.makeFolder("below")
    try make("create -q -f qcow2 -b ../base.qcow2 -F qcow2 below/child.qcow2")
  }

  private func make(_ line: String) throws {
    let result = try run(
      Tool.qemuImg.path ?? "qemu-img", line.split(separator: " ").map(String.init), in: folder.path)
    guard result.succeeded else { throw RunError(description: "qemu-img \(line): \(result.errorText)") }
  }

  private func write(_ image: String, _ commands: String...) throws {
    let words = commands.flatMap { ["-c", $0] } + [image]
    let result = try run(Tool.qemuIO.path ?? "qemu-io", words, in: folder.path)
    guard result.succeeded else { throw RunError(description: "qemu-io \(image): \(result.errorText)") }
  }

  /// Runs the same words under both programs.
  func both(_ line: String) throws -> (theirs: RunResult, ours: RunResult) {
    let words = line.split(separator: " ").map(String.init)
    let zone = ["LC_ALL": "C.UTF-8", "TZ": "UTC"]
    return (
      try run(Tool.qemuImg.path ?? "qemu-img", words, in: folder.path, environment: zone),
      try Program.run(["qemu-img"] + words, in: folder.path, environment: zone)
    )
  }
}

/// Under its drop-in name the program prints what qemu-img 7.2 prints, byte for byte.
@Suite("Output of the drop-in name", .serialized, .requires(.qemuImg, .qemuIO))
struct ToolOutputTests {
  private static let gallery = Result { try Gallery() }

  private static let images = [
    "base.qcow2", "overlay.qcow2", "old.qcow2", "sub.qcow2", "external.qcow2", "packed.qcow2", "below/child.qcow2",
    "plain.qed", "sparse.vmdk", "flat.vmdk", "split.vmdk", "stream.vmdk", "dynamic.vhdx", "volume.luks", "disk.raw",
  ]

  private func expectEqual(_ line: String) throws {
    let (theirs, ours) = try Self.gallery.get().both(line)
    #expect(ours.outputText == theirs.outputText, "qemu-img \(line)")
    #expect(ours.errorText == theirs.errorText, "qemu-img \(line)")
    #expect(ours.status == theirs.status, "qemu-img \(line)")
  }

  @Test("info, for people and as JSON", arguments: images)
  func info(image: String) throws {
    try expectEqual("info \(image)")
    try expectEqual("info --output=json \(image)")
    try expectEqual("info -U --output json \(image)")
  }

  @Test("info of a whole chain", arguments: ["overlay.qcow2", "below/child.qcow2", "disk.raw"])
  func chain(image: String) throws {
    try expectEqual("info --backing-chain \(image)")
    try expectEqual("info --backing-chain --output=json \(image)")
  }

  /// QEMU's VHDX driver tells no allocation, and its qcow2 driver no holes of an external data file; ours do, so these
  /// are left out.
  @Test(
    "map, for people and as JSON",
    arguments: images.filter { !["dynamic.vhdx", "volume.luks", "external.qcow2"].contains($0) })
  func map(image: String) throws {
    try expectEqual("map \(image)")
    try expectEqual("map --output=json \(image)")
    try expectEqual("map --output=json -s 512k -l 2M \(image)")
    try expectEqual("map --output=json --start-offset=100G \(image)")
  }

  @Test("measure for a raw target", arguments: images.filter { $0 != "volume.luks" })
  func measure(image: String) throws {
    try expectEqual("measure -O raw \(image)")
    try expectEqual("measure --output=json -Oraw \(image)")
  }

  @Test(
    "measure called wrongly, and over images that need not be there",
    arguments: [
      "measure", "measure --image-opts", "measure -f qcow2", "measure -l snap1", "measure -o , --size 1M",
      "measure -o size=1, --size 1M", "measure -l snapshot.foo=bar disk.raw", "measure --size 1M disk.raw",
      "measure -O qcow2 --size 7E", "measure -O qcow2 -o backing_file=nowhere -f raw disk.raw",
      "measure -O qcow2 -o backing_file=nowhere --size 1G",
    ])
  func measuring(line: String) throws { try expectEqual(line) }

  @Test(
    "compare: words and exit status",
    arguments: [
      "compare disk.raw packed.qcow2", "compare disk.raw base.qcow2", "compare -s disk.raw packed.qcow2",
      "compare -s packed.qcow2 disk.raw", "compare base.qcow2 overlay.qcow2", "compare -s base.qcow2 overlay.qcow2",
      "compare -q base.qcow2 overlay.qcow2", "compare -f raw -F qcow2 disk.raw packed.qcow2", "compare nope disk.raw",
      "compare disk.raw nope", "compare disk.raw", "compare -T bad disk.raw disk.raw",
      "compare -f bad disk.raw disk.raw",
    ])
  func compare(line: String) throws {
    try expectEqual(line)
  }

  @Test(
    "names: file:, json: and --image-opts",
    arguments: [
      "info file:base.qcow2", "info ./base.qcow2", "info -f raw base.qcow2", "info foo:bar",
      #"info json:{"driver":"raw","file":{"filename":"disk.raw"}}"#,
      #"info --output=json json:{"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"}}"#,
      "info --image-opts driver=qcow2,file.filename=base.qcow2",
      "info --image-opts driver=raw,file.filename=disk.raw,offset=1M,size=1M", "info --image-opts disk.raw",
      "info --image-opts foo=bar", "info --image-opts driver=qcow2,file.filename=base.qcow2,foo=1",
      "info --image-opts driver=raw,offset=1,,2,file.filename=x", "info json:",
      "info --object secret,id=s,data=abc --image-opts driver=luks,key-secret=s,file.filename=volume.luks",
    ])
  func names(line: String) throws {
    try expectEqual(line)
  }

  @Test(
    "mistakes on the command line",
    arguments: [
      "", "foo", "info", "info a b", "info --bad x", "info -zU disk.raw", "info -Uz disk.raw", "info -f",
      "info --output",
      "info --o=json disk.raw", "info --backing-chain=3 disk.raw", "info --output=xml disk.raw", "info nope",
      "info below",
      "map", "map -l abc disk.raw", "map -s 8E disk.raw", "map -l -1 disk.raw", "map disk.raw more", "measure",
      "measure a b", "measure --size 1x", "measure --size 1G disk.raw", "measure -O foo --size 1G",
      "measure -O raw -o foo=1 --size 1G", "check", "check -r foo base.qcow2", "check nope", "check disk.raw",
      "convert", "convert disk.raw", "convert -O raw nope out.raw", "convert -O foo disk.raw out.raw",
      "convert -f foo disk.raw out.raw", "convert -S 3 disk.raw out.raw", "convert -m 99 disk.raw out.raw",
      "convert -m 0 disk.raw out.raw", "convert -c disk.raw out.raw", "convert -n disk.raw none.raw",
      "convert -n base.qcow2 disk.raw", "convert -l none overlay.qcow2 out.raw",
      "convert -l snapshot.foo=1 overlay.qcow2 out.raw", "convert --target-is-zero disk.raw out.raw",
      "convert -o foo=1 disk.raw out.raw", "convert -t bad disk.raw out.raw", "convert -T bad disk.raw out.raw",
      "convert -B base.qcow2 disk.raw out.raw", "convert disk.raw none/out.raw", "convert -r 1x disk.raw out.raw",
      "convert -C -S 4k disk.raw out.raw", "convert disk.raw disk.raw",
    ])
  func mistakes(line: String) throws {
    try expectEqual(line)
  }

  @Test(
    "convert makes the same raw disk",
    arguments: [
      "-O raw overlay.qcow2", "-Oraw -fqcow2 -m 3 -W overlay.qcow2", "-O raw -l first overlay.qcow2",
      "-O raw -l snapshot.id=1 overlay.qcow2", "-O raw -S 0 disk.raw", "-O raw -S 64k disk.raw",
      "-O raw disk.raw packed.qcow2", "-O raw stream.vmdk", "-O raw -o preallocation=full disk.raw",
      "-O raw split.vmdk",
      "-U -T none -t none -O raw base.qcow2",
      "-O raw --object secret,id=s,data=abc --image-opts driver=luks,key-secret=s,file.filename=volume.luks",
    ])
  func convert(arguments: String) throws {
    let gallery = try Self.gallery.get()
    let words = arguments.split(separator: " ").map(String.init)
    try Tool.qemuImg.succeed("--version")
    let theirs = try run(Tool.qemuImg.path ?? "qemu-img", ["convert"] + words + ["theirs.raw"], in: gallery.folder.path)
    let ours = try Program.run(["qemu-img", "convert"] + words + ["ours.raw"], in: gallery.folder.path)
    #expect(theirs.succeeded, "\(theirs.errorText)")
    #expect(ours.succeeded, "\(ours.errorText)")
    #expect(ours.output.isEmpty && ours.errorText.isEmpty)
    let same = try run("cmp", ["theirs.raw", "ours.raw"], in: gallery.folder.path)
    #expect(same.succeeded, "\(same.outputText)")
  }
}

/// What the program does beside qemu-img.
@Suite("Output of platter", .serialized, .requires(.qemuImg, .qemuIO))
struct PlatterOutputTests {
  private static let gallery = Result { try Gallery() }

  private func platter(_ line: String, environment: [String: String] = [:]) throws -> RunResult {
    try Program.run(
      line.split(separator: " ").map(String.init), in: Self.gallery.get().folder.path, environment: environment)
  }

  @Test("a backing file beside the image is followed, one above it is not unless allowed")
  func references() throws {
    #expect(try platter("map overlay.qcow2").succeeded)
    let refused = try platter("map below/child.qcow2")
    #expect(refused.status == 1)
    #expect(refused.errorText.hasPrefix("platter: "))
    #expect(refused.errorText.contains("siblings"))
    #expect(try platter("map --references any below/child.qcow2").succeeded)
    #expect(try platter("map below/child.qcow2", environment: ["PLATTER_REFERENCES": "any"]).succeeded)
    #expect(try platter("map --references none overlay.qcow2").status == 1)
    #expect(try platter("qemu-img map below/child.qcow2").succeeded)
    #expect(try platter("qemu-img map overlay.qcow2", environment: ["PLATTER_REFERENCES": "none"]).status == 1)
  }

  @Test("standard output takes the disk, and progress then goes elsewhere")
  func standardOutput() throws {
    let piped = try platter("convert -p disk.raw -")
    #expect(piped.succeeded)
    #expect(piped.output == (try Self.gallery.get().folder.read("disk.raw")))
    #expect(piped.errorText.contains("(100.00/100%)"))
  }

  @Test("progress as JSON is a line each on standard error")
  func progress() throws {
    let result = try platter("convert --progress=json disk.raw progress.raw")
    #expect(result.succeeded)
    #expect(result.output.isEmpty)
    let lines = result.errorText.split(separator: "\n")
    #expect(lines.first == #"{"progress": 0.00}"#)
    #expect(lines.last == #"{"progress": 100.00}"#)
  }

  @Test("a copy that is stopped leaves nothing behind", arguments: ["INT", "TERM", "HUP"])
  func stopped(signal: String) throws {
    let program = try #require(Program.path)
    let folder = try ScratchDirectory()
    try folder.write([UInt8](repeating: 7, count: 2 << 20), to: "disk.raw")
    let result = try run(
      "timeout", ["-s", signal, "1", program, "convert", "-r", "256k", "disk.raw", "copy.raw"], in: folder.path)
    // What timeout says when it had to send its signal.
    #expect(result.status == 124, "\(result.errorText)")
    #expect(namesInFolder(folder.path) == ["disk.raw"])
  }

  @Test(
    "output that cannot be written is a failure", arguments: ["info disk.raw", "map disk.raw", "convert disk.raw -"])
  func fullOutput(line: String) throws {
    let program = try #require(Program.path)
    let result = try run("/bin/sh", ["-c", "\(program) \(line) > /dev/full"], in: Self.gallery.get().folder.path)
    #expect(result.status == 1)
    #expect(result.errorText.contains("No space left on device"))
  }

  @Test("the checksum is of the content, not of the format")
  func checksum() throws {
    let folder = try Self.gallery.get().folder.path
    for method in ["sha256-64k", "sha256"] {
      let raw = try platter("checksum --method=\(method) disk.raw").outputText.split(separator: " ")
      let packed = try platter("checksum --method=\(method) packed.qcow2").outputText.split(separator: " ")
      #expect(raw.first == packed.first)
      #expect(raw.first?.hasPrefix(method + ":") == true)
    }
    let sum = try run("sha256sum", ["disk.raw"], in: folder).outputText.prefix(64)
    #expect(try platter("checksum --method=sha256 disk.raw").outputText == "sha256:\(sum)  disk.raw\n")
  }

  @Test("inspect names what an image refers to, and opens none of it")
  func inspect() throws {
    let result = try platter("inspect below/child.qcow2")
    #expect(result.succeeded)
    #expect(result.outputText.contains(#""filename": "../base.qcow2""#))
    #expect(result.outputText.contains("leaves the image's folder"))
  }

  @Test("versions: scripts find QEMU's, people find ours")
  func versions() throws {
    #expect(try platter("qemu-img --version").outputText.hasPrefix("qemu-img version 7.2"))
    #expect(try platter("--version").outputText.hasPrefix("platter "))
  }

  @Test("a secret never shows", arguments: ["info", "map", "convert"])
  func secrets(verb: String) throws {
    let result = try platter(
      "\(verb) --object secret,id=s,data=wrong-and-hush --image-opts driver=luks,key-secret=s,file.filename=volume.luks"
        + (verb == "convert" ? " secret.raw" : ""))
    #expect(!(result.outputText + result.errorText).contains("hush"))
  }

  @Test("a passphrase comes from a file, with or without a line end")
  func passphraseFile() throws {
    let folder = try Self.gallery.get().folder
    try folder.write(Array("abc\n".utf8), to: "phrase")
    #expect(try platter("convert --passphrase-file phrase volume.luks phrase.raw").succeeded)
    try folder.write(Array("abd\n".utf8), to: "phrase")
    #expect(try platter("convert --passphrase-file phrase volume.luks phrase.raw").status == 1)
  }
}
