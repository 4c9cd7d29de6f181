import SystemPackage
import TestSupport
import Testing

/// `convert` through pipes, as scripts use it.
@Suite struct PipeTests {
  /// Data, a hole, text and an end inside a cluster.
  private static let content: [UInt8] = {
    var bytes = [UInt8](repeating: 0, count: (1 << 20) + 512)
    var random = SeededGenerator(seed: 0x919e)
    for index in 0..<100_000 { bytes[index] = UInt8.random(in: 0...255, using: &random) }
    for index in 400_000..<700_000 { bytes[index] = UInt8(truncatingIfNeeded: index / 53) }
    for index in (1 << 20)..<bytes.count { bytes[index] = 1 }
    return bytes
  }()

  private func folder() throws -> ScratchDirectory {
    let folder = try ScratchDirectory()
    try folder.write(Self.content, to: "disk.raw")
    return folder
  }

  /// A line of the shell; `platter` is the program under test.
  private func shell(_ line: String, in folder: ScratchDirectory) throws -> RunResult {
    let program = try #require(Program.path)
    return try run("/bin/bash", ["-c", "platter() { \(program) \"$@\"; }; " + line], in: folder.path)
  }

  /// qemu-img finds nothing wrong, and the same disk.
  private func expectDisk(_ name: String, in folder: ScratchDirectory, _ line: String) throws {
    let check = try Tool.qemuImg("check", "-f", "qcow2", name, in: folder.path)
    #expect(check.status == 0, "\(line): \(check.outputText)\(check.errorText)")
    let compare = try Tool.qemuImg("compare", "-f", "raw", "-F", "qcow2", "disk.raw", name, in: folder.path)
    #expect(compare.status == 0, "\(line): \(compare.outputText)\(compare.errorText)")
  }

  @Test(
    "images go through pipes in both directions", .requires(.qemuImg),
    arguments: [
      "platter convert -f raw -O qcow2 disk.raw - > out", "platter convert -f raw -O qcow2 -c disk.raw - | cat > out",
      "platter convert -f raw -O qcow2 -c -o compression_type=zstd,cluster_size=4k disk.raw /dev/stdout | cat > out",
      "mkfifo f; (cat f > out & platter convert -f raw -O qcow2 disk.raw f; wait)",
      "cat disk.raw | platter convert -f raw -O qcow2 - out",
      "cat disk.raw | platter convert -f raw -O qcow2 -c --source-size 1049088 /dev/stdin out",
      "platter convert -f raw -O qcow2 <(cat disk.raw) out",
      "cat disk.raw | platter convert --image-opts -O qcow2 driver=raw,file.filename=/dev/stdin,size=1049088 out",
      "mkfifo f; (cat disk.raw > f & platter convert -f raw -O qcow2 -c f out; wait)",
      "cat disk.raw | platter convert -f raw - - | platter convert -f raw -O qcow2 - out",
      "platter convert -f raw -O qcow2 - out < disk.raw",
      "qemu-img create -q -f qcow2 out 1049088; cat disk.raw | platter convert -n -c -f raw -O qcow2 - out",
      "qemu-img create -q -f qcow2 out 1049088; platter convert -n -c -W -f raw -O qcow2 disk.raw out",
    ])
  func throughPipes(_ line: String) throws {
    let folder = try folder()
    let result = try shell("set -o pipefail; " + line, in: folder)
    #expect(result.status == 0, "\(line): \(result.errorText)")
    #expect(result.errorText.isEmpty, "\(line)")
    try expectDisk("out", in: folder, line)
  }

  @Test("an encrypted image, and one over another, go through a pipe", .requires(.qemuImg))
  func encryptedOverlay() throws {
    let folder = try folder()
    let secret = "--object secret,id=s,data=abc"
    let result = try shell(
      "cp disk.raw base.raw; printf x | dd of=base.raw bs=1 seek=300000 conv=notrunc status=none; "
        + "platter convert \(secret) -f raw -O qcow2 -B base.raw -F raw "
        + "-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 disk.raw - > out && "
        + "qemu-img compare \(secret) --image-opts driver=raw,file.filename=disk.raw "
        + "driver=qcow2,file.filename=out,encrypt.key-secret=s && qemu-img check \(secret) --image-opts "
        + "driver=qcow2,file.filename=out,encrypt.key-secret=s", in: folder)
    #expect(result.status == 0, "\(result.outputText)\(result.errorText)")
  }

  @Test(
    "what cannot come or go through a pipe is refused in one sentence that says why",
    arguments: [
      ("platter convert -O qcow2 - out", "the format of a disk in a pipe cannot be found out; name it (-f raw)"),
      ("platter convert -f qcow2 - out", "a qcow2 image cannot be read from a pipe"),
      ("platter convert -f raw -O qcow2 - -", "cannot be made from one pipe into another"),
      ("platter convert -f raw -O qcow2 - disk.raw out", "a pipe must be the only source"),
      ("platter convert -f raw -O qcow2 --source-size 1049087 - out", "goes on after the 1049087 bytes"),
      ("platter convert -f raw -O qcow2 --source-size 1049089 - out", "ends after 1049088 bytes"),
      ("platter convert -f raw --source-size 1M disk.raw out", "--source-size is for a disk that comes through a pipe"),
      ("platter convert -f raw --salvage - out", "--salvage cannot be used with a pipe"),
      ("platter convert -f raw -O qcow2 -o preallocation=full - out", "space cannot be given in advance"),
      ("platter convert -f raw -O qcow2 -o data_file=d disk.raw -", "cannot go to a pipe"),
    ])
  func refused(_ line: String, _ reason: String) throws {
    let folder = try folder()
    let result = try shell("cat disk.raw | \(line)", in: folder)
    #expect(result.status == 1)
    #expect(result.errorText.contains(reason), "\(result.errorText)")
    #expect(result.errorText.split(separator: "\n").count == 1, "\(result.errorText)")
    #expect(result.output.isEmpty)
    #expect(namesInFolder(folder.path) == ["disk.raw"])
  }

  @Test("a reader that goes away is one error", arguments: ["-O raw", "-O qcow2", "-O qcow2 -c"])
  func closedPipe(_ options: String) throws {
    let folder = try folder()
    let result = try shell("platter convert -f raw \(options) disk.raw - | true; exit ${PIPESTATUS[0]}", in: folder)
    #expect(result.status == 1)
    #expect(result.errorText == "platter: standard output: cannot be written: Broken pipe\n")
  }

  // A copy was once ended by the second of two signals that timeout sends, before it could remove its file; another went
  // on to wait for bytes after the signal, and ended with the pipe.
  @Test("a signal while bytes are waited for leaves nothing behind", arguments: ["INT", "TERM", "HUP"])
  func stopped(_ signal: String) throws {
    let folder = try folder()
    // The shell itself keeps the writing end open.
    let result = try shell(
      "mkfifo bytes; exec 3<> bytes; head -c 50000 disk.raw >&3; "
        + "timeout -s \(signal) 1 \(Program.path ?? "") convert -f raw -O qcow2 - out < bytes", in: folder)
    // What timeout says when it had to send its signal.
    #expect(result.status == 124, "\(result.errorText)")
    #expect(namesInFolder(folder.path) == ["bytes", "disk.raw"])
  }

  @Test("a failure leaves an image that was there to be written, and removes one that was made")
  func failing() throws {
    let folder = try folder()
    #expect(try shell("platter convert -O qcow2 disk.raw there", in: folder).succeeded)
    let line = "head -c 300000 disk.raw | platter convert -f raw -O qcow2 --source-size 1049088"
    #expect(try shell("\(line) -n - there", in: folder).status == 1)
    #expect(try shell("\(line) - new", in: folder).status == 1)
    #expect(namesInFolder(folder.path) == ["disk.raw", "there"])
    #expect(try shell("platter check there && platter compare -f raw -F qcow2 disk.raw there", in: folder).succeeded)
  }

  @Test("--salvage says what qemu-img says, and saves as much", .requires(.qemuImg), arguments: ["", "-q "])
  func salvage(_ options: String) throws {
    let folder = try folder()
    try Tool.qemuImg.succeed("convert", "-c", "-O", "qcow2", "disk.raw", "bad.qcow2", in: folder.path)
    var bytes = try folder.read("bad.qcow2")
    // The first packed unit of the text, wherever it lies, is spoilt from its start on.
    let place = try #require(Self.packedUnit(7, bytes))
    bytes.replaceSubrange(place..<place + 16, with: [UInt8](repeating: 0xff, count: 16))
    try folder.write(bytes, to: "bad.qcow2")
    let words = ["convert", "--salvage", "-m", "1", "-f", "qcow2", "-O", "raw", "bad.qcow2"]
    let quiet = options.isEmpty ? [] : ["-q"]
    let theirs = try run(Tool.qemuImg.path ?? "qemu-img", words + quiet + ["theirs"], in: folder.path)
    let ours = try Program.run(["qemu-img"] + words + quiet + ["ours"], in: folder.path)
    #expect(ours.status == theirs.status)
    #expect(ours.errorText == theirs.errorText)
    #expect(ours.errorText.isEmpty == !options.isEmpty)
    #expect(try folder.read("ours") == folder.read("theirs"))
    #expect(try Program.run(["qemu-img", "convert", "bad.qcow2", "none"], in: folder.path).status == 1)
    #expect(namesInFolder(folder.path) == ["bad.qcow2", "disk.raw", "ours", "theirs"])
  }

  /// Where the packed unit of a cluster of 64 KiB lies.
  private static func packedUnit(_ number: Int, _ bytes: [UInt8]) -> Int? {
    func word(_ offset: Int) -> UInt64 { bytes[offset..<offset + 8].reduce(0) { $0 << 8 | UInt64($1) } }
    let table = Int(word(Int(word(40))) & 0x00ff_ffff_ffff_fe00)
    let entry = word(table + number * 8)
    return entry >> 62 == 1 ? Int(entry & ((1 << 54) - 1)) : nil
  }

  @Test("memory stays small, whatever the size of the clusters", .requires(.python), arguments: ["512", "2M"])
  func memory(_ clusterSize: String) throws {
    let folder = try folder()
    var text: [UInt8] = []
    while text.count < 40 << 20 { text += Self.content[400_000..<700_000] }
    try folder.write(text, to: "text.raw")
    let (result, peak) = try Program.runMeasured(
      ["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "cluster_size=\(clusterSize)", "text.raw", "/dev/stdout"],
      in: folder.path)
    #expect(result.succeeded, "\(result.errorText)")
    #expect(peak < 64 << 20)
  }
}
