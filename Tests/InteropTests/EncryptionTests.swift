import SystemPackage
import TestSupport
import Testing

/// LUKS volumes and key slots that both programs make, change and read in turns.
@Suite("Encryption, in turns with qemu-img", .serialized, .requires(.qemuImg, .qemuIO))
struct EncryptionTests {
  private let scratch: ScratchDirectory
  private var folder: FilePath { scratch.path }

  init() throws {
    scratch = try ScratchDirectory()
    var random = SeededGenerator(seed: 0x5ec2)
    try scratch.write(random.bytes(70_000) + [UInt8](repeating: 0, count: 20_112), to: "plain.raw")
    try scratch.write(Array("first secret".utf8), to: "one")
    try scratch.write(Array("second secret".utf8), to: "two")
  }

  private static let secrets = [
    "--object", "secret,id=one,file=one", "--object", "secret,id=two,file=two",
  ]

  /// Behind the verb: the last word of `resize` is the size.
  private static func withSecrets(_ words: [String]) -> [String] { [words[0]] + secrets + words.dropFirst() }

  private func ours(_ words: String..., isFailure: Bool = false) throws {
    let result = try Program.run(["qemu-img"] + Self.withSecrets(words), in: folder)
    #expect(result.succeeded != isFailure, "\(words): \(result.errorText)")
    for secret in ["first secret", "second secret"] {
      #expect(!(result.outputText + result.errorText).contains(secret))
    }
  }

  /// qemu-img measures its own processor time in whole ticks and gives up now and then when it took none.
  private func theirs(_ words: String..., isFailure: Bool = false) throws {
    for _ in 0..<60 {
      let result = try run(Tool.qemuImg.path ?? "qemu-img", Self.withSecrets(words), in: folder)
      if result.errorText.contains("CPU usage") { continue }
      #expect(result.succeeded != isFailure, "\(words): \(result.errorText)")
      return
    }
    Issue.record("qemu-img cannot tell the time: \(words)")
  }

  private func image(_ name: String = "disk", _ secret: String = "one", driver: String = "luks") -> String {
    "driver=\(driver),\(driver == "luks" ? "" : "encrypt.")key-secret=\(secret),file.filename=\(name)"
  }

  // QEMU 7.2 has no key of 24 bytes: 4000 of them are no whole number of sectors, which stops it (an assertion).
  static let combinations = PairwiseChoice.all([
    [
      "aes-128", "aes-192", "aes-256", "serpent-128", "serpent-192", "serpent-256", "twofish-128", "twofish-192",
      "twofish-256", "cast5-128",
    ],
    ["cbc", "xts", "ctr"],
    ["plain", "plain64", "essiv"],
    ["hash sha224", "hash sha256", "hash sha384", "hash sha512", "hash ripemd160"],
  ]) { values in
    let is192 = values.contains { $0.hasSuffix("-192") }
    if is192, values.contains("cbc") || values.contains("ctr") { return false }
    // Its blocks are too short for XTS, and no key of it is as long as this hash value.
    return !values.contains("cast5-128") || !(values.contains("xts") || values.contains("essiv"))
  }

  @Test(
    "every cipher with every mode, generator and hash: ours opens, and what qemu-io writes into it we read",
    arguments: combinations)
  func combination(values: [String]) throws {
    let options =
      "key-secret=one,iter-time=1,cipher-alg=\(values[0]),cipher-mode=\(values[1]),ivgen-alg=\(values[2])"
      + ",hash-alg=\(values[3].dropFirst(5))"
    try ours("convert", "-f", "raw", "-O", "luks", "-o", options, "plain.raw", "disk")
    let write = try run(
      Tool.qemuIO.path ?? "qemu-io",
      Self.secrets + ["--image-opts", image(), "-c", "write -P 0x41 3000 40k", "-c", "write -z 50k 1k"], in: folder)
    #expect(write.succeeded, "\(write.errorText)")
    try theirs("convert", "--image-opts", "-O", "raw", image(), "theirs.raw")
    try ours("convert", "--image-opts", "-O", "raw", image(), "ours.raw")
    var expected = try scratch.read("plain.raw")
    expected.replaceSubrange(3000..<3000 + 40 << 10, with: [UInt8](repeating: 0x41, count: 40 << 10))
    expected.replaceSubrange(50 << 10..<51 << 10, with: [UInt8](repeating: 0, count: 1 << 10))
    #expect(try scratch.read("theirs.raw") == expected)
    #expect(try scratch.read("ours.raw") == expected)
  }

  @Test("writing in place: our qemu-io, their reading") func writing() throws {
    try ours("create", "-q", "-f", "luks", "-o", "key-secret=one,iter-time=1", "disk", "1M")
    let write = try Program.run(
      ["qemu-io"] + Self.secrets + [
        "--image-opts", image(), "-c", "write -P 7 0 1M", "-c", "write -P 9 1000 70000", "-c", "write -z 4k 5k", "-c",
        "discard 0 64k", "-c", "truncate 2M", "-c", "write -P 5 1M 1M",
      ], in: folder)
    #expect(write.succeeded, "\(write.outputText)\(write.errorText)")
    try theirs("convert", "--image-opts", "-O", "raw", image(), "theirs.raw")
    var expected = [UInt8](repeating: 7, count: 1 << 20) + [UInt8](repeating: 5, count: 1 << 20)
    expected.replaceSubrange(1000..<71000, with: [UInt8](repeating: 9, count: 70000))
    expected.replaceSubrange(4096..<4096 + 5120, with: [UInt8](repeating: 0, count: 5120))
    #expect(try scratch.read("theirs.raw") == expected)
    try ours("resize", "--image-opts", image(), "--shrink", "512k")
    try ours("convert", "-n", "--image-opts", "--target-image-opts", "driver=raw,file.filename=plain.raw", image())
    try theirs("resize", "--image-opts", image(), "--shrink", "90112")
    try theirs("compare", "--image-opts", image(), "driver=raw,file.filename=plain.raw")
  }

  @Test("key slots change hands", arguments: ["luks", "qcow2"]) func keySlots(driver: String) throws {
    let prefix = driver == "luks" ? "" : "encrypt."
    let format = driver == "luks" ? "" : "encrypt.format=luks,"
    try ours("create", "-q", "-f", driver, "-o", "\(format)\(prefix)key-secret=one,\(prefix)iter-time=1", "disk", "1M")
    let add = "\(prefix)state=active,\(prefix)new-secret=two,\(prefix)iter-time=10"
    let (one, two) = (image(driver: driver), image("disk", "two", driver: driver))
    try ours("amend", "--image-opts", one, "-o", add)
    try theirs("resize", "--image-opts", two, "2M")
    try theirs("amend", "--image-opts", two, "-o", add + ",\(prefix)keyslot=6")
    try theirs("amend", "--image-opts", two, "-o", "\(prefix)state=inactive,\(prefix)old-secret=one")
    try ours("resize", "--image-opts", one, "3M", isFailure: true)
    try theirs("resize", "--image-opts", one, "3M", isFailure: true)
    try ours("amend", "--image-opts", two, "-o", "\(prefix)state=inactive,\(prefix)keyslot=1")
    try theirs("resize", "--image-opts", two, "3M")
    try ours("amend", "--image-opts", two, "-o", "\(prefix)state=inactive,\(prefix)old-secret=two", isFailure: true)
    try ours("amend", "--image-opts", two, "-o", "\(prefix)state=inactive,\(prefix)old-secret=two", "--force")
    try theirs("resize", "--image-opts", two, "4M", isFailure: true)
  }

  /// The words, status for status, of a volume whose slots 0 and 1 open under the first secret and the second.
  @Test("what is refused, in the same words") func refusals() throws {
    try ours("create", "-q", "-f", "luks", "-o", "key-secret=one,iter-time=1", "disk", "64k")
    try ours("amend", "--image-opts", image(), "-o", "state=active,new-secret=two,iter-time=1")
    let before = try scratch.read("disk")
    for options in [
      "new-secret=two", "state=active", "state=gone", "state=active,new-secret=nobody",
      "state=active,new-secret=two,keyslot=1", "state=active,new-secret=two,keyslot=8", "state=inactive",
      "state=active,new-secret=two,old-secret=one", "state=inactive,keyslot=9",
      "state=inactive,keyslot=0,new-secret=two",
      "state=inactive,keyslot=1,iter-time=5", "state=inactive,keyslot=0,old-secret=two", "cipher-alg=aes-128",
      "size=4M", "nothing=1", "keyslot=x,state=active",
    ] {
      let words = ["amend", "--image-opts", image(), "-o", options] + Self.secrets
      let their = try run(Tool.qemuImg.path ?? "qemu-img", words, in: folder)
      let our = try Program.run(["qemu-img"] + words, in: folder)
      #expect(our.errorText == their.errorText, "\(options)")
      #expect(our.status == their.status, "\(options)")
    }
    #expect(try scratch.read("disk") == before)
    for words in [
      ["amend", "-f", "luks", "-o", "help"],
      ["create", "-f", "luks", "-o", "help"], ["resize", "-f", "luks", "disk", "1M"],
      ["measure", "-O", "luks", "-o", "key-secret=one,iter-time=1", "--size", "5G"],
      ["check", "--image-opts", image()],
    ] {
      let their = try run(Tool.qemuImg.path ?? "qemu-img", Self.withSecrets(words), in: folder)
      if their.errorText.contains("CPU usage") { continue }
      let our = try Program.run(["qemu-img"] + Self.withSecrets(words), in: folder)
      #expect(our.outputText == their.outputText, "\(words)")
      #expect(our.errorText == their.errorText, "\(words)")
      #expect(our.status == their.status, "\(words)")
    }
  }

  @Test(
    "cryptsetup opens every cipher that it has, keys of 24 bytes too", .requires(.cryptsetup),
    arguments: ["aes-128 cbc", "aes-192 cbc", "aes-256 cbc", "aes-128 xts", "aes-256 xts"])
  func cryptsetup(name: String) throws {
    let words = name.split(separator: " ")
    try ours(
      "create", "-q", "-f", "luks", "-o",
      "key-secret=one,iter-time=1,cipher-alg=\(words[0]),cipher-mode=\(words[1])", "disk", "1M")
    try ours("amend", "--image-opts", image(), "-o", "state=active,new-secret=two,iter-time=1,keyslot=7")
    for (secret, slot) in [("one", "0"), ("two", "7")] {
      try Tool.cryptsetup.succeed(
        "open", "--test-passphrase", "--key-slot", slot, "--key-file", scratch[secret], scratch["disk"])
    }
    // And the other way: a passphrase that it adds.
    try scratch.write(Array("third".utf8), to: "three")
    try Tool.cryptsetup.succeed(
      "luksAddKey", "-q", "--pbkdf-force-iterations", "1000", "--key-file", scratch["one"], scratch["disk"],
      scratch["three"])
    let result = try Program.run(
      ["qemu-img", "resize", "--object", "secret,id=three,file=three", "--image-opts", image("disk", "three"), "2M"],
      in: folder)
    #expect(result.succeeded, "\(result.errorText)")
  }

  /// The data file stood behind the encryption, and space that was never written had a place.
  @Test(
    "info and map of an encrypted disk are qemu-img's",
    arguments: [("info", "data_file=outside"), ("info", "lazy_refcounts=on"), ("map", "extended_l2=on")])
  func told(verb: String, options: String) throws {
    try theirs(
      "create", "-q", "-f", "qcow2", "-o", "encrypt.format=aes,encrypt.key-secret=one,\(options)", "disk", "1M")
    let write = ["--image-opts", image(driver: "qcow2"), "-c", "write 8k 2k", "-c", "write -z 128k 2k"]
    #expect(try run(Tool.qemuIO.path ?? "qemu-io", Self.secrets + write, in: folder).succeeded)
    let words = Self.withSecrets([verb, "--output=json", "--image-opts", image(driver: "qcow2")])
    let expected = try run(Tool.qemuImg.path ?? "qemu-img", words, in: folder)
    #expect(try Program.run(["qemu-img"] + words, in: folder).outputText == expected.outputText)
  }

  /// QEMU leaves them in the clear.
  @Test(
    "packed clusters that qemu-io writes into an encrypted disk are read and written over", arguments: ["aes", "luks"])
  func packed(format: String) throws {
    let options = "encrypt.format=\(format),encrypt.key-secret=one" + (format == "luks" ? ",encrypt.iter-time=1" : "")
    try theirs("create", "-q", "-f", "qcow2", "-o", options, "disk", "1M")
    let words = Self.secrets + ["--image-opts", image(driver: "qcow2")]
    let packing = try run(Tool.qemuIO.path ?? "qemu-io", words + ["-c", "write -q -c -P 7 0 128k"], in: folder)
    #expect(packing.succeeded, "\(packing.outputText)")
    let writing = ["-c", "read -q -P 7 0 128k", "-c", "write -q -P 9 1000 2000"]
    let ours = try Program.run(["qemu-io"] + words + writing, in: folder)
    #expect(ours.succeeded && ours.outputText == "", "\(ours.outputText)\(ours.errorText)")
    try theirs("check", "--image-opts", image(driver: "qcow2"))
    let reading = ["-c", "read -q -P 9 1000 2000", "-c", "read -q -P 7 3000 128072"]
    let theirs = try run(Tool.qemuIO.path ?? "qemu-io", words + reading, in: folder)
    #expect(theirs.succeeded && theirs.outputText == "", "\(theirs.outputText)")
  }
}
