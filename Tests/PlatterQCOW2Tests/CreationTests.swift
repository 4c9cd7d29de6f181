import PlatterCore
import PlatterQCOW2
import SystemPackage
import TestSupport
import Testing

/// One set of `-o` options; what a test's name shows.
struct Options: Sendable, CustomTestStringConvertible {
  var text: String
  var byteCount: UInt64
  init(_ text: String, _ byteCount: UInt64 = 16 << 20) {
    self.text = text
    self.byteCount = byteCount
  }
  var testDescription: String { "\(text) \(byteCount)" }
  var dictionary: [String: String] {
    var result: [String: String] = [:]
    for pair in text.split(separator: ",") {
      let parts = pair.split(separator: "=", maxSplits: 1)
      result[String(parts[0])] = String(parts[1])
    }
    return result
  }
}

func created(_ options: Options) throws(ImageError) -> [UInt8] {
  let store = MemoryStore(name: "new.qcow2")
  var request = CreationRequest(byteCount: options.byteCount, options: options.dictionary)
  request.makeFile = { _ throws(ImageError) in MemoryStore() }
  request.secret = { $0 == "s" ? Array("abc".utf8) : nil }
  try QCOW2.create(in: store, request)
  return store.bytes
}

@Suite struct CreationTests {
  @Test("an image without options has the layout that qemu-img gives it")
  func defaultLayout() throws {
    let bytes = try created(Options("", 10 << 20))
    let words: [(Int, UInt32)] = [
      (0, 0x5146_49fb), (4, 3), (16, 0), (20, 16), (32, 0), (36, 1), (56, 1), (60, 0), (96, 4), (100, 112),
    ]
    for (offset, value) in words { #expect(number(bytes, at: offset, byteCount: 4) == Int(value), "at \(offset)") }
    let longs: [(Int, UInt64)] = [
      (8, 0), (24, 10 << 20), (40, 0x30000), (48, 0x10000), (64, 0), (72, 0), (80, 0), (88, 0), (0x10000, 0x20000),
      (0x20000, 0x0001_0001_0001_0001), (0x20008, 0), (0x30000, 0),
    ]
    for (offset, value) in longs { #expect(number(bytes, at: offset, byteCount: 8) == Int(value), "at \(offset)") }
    #expect(bytes.count == 196_616)
  }

  @Test(
    "every cluster of a new image is counted once, and nothing behind its end",
    arguments: [512, 4096, 65536], [1, 2, 4, 8, 16, 32, 64])
  func refcounts(cluster: Int, bits: Int) throws {
    let bytes = try created(Options("cluster_size=\(cluster),refcount_bits=\(bits),preallocation=metadata", 1 << 20))
    let table = number(bytes, at: 48, byteCount: 8)
    let clusters = number(bytes, at: 56, byteCount: 4)
    var counted = 0
    for entry in 0..<clusters * cluster / 8 {
      let block = number(bytes, at: table + entry * 8, byteCount: 8)
      guard block != 0 else { continue }
      let perBlock = cluster * 8 / bits
      for slot in 0..<perBlock {
        let index = entry * perBlock + slot
        let count = refcount(bytes, block: block, slot: slot, bits: bits)
        #expect(count == (index * cluster < bytes.count ? 1 : 0), "cluster \(index)")
        counted += count
      }
    }
    #expect(counted * cluster == bytes.count)
  }

  private func number(_ bytes: [UInt8], at offset: Int, byteCount: Int) -> Int {
    bytes[offset..<offset + byteCount].reduce(0) { $0 << 8 | Int($1) }
  }

  /// As the specification has it: below 8 bits from the lowest bits on, else big-endian.
  private func refcount(_ bytes: [UInt8], block: Int, slot: Int, bits: Int) -> Int {
    let bit = slot * bits
    guard bits >= 8 else { return Int(bytes[block + bit / 8]) >> (bit % 8) & ((1 << bits) - 1) }
    return (0..<bits / 8).reduce(0) { $0 << 8 | Int(bytes[block + bit / 8 + $1]) }
  }

  @Test(
    "preallocated tables give every guest cluster its place, in order",
    arguments: ["cluster_size=512", "cluster_size=4k", "extended_l2=on,cluster_size=16k"])
  func preallocation(_ text: String) throws {
    let bytes = try created(Options(text + ",preallocation=metadata", 3 << 20))
    let map = try QCOW2.open(MemoryStore(bytes), OpenContext())
    let all = try runs(map)
    #expect(all.allSatisfy { $0.hasOffset })
    #expect(all.count == 1)
  }

  @Test(
    "what contradicts itself is refused before anything is written",
    arguments: [
      ("cluster_size=1000", "power of two"), ("cluster_size=256", "power of two"), ("cluster_size=4M", "power of two"),
      ("compat=0.9", "compat"), ("compat=0.10,refcount_bits=8", "refcount"), ("refcount_bits=3", "power of two"),
      ("refcount_bits=128", "64"), ("refcount_bits=0", "power of two"), ("compat=0.10,lazy_refcounts=on", "Lazy"),
      ("compat=0.10,compression_type=zstd", "compression"), ("compression_type=lz4", "compression_type"),
      ("extended_l2=on,cluster_size=8k", "16384"), ("compat=0.10,extended_l2=on", "Extended"),
      ("data_file_raw=on", "requires"), ("compat=0.10,data_file=d", "data files"),
      ("backing_file=b", "without backing format"), ("backing_fmt=raw", "without backing file"),
      ("backing_file=b,backing_fmt=raw,preallocation=metadata", "extended_l2"),
      ("backing_file=b,backing_fmt=raw,data_file=d,data_file_raw=on", "data-file-raw"), ("foo=1", "'foo'"),
      ("lazy_refcounts=maybe", "'on' or 'off'"), ("preallocation=some", "preallocation"),
      ("encrypt.format=luks", "key-secret"), ("encrypt.key-secret=s", "encrypt.format"),
      ("encryption=on,encrypt.format=aes,encrypt.key-secret=s", "alias"),
      ("encrypt.format=aes,encrypt.key-secret=s,encrypt.iter-time=5", "unexpected"),
      ("encrypt.format=luks,encrypt.key-secret=t,encrypt.iter-time=5", "No secret"),
      ("encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-mode=ecb", "ecb"),
      ("compression_level=13", "compression_level"), ("compression_window=8k", "compression_window"),
      ("compression_type=zstd,compression_window=4k", "compression_window"),
    ])
  func refusals(_ text: String, says: String) throws {
    let store = MemoryStore(name: "new.qcow2")
    var request = CreationRequest(byteCount: 1 << 20, options: Options(text).dictionary)
    request.secret = { $0 == "s" ? Array("abc".utf8) : nil }
    let error = #expect(throws: ImageError.self) { try QCOW2.create(in: store, request) }
    #expect(error?.message.contains(says) == true, "\(error?.message ?? "")")
    #expect(store.bytes.isEmpty)
  }

  @Test("a disk that no table can describe is refused", arguments: ["cluster_size=512", "cluster_size=64k"])
  func tooLarge(_ text: String) throws {
    let error = #expect(throws: ImageError.self) { try created(Options(text, 1 << 62)) }
    #expect(error?.message.contains("too large") == true)
  }

  @Test("a rewritten header keeps extensions that nobody knows, in their order, and the backing file's name")
  func rewriting() throws {
    var header = Header(version: 3, clusterBits: 12)
    header.l1Offset = 4096
    header.refcountTableOffset = 8192
    header.refcountTableClusterCount = 1
    var extensions = HeaderExtensions()
    extensions.items = [
      .init(type: 0x1234_5678, bytes: [1, 2, 3]),
      .init(type: HeaderExtensions.Kind.backingFormat, bytes: Array("raw".utf8)),
      .init(type: 0x0bad_cafe, bytes: filled(9, 16)),
    ]
    var cluster = try header.serialise(extensions, backingName: Array("base".utf8))
    cluster += [UInt8](repeating: 0, count: 4096 - cluster.count)
    let parsed = try Header(parsing: cluster.rawBytes)
    #expect(parsed == header)
    #expect(try HeaderExtensions(parsing: cluster.rawBytes, parsed) == extensions)
    let start = Int(parsed.backingNameOffset)
    #expect(Array(cluster[start..<start + 4]) == Array("base".utf8))
    #expect(cluster[(start + 4)...].allSatisfy { $0 == 0 })
  }

  @Test("a header that does not fit its cluster is refused")
  func overflow() throws {
    var header = Header(version: 3, clusterBits: 9)
    let error = #expect(throws: ImageError.self) {
      try header.serialise(HeaderExtensions(), backingName: filled(0x61, 400))
    }
    #expect(error?.message.contains("more than a cluster (512)") == true)
  }

  @Test("measure knows 1 GiB by heart")
  func measuring() throws {
    let request = CreationRequest(byteCount: 1 << 30)
    let expected = ImageMeasurement(required: 393_216, fullyAllocated: 1_074_135_040)
    #expect(try QCOW2.measure(request, dataByteCount: 0) == expected)
  }

  @Test("to measure an overlay nobody has to name the backing image's format")
  func measuringOverlay() throws {
    let request = CreationRequest(byteCount: 1 << 30, options: ["backing_file": "base"])
    let expected = ImageMeasurement(required: 393_216, fullyAllocated: 1_074_135_040)
    #expect(try QCOW2.measure(request, dataByteCount: 0) == expected)
    #expect(throws: ImageError.self) { try QCOW2.create(in: MemoryStore([]), request) }
  }
}

@Suite("qemu-img agrees on new images", .requires(.qemuImg))
struct CreationInteropTests {
  static let options: [Options] =
    [
      Options("compat=1.1", 0), Options("compat=0.10", 1000), Options("cluster_size=512"), Options("cluster_size=2M"),
      Options("lazy_refcounts=on"), Options("compression_type=zstd"), Options("extended_l2=on,cluster_size=16k"),
      Options("preallocation=metadata"), Options("preallocation=falloc", 1 << 20),
      Options("preallocation=full", 1 << 20),
      Options("cluster_size=512,refcount_bits=64,preallocation=metadata", 3 << 20),
      Options("cluster_size=512", 10 << 30),
      Options("data_file=d.raw"), Options("data_file=d.raw,data_file_raw=on"), Options("cluster_size=64k", 100 << 40),
      Options("encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", 1 << 20),
      Options("encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,preallocation=metadata", 1 << 20),
      Options("encrypt.format=aes,encrypt.key-secret=s,compat=0.10", 1 << 20),
    ] + [1, 2, 4, 8, 16, 32, 64].map { Options("refcount_bits=\($0)") }

  @Test("check is clean, and info says the same of theirs and ours", arguments: options)
  func creation(_ options: Options) throws {
    let folder = try ScratchDirectory()
    let secret = "secret,id=s,data=abc"
    try folder.makeFolder("theirs")
    try folder.makeFolder("ours")
    let theirs = folder.file("theirs")
    let ours = folder.file("ours")
    try Tool.qemuImg.succeed(
      "create", "-q", "--object", secret, "-f", "qcow2", "-o", options.text, "a", "\(options.byteCount)", in: theirs)
    try make(options, in: ours)
    #expect(try info(theirs) == info(ours))
    var image = "driver=qcow2,file.filename=a"
    if options.text.contains("encrypt") { image += ",encrypt.key-secret=s" }
    let check = try Tool.qemuImg("check", "--object", secret, "--image-opts", image, in: ours)
    #expect(check.status == 0, "\(check.outputText)\(check.errorText)")
  }

  private func make(_ options: Options, in folder: FilePath) throws {
    var files = FileStore.Options(isWritable: true)
    files.creates = true
    var request = CreationRequest(byteCount: options.byteCount, options: options.dictionary)
    request.secret = { _ in Array("abc".utf8) }
    let fileOptions = files
    request.makeFile = { name throws(ImageError) in try FileStore(folder.pushing(name), fileOptions) }
    try QCOW2.create(in: FileStore(folder.appending("a"), files), request)
  }

  /// What `info` prints, without what differs from file to file.
  private func info(_ folder: FilePath) throws -> [String] {
    let text = try Tool.qemuImg.succeed("info", "--output=json", "a", in: folder).outputText
    return text.split(separator: "\n").map(String.init).filter { line in
      !["actual-size", "uuid", "iters"].contains { line.contains($0) }
    }
  }

  @Test(
    "measure gives the same numbers",
    arguments: [
      Options("compat=1.1", 1 << 30), Options("cluster_size=512", 5 << 30), Options("cluster_size=64k", 10 << 40),
      Options("extended_l2=on", 1 << 30), Options("refcount_bits=64,cluster_size=2M", 5 << 30),
      Options("compat=0.10", 0),
      Options("refcount_bits=1,cluster_size=4k", 3 << 30), Options("preallocation=full", 1000),
      Options("encrypt.format=luks,encrypt.key-secret=s", 1 << 30),
    ])
  func measuring(_ options: Options) throws {
    let theirs = try Tool.qemuImg.succeed(
      "measure", "--object", "secret,id=s,data=abc", "-O", "qcow2", "-o", options.text, "--size", "\(options.byteCount)"
    )
    let ours = try QCOW2.measure(
      CreationRequest(byteCount: options.byteCount, options: options.dictionary), dataByteCount: 0)
    #expect(
      theirs.outputText == "required size: \(ours.required)\nfully allocated size: \(ours.fullyAllocated)\n")
  }
}
