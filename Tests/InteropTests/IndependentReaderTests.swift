import SystemPackage
import TestSupport
import Testing

/// What our program writes, a reader that is neither ours nor QEMU's must understand.
@Suite("dissect.hypervisor and libqcow read the qcow2 images that we write", .requires(.dissect, .libqcow))
struct IndependentReaderTests {
  /// A way of writing an image, and who can read it.
  struct Writing: Sendable, CustomTestStringConvertible {
    /// Lines for `platter qemu-img` or `platter qemu-io` that end with an image called disk.
    var lines: [String]
    /// libqcow refuses newer features, reads zeros over a backing file as what is below them, and garbles some packed
    /// clusters: of qemu-img's images too.
    var isForLibqcow = true
    var testDescription: String { lines[0] }
  }

  private static let patterns = [
    "qemu-io -f qcow2 disk -c write|-q|-P|0xa1|0|64k -c write|-q|-P|0xa2|196608|131072 -c write|-q|-P|0xa3|1000448|5120",
    "qemu-io -f qcow2 disk -c write|-q|-z|262144|65536 -c discard|-q|0|4096 -c write|-q|-P|0xa5|4128768|65536",
  ]

  private static func created(_ options: String, _ more: String = "") -> [String] {
    ["create -q -f qcow2 \(options) disk 4M\(more)"] + patterns
  }

  private static func packed(_ options: String) -> [String] {
    ["convert -f raw -O qcow2 -c \(options) source disk"]
  }

  // Extended L2 entries are left out: dissect.hypervisor 3.21 stumbles over them, whoever wrote them.
  private static let writings = [
    Writing(lines: created("-o compat=0.10")),
    Writing(lines: created("-o compat=0.10,cluster_size=512")),
    Writing(lines: created("-o cluster_size=64k")),
    Writing(lines: created("-o cluster_size=2M,refcount_bits=64")),
    Writing(lines: created("-o lazy_refcounts=on,preallocation=metadata")),
    Writing(lines: created("-o data_file=disk.data"), isForLibqcow: false),
    Writing(lines: created("-o data_file=disk.data,data_file_raw=on"), isForLibqcow: false),
    Writing(lines: packed("-o compression_type=zlib"), isForLibqcow: false),
    Writing(lines: packed("-o compression_type=zlib,cluster_size=4k"), isForLibqcow: false),
    Writing(lines: packed("-o compression_type=zstd"), isForLibqcow: false),
    Writing(
      lines: ["convert -f raw -O qcow2 source base", "create -q -f qcow2 -b base -F qcow2 disk"] + patterns,
      isForLibqcow: false),
    Writing(
      lines: ["convert -f raw -O qcow2 source base", "create -q -f qcow2 -b base -F qcow2 disk", patterns[0]]),
    Writing(
      lines: ["convert -f raw -O qcow2 source disk", "snapshot -c one disk"] + patterns + ["resize -q disk 6M"]),
  ]

  @Test("the same content", arguments: writings)
  func content(of writing: Writing) throws {
    let scratch = try ScratchDirectory()
    try make(writing.lines, in: scratch)
    try ours(["convert", "-f", "qcow2", "-O", "raw", "disk", "ours.raw"], in: scratch)

    let right = try IndependentReader.plain.read([scratch.file("ours.raw")], format: "raw")
    #expect(try IndependentReader.dissect.read([scratch.file("disk")], format: "qcow2") == right)
    if writing.isForLibqcow {
      #expect(try IndependentReader.libqcow.read([scratch.file("disk")], format: "qcow2") == right)
    }
  }

  @Test("the same content of each snapshot", arguments: ["one", "two"])
  func snapshot(named name: String) throws {
    let scratch = try ScratchDirectory()
    try make(["convert -f raw -O qcow2 source disk", "snapshot -c one disk"], in: scratch)
    try make(Self.patterns + ["snapshot -c two disk", "qemu-io -f qcow2 disk -c write|-q|-z|0|1M"], in: scratch)
    try ours(["convert", "-f", "qcow2", "-l", name, "-O", "raw", "disk", "ours.raw"], in: scratch)

    let right = try IndependentReader.plain.read([scratch.file("ours.raw")], format: "raw")
    #expect(try IndependentReader.dissect.read([scratch.file("disk")], format: "qcow2", snapshot: name) == right)
  }

  /// Runs the lines; the bars stand for blanks inside a word.
  private func make(_ lines: [String], in scratch: ScratchDirectory) throws {
    var generator = SeededGenerator(seed: 5)
    let zeros = [UInt8](repeating: 0, count: 1 << 20)
    try scratch.write(
      generator.text(1 << 20) + zeros + generator.bytes(1 << 20) + generator.text(1 << 20), to: "source")
    for line in lines {
      let words = line.split(separator: " ").map { $0.split(separator: "|").joined(separator: " ") }
      try ours(words, in: scratch)
    }
  }

  private func ours(_ words: [String], in scratch: ScratchDirectory) throws {
    let result = try Program.run((words[0] == "qemu-io" ? [] : ["qemu-img"]) + words, in: scratch.path)
    guard result.succeeded else { throw RunError(description: "\(words): \(result.outputText)\(result.errorText)") }
  }
}
