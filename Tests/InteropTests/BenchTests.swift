import SystemPackage
import TestSupport
import Testing

/// `bench` says what qemu-img says, times aside.
@Suite("Bench beside qemu-img", .requires(.qemuImg))
struct BenchTests {
  private static func masked(_ text: String) -> String {
    text.split(separator: "\n").map { $0.hasPrefix("Run completed in ") ? "Run completed" : String($0) }
      .joined(separator: "\n")
  }

  @Test(
    "lines, refusals and exit statuses",
    arguments: [
      "-c 1000 disk", "-w -c 100 -d 4 --flush-interval=10 --pattern 5 -o 4k -s 512 -S 1024 disk",
      "-w -c 100 --flush-interval=10 --no-drain -d 2 disk", "-c 0 disk", "-c x disk", "-d 3000000000 disk",
      "-o -1 disk",
      "-o 16M -c 1 disk", "-s 0 -c 1 disk", "-s 3G disk", "-S x disk", "--flush-interval=5 -c 5 disk",
      "--flush-interval=2 -w -d 4 -c 3 disk", "--pattern 256 -c 3 disk", "-t foo disk", "-i foo disk",
      "-c 3 -o 7M -s 2M disk", "-U -w -c 1 disk", "-U -c 1 disk", "-q -w -c 10 disk", "disk disk", "",
    ])
  func lines(line: String) throws {
    let scratch = try ScratchDirectory()
    try scratch.write([UInt8](repeating: 1, count: 8 << 20), to: "disk")
    let words = ["bench", "-f", "raw"] + line.split(separator: " ").map(String.init)
    let expected = try run(Tool.qemuImg.path ?? "qemu-img", words, in: scratch.path)
    let got = try Program.run(["qemu-img"] + words, in: scratch.path)
    #expect(Self.masked(got.outputText) == Self.masked(expected.outputText))
    #expect(got.errorText == expected.errorText)
    #expect(got.status == expected.status)
  }

  @Test("no request at a time is refused; qemu-img waits for ever")
  func noDepth() throws {
    let scratch = try ScratchDirectory()
    try scratch.write([UInt8](repeating: 1, count: 4096), to: "disk")
    let got = try Program.run(["qemu-img", "bench", "-f", "raw", "-d", "0", "disk"], in: scratch.path)
    #expect(got.status == 1)
    #expect(got.errorText == "qemu-img: Invalid queue depth specified\n")
  }

  @Test("writes leave a sound image that holds the pattern")
  func image() throws {
    let scratch = try ScratchDirectory()
    try Tool.qemuImg.succeed("create", "-q", "-f", "qcow2", "disk", "4M", in: scratch.path)
    let words = ["bench", "-w", "-c", "200", "-s", "3000", "-S", "3000", "--pattern", "7", "-t", "none", "disk"]
    #expect(try Program.run(["qemu-img"] + words, in: scratch.path).status == 0)
    try Tool.qemuImg.succeed("check", "-q", "disk", in: scratch.path)
    let read = try run(
      Tool.qemuIO.path ?? "qemu-io", ["-c", "read -q -P 7 0 600000", "-c", "read -q -P 0 600000 1M", "disk"],
      in: scratch.path)
    #expect(read.status == 0 && read.outputText == "", "\(read.outputText)")
  }
}
