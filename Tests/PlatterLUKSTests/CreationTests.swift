import Platter
import PlatterCore
import PlatterCrypto
import PlatterLUKS
import TestSupport
import Testing

func noBarrier() throws(ImageError) {}

/// A request with the secret objects "s" (open sesame) and "t" (another).
func request(_ options: [String: String], byteCount: UInt64 = 1 << 20) -> CreationRequest {
  var request = CreationRequest(byteCount: byteCount, options: options)
  request.secret = secrets
  return request
}

let secrets: @Sendable (String) throws(ImageError) -> [UInt8]? = { id in
  ["s": Array("open sesame".utf8), "t": Array("another".utf8)][id]
}

/// A new volume in memory. Key derivation as short as it may be.
func volume(_ options: [String: String] = [:], byteCount: UInt64 = 1 << 20) throws -> MemoryStore {
  let store = MemoryStore()
  let all = ["key-secret": "s", "iter-time": "0"].merging(options) { $1 }
  try LUKS.create(in: store, request(all, byteCount: byteCount))
  return store
}

@Suite("New LUKS volumes")
struct CreationTests {
  @Test("without options they are what qemu-img makes") func defaults() throws {
    let store = try volume()
    #expect(try store.byteCount() == 2_068_480 + 1 << 20)
    let map = try LUKS.open(store, context("open sesame"))
    let facts = try #require(map.facts.specific)
    #expect(facts["cipher-alg"] == .text("aes-256"))
    #expect(facts["cipher-mode"] == .text("xts"))
    #expect(facts["ivgen-alg"] == .text("plain64"))
    #expect(facts["hash-alg"] == .text("sha256"))
    #expect(facts["payload-offset"] == .unsigned(2_068_480))
    #expect(facts["master-key-iters"] == .unsigned(1000))
    #expect(map.byteCount == 1 << 20)
  }

  @Test(
    "every option reaches the header",
    arguments: [
      (["cipher-alg": "serpent-192", "cipher-mode": "ctr"], "serpent", "ctr-plain64", 24),
      (["cipher-alg": "twofish-256", "cipher-mode": "cbc", "ivgen-alg": "essiv"], "twofish", "cbc-essiv:sha256", 32),
      (["cipher-mode": "cbc", "ivgen-alg": "plain", "ivgen-hash-alg": "sha512"], "aes", "cbc-plain", 32),
      (["cipher-alg": "cast5-128", "cipher-mode": "cbc", "hash-alg": "ripemd160"], "cast5", "cbc-plain64", 16),
      (["cipher-alg": "aes-192", "hash-alg": "sha224"], "aes", "xts-plain64", 48),
    ])
  func options(options: [String: String], cipher: String, mode: String, keyByteCount: Int) throws {
    let bytes = try volume(options).bytes
    #expect(text(bytes, 8) == cipher)
    #expect(text(bytes, 40) == mode)
    #expect(text(bytes, 72) == options["hash-alg"] ?? "sha256")
    #expect(bytes[108..<112].map { $0 } == [0, 0, 0, UInt8(keyByteCount)])
    #expect(try LUKS.open(MemoryStore(bytes), context("open sesame")).byteCount == 1 << 20)
  }

  private func text(_ bytes: [UInt8], _ offset: Int) -> String {
    String(decoding: bytes[offset..<offset + 32].prefix { $0 != 0 }, as: UTF8.self)
  }

  @Test(
    "what makes no sense is refused before anything is written, and no error tells a secret",
    arguments: [
      (["key-secret": "nobody"], "No secret with id 'nobody'"),
      (["cipher-alg": "aes-512"], "Parameter 'cipher-alg' does not accept value 'aes-512'"),
      (["cipher-mode": "gcm"], "Parameter 'cipher-mode' does not accept value 'gcm'"),
      (["ivgen-alg": "benbi"], "Parameter 'ivgen-alg' does not accept value 'benbi'"),
      (["ivgen-hash-alg": "sm3"], "Parameter 'ivgen-hash-alg' does not accept value 'sm3'"),
      (["hash-alg": "whirlpool"], "Parameter 'hash-alg' does not accept value 'whirlpool'"),
      (["iter-time": "soon"], "Parameter 'iter-time' expects a number"), (["iter-time": "3600001"], "3600001"),
      (["preallocation": "most"], "invalid parameter value: most"), (["hash-alg": "md5"], "too weak"),
      (["cipher-mode": "ecb"], "too weak"), (["cipher-alg": "cast5-128"], "Unsupported cipher mode xts"),
      (["cipher-mode": "cbc", "ivgen-alg": "essiv", "ivgen-hash-alg": "sha512"], "essiv:sha512"),
      (["detached-header": "on"], "Invalid parameter 'detached-header'"),
    ])
  func refusals(options: [String: String], mention: String) throws {
    let store = RecordingStore(name: "disk.luks")
    let all = ["key-secret": "s", "iter-time": "0"].merging(options) { $1 }
    let error = #expect(throws: ImageError.self) { try LUKS.create(in: store, request(all)) }
    #expect(error?.message.contains(mention) == true)
    #expect(error?.description.contains("open sesame") == false)
    #expect(store.operations.isEmpty)
  }

  @Test("a passphrase must be given") func noSecret() throws {
    let error = #expect(throws: ImageError.self) { try LUKS.create(in: MemoryStore(), request([:])) }
    #expect(error?.message == "Parameter 'key-secret' is required for cipher")
    #expect(throws: ImageError.self) { try LUKS.measure(request([:]), dataByteCount: 0) }
  }

  @Test("sizes: whole sectors, and none that no file can have") func sizes() throws {
    #expect(try LUKS.open(try volume(byteCount: 0), context("open sesame")).byteCount == 0)
    #expect(try LUKS.open(try volume(byteCount: 1001), context("open sesame")).byteCount == 1024)
    for byteCount in [UInt64(Int64.max) - 4096, .max] {
      #expect(throws: ImageError.self) { try volume(byteCount: byteCount) }
    }
  }

  @Test("measured is what is made", arguments: ["aes-256", "aes-128", "cast5-128"]) func measured(cipher: String) throws
  {
    let options = ["key-secret": "s", "iter-time": "0", "cipher-alg": cipher, "cipher-mode": "cbc"]
    let measured = try LUKS.measure(request(options, byteCount: 3 << 20), dataByteCount: 0)
    #expect(try measured.required == volume(options, byteCount: 3 << 20).byteCount())
    #expect(measured.fullyAllocated == measured.required)
  }

  @Test("preallocated space is there", arguments: ["off", "metadata", "falloc", "full"])
  func preallocation(mode: String) throws {
    let scratch = try ScratchDirectory()
    var options = FileStore.Options(isWritable: true)
    options.creates = true
    let store = try FileStore(scratch.file("disk.luks"), options)
    try LUKS.create(
      in: store, request(["key-secret": "s", "iter-time": "0", "preallocation": mode], byteCount: 8 << 20))
    #expect(try (store.allocatedByteCount() >= 8 << 20) == (mode == "falloc" || mode == "full"))
    #expect(try LUKS.open(store, context("open sesame")).byteCount == 8 << 20)
  }

  /// The header is written last and after a barrier: what a cut leaves is the whole volume or none.
  @Test("a power cut leaves no half a volume") func powerCut() throws {
    let journal = ChangeJournal()
    let store = PagedStore(name: "disk.luks", journal: journal)
    try LUKS.create(in: store, request(["key-secret": "s", "iter-time": "0"], byteCount: 4096))
    var random = SeededGenerator(seed: 0xc07)
    try PowerCut([PagedBytes()], journal).forEachCut(&random, variants: 8) { count, left in
      let rest = PagedStore(left[0], name: "left")
      do throws(ImageError) {
        let map = try LUKS.open(rest, context("open sesame"))
        #expect(map.byteCount == 4096)
      } catch {
        // No signature yet, or a header that was torn: refused, and never by a word about the passphrase.
        #expect(count < journal.count)
        #expect(error.message != LUKSHeader.wrongPassphraseMessage)
      }
    }
  }
}

@Suite("LUKS volumes that are written")
struct WritingTests {
  private func open(_ store: any ByteStore, isWritable: Bool = true) throws -> DiskImage {
    var options = OpenOptions(format: "luks")
    options.isWritable = isWritable
    options.passphrase = { Array("open sesame".utf8) }
    return try DiskImage.open(store, options)
  }

  @Test("random requests, beside an array of bytes", arguments: ["aes-256", "serpent-256", "twofish-128"])
  func model(cipher: String) throws {
    let store = try volume(["cipher-alg": cipher], byteCount: 256 << 10)
    let writer = try DiskWriter(try open(store))
    var random = SeededGenerator(seed: 0x1a5)
    var model = random.bytes(256 << 10)
    try writer.write(model.rawBytes, at: 0)
    for _ in 0..<60 {
      let start = Int.random(in: 0..<model.count, using: &random)
      let count = Int.random(in: 0...min(5000, model.count - start), using: &random)
      if Int.random(in: 0..<4, using: &random) == 0 {
        try writer.zero(UInt64(start)..<UInt64(start + count), mayUnmap: true)
        model.replaceSubrange(start..<start + count, with: [UInt8](repeating: 0, count: count))
      } else {
        let bytes = random.bytes(count)
        try writer.write(bytes.rawBytes, at: UInt64(start))
        model.replaceSubrange(start..<start + count, with: bytes)
      }
    }
    // A discard promises nothing, and so changes nothing.
    try writer.discard(0..<4096)
    try writer.close()
    #expect(try open(store, isWritable: false).read(model.count, at: 0) == model)
    #expect(try contents(LUKS.open(store, context("open sesame"))) == model)
  }

  @Test("resizing keeps what stays, and moves the end of the file alone") func resize() throws {
    let store = PagedStore(PagedBytes(try volume(byteCount: 8192).bytes), name: "disk.luks")
    let writer = try DiskWriter(try open(store))
    let bytes = [UInt8](repeating: 7, count: 8192)
    try writer.write(bytes.rawBytes, at: 0)
    try writer.resize(to: 1 << 40)
    #expect(try store.byteCount() == 2_068_480 + 1 << 40)
    try writer.resize(to: 4000)
    #expect(writer.image.byteCount == 4096)
    try writer.resize(to: 8192)
    #expect(throws: ImageError.self) { try writer.resize(to: UInt64.max / 512 * 512) }
    try writer.close()
    let image = try open(store, isWritable: false)
    #expect(image.byteCount == 8192)
    #expect(try image.read(4000, at: 0) == Array(bytes[..<4000]))
  }

  @Test("a failed write is that request's failure") func faults() throws {
    let store = try volume(byteCount: 8192)
    let writer = try DiskWriter(try open(store))
    #expect(throws: ImageError.self) { try writer.write([1, 2, 3].rawBytes, at: 8190) }
    try writer.write([1, 2, 3].rawBytes, at: 8189)
    try writer.close()
    #expect(try open(store, isWritable: false).read(3, at: 8189) == [1, 2, 3])
  }
}
