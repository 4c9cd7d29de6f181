import Platter
import PlatterCore
import SystemPackage
import TestSupport
import Testing

/// Chains whose images are encrypted, each with a passphrase of its own.
@Suite struct EncryptedChainTests {
  private let scratch: ScratchDirectory

  init() throws { scratch = try ScratchDirectory() }

  private func create(_ name: String, secret: String, over backing: String? = nil) throws {
    var create = Create(
      scratch.file(name), format: try TargetFormats.named("qcow2"), byteCount: backing == nil ? 1 << 20 : nil,
      options: ["encrypt.format": "luks", "encrypt.key-secret": secret, "encrypt.iter-time": "10"])
    create.options["backing_file"] = backing
    create.options["backing_fmt"] = backing.map { _ in "qcow2" }
    create.backingOptions.references = .any
    create.backingOptions.secrets = { id in Array(id.utf8) }
    try create.run()
  }

  private func node(_ name: String, secret: String) -> [String: String] {
    ["driver": "qcow2", "file.filename": scratch[name], "encrypt.key-secret": secret]
  }

  private func open(_ node: [String: String], writableDepth: Int? = nil, writable: Bool = false) throws -> DiskImage {
    var options = OpenOptions(references: .any)
    options.secrets = { id in Array(id.utf8) }
    options.isWritable = writable || writableDepth != nil
    options.writableDepth = writableDepth
    return try DiskImage.open(node: node, options)
  }

  private func fill(_ node: [String: String], _ byte: UInt8) throws {
    let writer = try DiskWriter(open(node, writable: true))
    try writer.write([UInt8](repeating: byte, count: 100_000).rawBytes, at: 300_000)
    try writer.close()
  }

  /// qemu-img needs no secret to see how large the image below is; we asked for it, and nobody could give it.
  @Test("an overlay is made over an encrypted image without its secret")
  func overlay() throws {
    try create("base", secret: "s0")
    try create("top", secret: "s1", over: "base")
    let top = try open(["driver": "qcow2", "file.filename": scratch["top"], "encrypt.key-secret": "s1", "backing": ""])
    #expect(top.byteCount == 1 << 20)
  }

  @Test("what an image below has still needs its secret")
  func reading() throws {
    try create("base", secret: "s0")
    try create("top", secret: "s1", over: "base")
    #expect(throws: ImageError.self) { try open(node("top", secret: "s1")) }
  }

  /// An image that was described by options was opened for reading alone.
  @Test("commit writes into an image below that options describe")
  func commit() throws {
    try create("base", secret: "s0")
    try create("top", secret: "s1", over: "base")
    try fill(node("base", secret: "s0"), 1)
    var chain = node("top", secret: "s1")
    for (key, value) in node("base", secret: "s0") { chain["backing." + key] = value }
    try fill(chain, 2)
    try Commit(open(chain, writableDepth: 1)).run()
    let base = try open(node("base", secret: "s0"))
    #expect(try base.read(100_000, at: 300_000) == [UInt8](repeating: 2, count: 100_000))
    #expect(try open(chain).read(100_000, at: 300_000) == [UInt8](repeating: 2, count: 100_000))
  }
}
