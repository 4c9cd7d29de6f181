import TestSupport
import Testing

/// "blkdebug" above a disk: faults and limits that scripts give to requests.
@Suite("Faults and limits of requests")
struct RequestFilterTests {
  private let scratch: ScratchDirectory

  init() throws { scratch = try ScratchDirectory() }

  /// The lines that commands on a new qcow2 disk of 1 MiB print, without figures of speed.
  private func lines(_ node: String, _ commands: [String], image: String = "disk") throws
    -> [String]
  {
    if image == "disk" {
      #expect(try Program.run(["qemu-img", "create", "-q", "-f", "qcow2", "disk", "1M"], in: scratch.path).succeeded)
    }
    let words = ["open \(node) \(image)"] + commands
    let result = try Program.run(["qemu-io"] + words.flatMap { ["-c", $0] }, in: scratch.path)
    return (result.outputText + result.errorText).split(separator: "\n").map(String.init)
      .filter { !$0.contains(" ops; ") }
  }

  private static let above = "-o driver=blkdebug,image.driver=qcow2,"

  /// As qemu-io 7.2 has it.
  @Test(
    "a rule fails the requests of its kind",
    arguments: [
      ("read", ["wrote", "read failed", "wrote", "discard"]),
      ("write", ["write failed", "read", "wrote", "discard"]),
      ("write-zeroes", ["wrote", "read", "write failed", "discard"]),
      ("discard", ["wrote", "read", "wrote", "discard failed"]),
    ])
  func kinds(kind: String, outcomes: [String]) throws {
    let commands = ["write 0 64k", "read 0 64k", "write -z 0 64k", "discard 0 64k"]
    let rule = "inject-error.0.event=none,inject-error.0.errno=28,inject-error.0.iotype=\(kind)"
    let expected = outcomes.map { outcome in
      outcome.hasSuffix("failed")
        ? "\(outcome): No space left on device" : "\(outcome) 65536/65536 bytes at offset 0"
    }
    #expect(try lines(Self.above + rule, commands) == expected)
  }

  @Test("a rule of one sector fails requests that contain it, and once means once")
  func sector() throws {
    let rule = "inject-error.0.event=none,inject-error.0.once=on,inject-error.0.sector=5"
    let found = try lines(Self.above + rule, ["write 0 2560", "write 3k 512", "write 2560 512", "write 2560 512"])
    #expect(
      found == [
        "wrote 2560/2560 bytes at offset 0", "wrote 512/512 bytes at offset 3072",
        "write failed: Input/output error", "wrote 512/512 bytes at offset 2560",
      ])
  }

  @Test("rules of a file wait for a copy-on-read, and for their state")
  func copyOnRead() throws {
    let rules = """
      # the second copy fails
      [set-state]
      event = "cor_write"
      state = "1"
      new_state = "2"

      [inject-error]
      event = "cor_write"
      state = "2"
      errno = "28"
      """
    try scratch.write(Array(rules.utf8), to: "rules")
    try scratch.write([UInt8](repeating: 7, count: 1 << 20), to: "base")
    #expect(
      try Program.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "top"], in: scratch.path
      ).succeeded)
    let commands = ["read -P 7 0 64k", "read -P 7 64k 64k", "read -P 7 0 64k"]
    let found = try lines("-C -o driver=blkdebug,config=rules,image.driver=qcow2", commands, image: "top")
    let failure = "read failed: No space left on device"
    // An active rule stays active.
    #expect(found == ["read 65536/65536 bytes at offset 0", failure, failure])
    let map = try Program.run(["qemu-img", "map", "--output=json", "top"], in: scratch.path).outputText
    #expect(map.hasPrefix(#"[{ "start": 0, "length": 65536, "depth": 0, "#))
  }

  @Test("zeros outside whole steps are written as data")
  func zeroSteps() throws {
    let limits = "align=512,opt-write-zero=192k,max-write-zero=192k"
    _ = try lines(Self.above + limits, ["write -z 64k 640k"])
    let map = try Program.run(["qemu-img", "map", "--output=json", "disk"], in: scratch.path).outputText
    let lines = map.split(separator: "\n").map { $0.prefix { $0 != "}" } }
    #expect(lines.count == 5)
    let kinds = lines.map { ($0.contains(#""zero": true"#) ? "zero " : "data ") + $0.split(separator: " ")[4] }
    #expect(kinds == ["zero 65536,", "data 131072,", "zero 393216,", "data 131072,", "zero 327680,"])
  }

  @Test(
    "what is not understood is refused",
    arguments: [
      ("align=3", "Cannot meet constraints with align 3"),
      ("align=4k,opt-write-zero=512", "Cannot meet constraints with opt-write-zero 512"),
      ("max-discard=1000,opt-discard=512", "Cannot meet constraints with max-discard 1000"),
      ("inject-error.0.iotype=read", "Missing event name for rule"),
      ("inject-error.0.event=none,inject-error.0.iotype=foo", "invalid parameter value: foo"),
      ("inject-error.0.event=none,inject-error.0.errno=x", "Parameter 'errno' expects a number"),
      ("inject-error.0.event=none,inject-error.0.foo=3", "[inject-error] section doesn't support the option 'foo'"),
      ("config=nowhere", "Could not read blkdebug config file: No such file or directory"),
      ("inject-error.0.event=l2_load", "the event 'l2_load' of a 'blkdebug' node is not supported"),
      (
        "inject-error.0.event=none,inject-error.0.iotype=block-status",
        "faults of the kind 'block-status' by a 'blkdebug' node are not supported"
      ),
    ])
  func refusals(options: String, sentence: String) throws {
    #expect(try lines(Self.above + options, []) == ["qemu-io: can't open device disk: \(sentence)"])
  }

  @Test(
    "qemu-io says the same", .requires(.qemuIO, .qemuImg),
    arguments: [
      "inject-error.0.event=none", "inject-error.0.event=none,inject-error.0.iotype=write,inject-error.0.sector=3",
      "inject-error.0.event=none,inject-error.0.iotype=write-zeroes,inject-error.0.errno=22",
      "inject-error.0.event=none,inject-error.0.iotype=discard", "opt-write-zero=192k", "align=4k", "align=3",
      "align=4k,opt-write-zero=512", "inject-error.0.event=none,inject-error.0.errno=x", "config=nowhere",
      "inject-error.0.event=none,inject-error.0.sector=-5", "inject-error.0.event=foo,inject-error.0.bar=1",
    ])
  func interop(options: String) throws {
    let commands = [
      "open \(Self.above)\(options) disk", "write 0 64k", "read 0 0", "write -z 1k 1k", "write -z 64k 640k",
      "discard 128k 64k", "read 0 64k", "writev 512 512 512", "map", "alloc 0 1M",
    ].flatMap { ["-c", $0] }
    var results: [RunResult] = []
    for isOurs in [false, true] {
      try Tool.qemuImg.succeed("create", "-q", "-f", "qcow2", "disk", "1M", in: scratch.path)
      results.append(
        try isOurs
          ? Program.run(["qemu-io"] + commands, in: scratch.path)
          : run(Tool.qemuIO.path ?? "qemu-io", commands, in: scratch.path))
    }
    func withoutSpeed(_ text: String) -> [Substring] { text.split(separator: "\n").filter { !$0.contains(" ops; ") } }
    #expect(withoutSpeed(results[1].outputText) == withoutSpeed(results[0].outputText))
    #expect(results[1].errorText == results[0].errorText)
    #expect(results[1].status == results[0].status)
  }
}
