import Platter
import PlatterCore
import PlatterQCOW2
import SystemPackage
import TestSupport
import Testing
import WriterProof

/// What the writer leaves, qemu-img finds clean and reads alike.
@Suite("Written images before qemu-img", .requires(.qemuImg)) struct WriterInteropTests {
  private static let secret = ["--object", "secret,id=s,data=secret"]

  @Test("random sequences on images that the builder made", arguments: 0..<40 as Range<UInt64>)
  func built(seed: UInt64) throws {
    let scratch = try ScratchDirectory()
    var random = SeededGenerator(seed: seed &+ 7000)
    let subject = WriterSubject.random(&random)
    let built = try subject.build(seed: random.next())
    var model = try WriterModel(subject, built)
    for _ in 0..<Int.random(in: 5...25, using: &random) { try model.step(&random) }
    try model.finish()
    try scratch.write(model.store.bytes.read(0..<model.store.bytes.byteCount), to: "top.qcow2")
    try scratch.write(model.bytes, to: "expected.raw")
    if let backing = built.backing { try scratch.write(backing.read(0..<backing.byteCount), to: "below") }
    let history = Comment(rawValue: "seed \(seed)\n\(subject)\n\(model.history.joined(separator: "\n"))")
    // A backing file without a recorded format and old ciphers make qemu-img ask for more than it is worth.
    guard subject.backing == .none, !subject.isEncrypted else { return }
    let check = try Tool.qemuImg("check", "-f", "qcow2", "top.qcow2", in: scratch.path)
    #expect(check.status == 0, "\(check.outputText) \(history)")
    let compare = try Tool.qemuImg(
      "compare", "-f", "qcow2", "-F", "raw", "top.qcow2", "expected.raw", in: scratch.path)
    #expect(compare.status == 0, "\(compare.outputText) \(history)")
  }

  @Test(
    "random sequences on images that qemu-img made",
    arguments: [
      "", "cluster_size=512", "compat=0.10", "extended_l2=on,cluster_size=16k", "lazy_refcounts=on",
      "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", "data_file=outside,data_file_raw=on",
      "data_file=outside", "refcount_bits=1", "refcount_bits=64,cluster_size=512", "preallocation=metadata",
      "backing_file=below,backing_fmt=raw", "compression_type=zstd",
    ])
  func made(options: String) throws {
    let scratch = try ScratchDirectory()
    try scratch.write(randomPool.part(0..<300_000), to: "below")
    let isLUKS = options.contains("luks")
    let words = ["create", "-q", "-f", "qcow2"] + (isLUKS ? Self.secret : [])
    let path = try #require(Tool.qemuImg.path)
    let created = try run(
      path, words + (options.isEmpty ? [] : ["-o", options]) + ["top.qcow2", "1000000"], in: scratch.path)
    #expect(created.succeeded, "\(created.errorText)")
    var bytes = [UInt8](repeating: 0, count: 1_000_448)
    if options.contains("backing") { bytes.put(randomPool.part(0..<300_000), at: 0) }
    var random = SeededGenerator(seed: 11)
    for _ in 0..<3 { try change(scratch, &bytes, &random) }
    try scratch.write(bytes, to: "expected.raw")
    let image =
      isLUKS ? "driver=qcow2,file.filename=top.qcow2,encrypt.key-secret=s" : "driver=qcow2,file.filename=top.qcow2"
    let object = isLUKS ? Self.secret : []
    let check = try run(path, ["check"] + object + ["--image-opts", image], in: scratch.path)
    #expect(check.status == 0, "\(check.outputText) \(check.errorText)")
    let compare = try run(
      path, ["compare"] + object + ["--image-opts", image, "driver=raw,file.filename=expected.raw"], in: scratch.path)
    #expect(compare.status == 0, "\(compare.outputText) \(compare.errorText)")
  }

  /// Opens the image, changes it twenty times, and closes it.
  private func change(_ scratch: ScratchDirectory, _ bytes: inout [UInt8], _ random: inout SeededGenerator) throws {
    var options = OpenOptions(format: "qcow2")
    options.isWritable = true
    // A program that another test starts holds copies of locks for a moment.
    options.locking = .shared
    options.passphrase = { Array("secret".utf8) }
    let disk = try DiskImage.open(scratch["top.qcow2"], options)
    #expect(disk.byteCount == UInt64(bytes.count))
    let writer = try DiskWriter(disk)
    for _ in 0..<20 {
      let start = Int.random(in: 0..<bytes.count, using: &random)
      let count = min(Int.random(in: 1...150_000, using: &random), bytes.count - start)
      if random.chance(3) {
        try writer.zero(UInt64(start)..<UInt64(start + count), mayUnmap: random.chance(2))
        bytes.clear(start..<start + count)
      } else {
        let payload = randomPool.part(start / 2..<start / 2 + count)
        try writer.write(payload.rawBytes, at: UInt64(start))
        bytes.put(payload, at: start)
      }
    }
    try writer.close()
    #expect(try disk.read(bytes.count, at: 0) == bytes)
  }
}
