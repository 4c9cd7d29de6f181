import PlatterCore
import PlatterCrypto
import PlatterLUKS
import SystemPackage
import TestSupport
import Testing

@Suite("LUKS volumes of other programs")
struct InteropTests {
  let scratch: ScratchDirectory

  init() throws {
    scratch = try ScratchDirectory()
    try scratch.write(Array("open sesame".utf8), to: "secret")
  }

  // Each takes qemu-img some seconds, whatever `iter-time` says: few variants, many features each. What we make and it
  // writes to has all the others.
  static let options = [
    "cipher-alg=aes-256", "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha1",
    "cipher-alg=serpent-256,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha512",
    "cipher-alg=twofish-128,cipher-mode=ctr,ivgen-alg=plain64,hash-alg=sha384",
    "cipher-alg=cast5-128,cipher-mode=cbc,ivgen-alg=plain,hash-alg=ripemd160", "cipher-alg=aes-192",
  ]

  @Test(
    "what qemu-io writes, we read, and our facts are what qemu-img prints", .requires(.qemuImg, .qemuIO),
    arguments: options)
  func readsQEMU(options: String) throws {
    try create(options)
    let secret = "secret,id=s,file=\(scratch["secret"])"
    let image = "driver=luks,key-secret=s,file.filename=\(scratch["disk.luks"])"
    try Tool.qemuIO.succeed(
      "--object", secret, "--image-opts", image, "-c", "write -P 0x41 0 300k", "-c", "write -P 0x42 300k 212k", "-c",
      "write -P 0x43 1023k 1k")
    try Tool.qemuImg.succeed(
      "convert", "--object", secret, "--image-opts", image, "-O", "raw", scratch["disk.raw"])
    let map = try LUKS.open(try FileStore(scratch.file("disk.luks")), context("open sesame"))
    #expect(try contents(map) == scratch.read("disk.raw"))

    let text = try Tool.qemuImg.succeed("info", "--output=json", scratch["disk.luks"]).outputText
    let facts = try #require(map.facts.specific)
    let start = try #require(text.firstRange(of: "\"data\": "))
    let squeezed = text[start.upperBound...].filter { !$0.isWhitespace }
    #expect(squeezed.hasPrefix(json(facts)))
    #expect(text.contains("\"virtual-size\": \(map.byteCount),"))
  }

  @Test(
    "volumes of cryptsetup open", .requires(.cryptsetup),
    arguments: [
      ["--cipher", "aes-xts-plain64", "--key-size", "512", "--hash", "sha256"],
      ["--cipher", "aes-cbc-essiv:sha256", "--key-size", "256", "--hash", "sha1"],
      ["--cipher", "aes-cbc-plain64", "--key-size", "192", "--hash", "ripemd160"],
      ["--cipher", "aes-xts-plain64", "--key-size", "256", "--hash", "sha512", "--key-slot", "3"],
    ])
  func readsCryptsetup(options: [String]) throws {
    try scratch.write([UInt8](repeating: 0, count: 4 << 20), to: "disk.luks")
    let made = try run(
      Tool.cryptsetup.path ?? "cryptsetup",
      ["luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000", "--key-file", scratch["secret"]]
        + options + [scratch["disk.luks"]])
    #expect(made.succeeded, "\(made.errorText)")
    try Tool.cryptsetup.succeed(
      "luksDump", "--dump-master-key", "-q", "--key-file", scratch["secret"], "--master-key-file", scratch["key"],
      scratch["disk.luks"])
    let store = try FileStore(scratch.file("disk.luks"))
    let head = try store.readPrefix(count: 592)
    let header = try LUKSHeader(parsing: head.rawBytes, areaByteCount: 4 << 20, hasPayload: true)
    let key = try header.unlock(passphrase: Array("open sesame".utf8)) { (offset, count) throws(ImageError) in
      try store.readFully("key material", at: offset, count: count)
    }
    #expect(key.bytes.array() == (try scratch.read("key")))
    #expect(try LUKS.open(store, context("open sesame")).byteCount == (4 << 20) - header.payloadOffset)
  }

  @Test("version 2 of cryptsetup is refused by name", .requires(.cryptsetup)) func versionTwo() throws {
    try scratch.write([UInt8](repeating: 0, count: 20 << 20), to: "disk.luks")
    try Tool.cryptsetup.succeed(
      "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file",
      scratch["secret"], scratch["disk.luks"])
    let error = #expect(throws: ImageError.self) {
      try LUKS.open(try FileStore(scratch.file("disk.luks")), context("open sesame"))
    }
    #expect(error?.message == "LUKS version 2 is not supported")
  }

  /// qemu-img measures its own processor time in whole ticks and gives up now and then when it took none.
  private func create(_ options: String) throws {
    var last = ""
    for _ in 0..<40 {
      let result = try Tool.qemuImg(
        "create", "-q", "--object", "secret,id=s,file=\(scratch["secret"])", "-f", "luks", "-o",
        "key-secret=s,iter-time=10,\(options)", scratch["disk.luks"], "1M")
      if result.succeeded { return }
      last = result.errorText
      guard last.contains("CPU usage") else { break }
    }
    throw ImageError(.io, "qemu-img: \(last)")
  }

  private func json(_ property: Property) -> String {
    switch property {
    case .text(let text): "\"\(text)\""
    case .integer(let number): "\(number)"
    case .unsigned(let number): "\(number)"
    case .flag(let flag): "\(flag)"
    case .null: "null"
    case .list(let items): "[" + items.map { json($0) }.joined(separator: ",") + "]"
    case .object(let members):
      "{" + members.map { "\"\($0.name)\":\(json($0.value))" }.joined(separator: ",") + "}"
    }
  }
}
