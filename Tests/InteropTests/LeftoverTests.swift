import PlatterCore
import SystemPackage
import TestSupport
import Testing

/// What is left in the folder of a file that could not be made: it appears whole or not at all.
@Suite("Files that could not be made") struct LeftoverTests {
  private static let before = ["data", "disk.raw", "old.qcow2"]

  private func folder() throws -> ScratchDirectory {
    let folder = try ScratchDirectory()
    var random = SeededGenerator(seed: 4)
    try folder.write(random.bytes(4 << 20), to: "disk.raw")
    for name in ["data", "old.qcow2"] { try folder.write(Array(name.utf8), to: name) }
    return folder
  }

  private func expectNothingNew(in folder: ScratchDirectory) throws {
    #expect(namesInFolder(folder.path) == Self.before)
    for name in ["data", "old.qcow2"] { #expect(try folder.read(name) == Array(name.utf8)) }
  }

  /// A file past its limit killed the program, which left what it had written so far under a hidden name. An external data
  /// file was emptied before anything else, and stayed so.
  @Test(
    "a disk that fills up",
    arguments: [
      "convert -f raw -O raw disk.raw new", "convert -f raw -O qcow2 disk.raw new",
      "convert -f raw -O qcow2 disk.raw old.qcow2", "convert -f raw -O qcow2 -c disk.raw new",
      "convert -f raw -O qcow2 -o preallocation=full disk.raw new",
      "convert -f raw -O qcow2 -o data_file=data disk.raw new",
      "convert -f raw -O qcow2 -o data_file=data,data_file_raw=on disk.raw old.qcow2",
      "convert -f raw -O qcow2 -o data_file=newdata disk.raw new",
      "create -q -f qcow2 -o preallocation=full new 4M", "create -q -f raw -o preallocation=full new 4M",
      "create -q -f qcow2 -o preallocation=full,data_file=data old.qcow2 4M",
      "dd -f raw if=disk.raw of=new", "dd -f raw -O qcow2 if=disk.raw of=old.qcow2",
    ])
  func fullDisk(line: String) throws {
    let folder = try folder()
    let program = try #require(Program.path)
    let result = try run("bash", ["-c", "ulimit -f 2000; '\(program)' \(line)"], in: folder.path)
    #expect(result.status == 1)
    #expect(result.errorText.contains("File too large"), "\(result.errorText)")
    #expect(result.errorText.split(separator: "\n").count == 1)
    try expectNothingNew(in: folder)
  }

  private static var hasNamelessFiles: Bool {
    guard let scratch = try? ScratchDirectory() else { return false }
    var options = FileStore.Options(isWritable: true)
    options.isNameless = true
    return (try? FileStore(scratch.path, options)) != nil
  }

  /// `create` and `dd` do not look for signals while they write.
  @Test(
    "a process that is killed", .requires(.timeout),
    .enabled(if: hasNamelessFiles, "the file system has no files without names"), arguments: ["TERM", "INT", "KILL"],
    ["create -q -f qcow2 -o preallocation=full old.qcow2 64G", "create -q -f raw -o preallocation=full new 64G"])
  func killed(signal: String, line: String) throws {
    let folder = try folder()
    let program = try #require(Program.path)
    let words = ["-s", signal, "0.2", program] + line.split(separator: " ").map(String.init)
    let result = try run(Tool.timeout.path ?? "timeout", words, in: folder.path)
    #expect(result.status != 0)
    try expectNothingNew(in: folder)
  }

  @Test("an image and its data file take the place of those that were there")
  func replaced() throws {
    let folder = try folder()
    for _ in 0..<2 {
      let words = ["convert", "-f", "raw", "-O", "qcow2", "-o", "data_file=data", "disk.raw", "old.qcow2"]
      #expect(try Program.run(words, in: folder.path).succeeded)
      #expect(namesInFolder(folder.path) == Self.before)
      #expect(try folder.read("data") == folder.read("disk.raw"))
      let compare = ["compare", "-f", "raw", "-F", "qcow2", "disk.raw", "old.qcow2"]
      #expect(try Program.run(compare, in: folder.path).succeeded)
    }
  }
}
