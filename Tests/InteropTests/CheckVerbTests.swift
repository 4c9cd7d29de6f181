import PlatterCore
import SystemPackage
import TestSupport
import Testing

/// `check`, with and without a repair, under both programs on twin images.
@Suite("check beside qemu-img", .requires(.qemuImg, .qemuIO)) struct CheckVerbTests {
  /// Damage that both can repair. Offsets are those of tables in the image that qemu-img makes: refcount block 0x20000,
  /// L1 table 0x30000, L2 table 0x40000, data from 0x50000 on.
  enum Damage: String, CaseIterable {
    case none
    case leak
    case missingFlag
    case missingFlagOfTable
    case leakAndMissingFlag
    case countTooHigh
    case countTooHighAndMissingFlag

    var lies: [(offset: UInt64, word: UInt64)] {
      let leak: (UInt64, UInt64) = (0x40008, 0)
      let flag: (UInt64, UInt64) = (0x40000, 0x50000)
      // Counts of clusters 4 to 7.
      let count: (UInt64, UInt64) = (0x20008, 0x0001_0003_0001_0001)
      return switch self {
      case .none: []
      case .leak: [leak]
      case .missingFlag: [flag]
      case .missingFlagOfTable: [(0x30000, 0x40000)]
      case .leakAndMissingFlag: [leak, flag]
      case .countTooHigh: [count]
      case .countTooHighAndMissingFlag: [count, flag]
      }
    }
  }

  private func twins(_ damage: Damage) throws -> Twins {
    let twins = try Twins(
      "create -f qcow2 disk.qcow2 4M",
      "qemu-io disk.qcow2 write -P 1 0 64k", "qemu-io disk.qcow2 write -P 2 64k 64k",
      "qemu-io disk.qcow2 write -P 3 192k 64k")
    for folder in [twins.theirs, twins.ours] {
      let store = try FileStore(folder.appending("disk.qcow2"), FileStore.Options(isWritable: true))
      for lie in damage.lies {
        let bytes = bigEndianBytes(lie.word)
        try store.write(bytes.rawBytes, at: lie.offset)
      }
    }
    return twins
  }

  /// `-r leaks` left wrong flags alone, and a repair counted flags that were wrong only because a count was.
  @Test(
    "the same output and exit status, and the same again when nothing is left", arguments: Damage.allCases,
    ["", "-r leaks ", "-r all "])
  func repairs(_ damage: Damage, mode: String) throws {
    for form in ["", "--output=json "] {
      let twins = try twins(damage)
      try twins.expectSameOutput("check \(mode)\(form)disk.qcow2")
      try twins.expectSameOutput("check \(form)disk.qcow2")
      try twins.expectSameOutput("check \(mode)\(form)disk.qcow2")
    }
  }

  /// Both were changed, one of them without a lock.
  @Test(
    "an image that others may have open, or that is to be read only, is not repaired", arguments: ["leaks", "all"])
  func refused(mode: String) throws {
    let twins = try twins(.leak)
    for options in [
      "-U disk.qcow2", "--image-opts driver=qcow2,file.filename=disk.qcow2,read-only=on",
      "--image-opts driver=qcow2,file.filename=disk.qcow2,file.read-only=on",
    ] {
      try twins.expectSame("check -r \(mode) \(options)")
      try twins.expectSameOutput("check \(options)")
    }
  }

  @Test("a cluster of a LUKS disk that is used twice is repaired where the secret is given")
  func encrypted() throws {
    let folder = try ScratchDirectory()
    let secret = ["--object", "secret,id=s,data=abc"]
    let options = ["--image-opts", "driver=qcow2,file.filename=disk,encrypt.key-secret=s"]
    let create = ["create", "-f", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"]
    #expect(try Program.run(["qemu-img"] + create + secret + ["disk", "4M"], in: folder.path).succeeded)
    func inQEMU(_ tool: Tool, _ words: [String]) throws -> RunResult {
      try run(tool.path ?? tool.name, words, in: folder.path)
    }
    let write = ["-c", "write -P 1 0 64k", "-c", "write -P 2 64k 64k"]
    #expect(try inQEMU(.qemuIO, secret + options + write).succeeded)
    let store = try FileStore(folder.file("disk"), FileStore.Options(isWritable: true))
    func word(at offset: UInt64) throws -> UInt64 {
      let bytes = try store.readPrefix(at: offset, count: 8)
      return bytes.rawBytes.bigEndian(at: 0) ?? 0
    }
    let table = try word(at: word(at: 40)) & 0x00ff_ffff_ffff_fe00
    let first = try store.readPrefix(at: table, count: 8)
    try store.write(first.rawBytes, at: table + 8)
    let without = try Program.run(["qemu-img", "check", "-r", "all", "disk"], in: folder.path)
    #expect(without.status == 2)
    #expect(without.errorText.contains("for which the repair needs the passphrase (encrypt.key-secret)"))
    let with = try Program.run(["qemu-img", "check", "-r", "all"] + secret + options, in: folder.path)
    #expect(with.status == 0, "\(with.errorText)")
    #expect(try inQEMU(.qemuImg, ["check"] + secret + options).succeeded)
    let read = try inQEMU(.qemuIO, secret + options + ["-c", "read -P 1 0 64k", "-c", "read -P 1 64k 64k"])
    #expect(read.succeeded && !read.outputText.contains("Pattern"), "\(read.outputText)")
  }

  @Test(
    "a repair that cannot open the image says so in the same words",
    arguments: ["nope.qcow2", "-f qcow2 text", "--image-opts driver=qcow2,file.filename=nope.qcow2"])
  func notOpened(line: String) throws {
    let twins = try Twins("create -f raw text 1M")
    try twins.expectSame("check -r all \(line)")
    try twins.expectSame("check \(line)")
  }

  /// They were written.
  @Test(
    "an image that is to be read only is not changed by any verb",
    arguments: ["snapshot -c one @", "resize @ 8M", "bitmap --add @ b", "amend -o lazy_refcounts=on @"])
  func readOnly(line: String) throws {
    let twins = try twins(.none)
    let image = "--image-opts driver=qcow2,file.filename=disk.qcow2,read-only=on"
    let words = line.split(separator: "@", omittingEmptySubsequences: false)
    try twins.expectSame("\(words[0])\(image)\(words[1])")
  }
}
