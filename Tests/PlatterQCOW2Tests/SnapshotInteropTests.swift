import PlatterCore
import PlatterQCOW2
import SystemPackage
import TestSupport
import Testing

@Suite("qemu-img and this writer take turns", .requires(.qemuImg, .qemuIO))
struct SnapshotInteropTests {
  private let folder: ScratchDirectory
  private let path: String

  init() throws {
    folder = try ScratchDirectory()
    path = folder["disk.qcow2"]
  }

  private func change(_ body: (any WritableMap & SnapshotMap & BitmapMap & AmendableMap) throws -> Void) throws {
    let store = try FileStore(FilePath(path), FileStore.Options(isWritable: true))
    let map = try #require(try writer(store) as? any WritableMap & SnapshotMap & BitmapMap & AmendableMap)
    let barrier: Barrier = { () throws(ImageError) in try store.flush() }
    try map.prepareToWrite(barrier)
    try body(map)
    try map.close(barrier)
  }

  private func check() throws {
    let result = try Tool.qemuImg("check", path)
    #expect(result.status == 0, "\(result.outputText)\(result.errorText)")
  }

  private func qemuWrite(_ pattern: Int, at offset: Int, _ byteCount: Int = 65536) throws {
    try Tool.qemuIO.succeed("-c", "write -P \(pattern) \(offset) \(byteCount)", path)
  }

  private func isFilled(_ pattern: Int, at offset: Int, _ byteCount: Int = 65536) throws -> Bool {
    let result = try Tool.qemuIO("-c", "read -P \(pattern) \(offset) \(byteCount)", path)
    return result.succeeded && !result.outputText.contains("verification failed")
  }

  @Test("snapshots of one are applied and deleted by the other", arguments: ["1.1", "0.10"])
  func snapshots(compat: String) throws {
    try Tool.qemuImg.succeed("create", "-q", "-f", "qcow2", "-o", "compat=\(compat)", path, "64M")
    try qemuWrite(1, at: 0, 1 << 20)
    try change { _ = try $0.createSnapshot(named: "ours", seconds: 1_700_000_000, nanoseconds: 0, noBarrier) }
    try check()
    try qemuWrite(2, at: 65536)
    try Tool.qemuImg.succeed("snapshot", "-c", "theirs", path)
    try check()
    try change { try write($0, filled(3), at: 0) }
    try check()
    #expect(try isFilled(3, at: 0))
    try Tool.qemuImg.succeed("snapshot", "-a", "ours", path)
    try check()
    #expect(try isFilled(1, at: 0, 1 << 20))
    try change { try $0.applySnapshot(.name("theirs"), noBarrier) }
    try check()
    #expect(try isFilled(2, at: 65536))
    #expect(try isFilled(1, at: 0))
    try change { try $0.deleteSnapshot(.name("theirs"), noBarrier) }
    try check()
    try Tool.qemuImg.succeed("snapshot", "-d", "ours", path)
    try check()
    #expect(try isFilled(2, at: 65536))
  }

  @Test("an image that was resized after its snapshot gets its old size back")
  func sizes() throws {
    try Tool.qemuImg.succeed("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, "64k")
    try qemuWrite(1, at: 0)
    try Tool.qemuImg.succeed("snapshot", "-c", "small", path)
    try Tool.qemuImg.succeed("resize", "-q", path, "8M")
    try qemuWrite(2, at: 0, 1 << 20)
    try change { map in
      _ = try map.createSnapshot(named: "large", seconds: 1, nanoseconds: 0, noBarrier)
      try map.applySnapshot(.name("small"), noBarrier)
      #expect(map.byteCount == 65536)
    }
    try check()
    #expect(try isFilled(1, at: 0))
    try Tool.qemuImg.succeed("snapshot", "-a", "large", path)
    try check()
    #expect(try isFilled(2, at: 0, 1 << 20))
  }

  @Test("bitmaps that one keeps are what the other reads")
  func bitmaps() throws {
    try Tool.qemuImg.succeed("create", "-q", "-f", "qcow2", path, "64M")
    try Tool.qemuImg.succeed("bitmap", "--add", path, "theirs")
    try change { map in
      try map.addBitmap(named: "ours", granularity: 4096, isEnabled: true)
      try write(map, filled(1), at: 1 << 20)
    }
    try check()
    let facts = try Tool.qemuImg.succeed("info", "--output=json", path).outputText
    #expect(facts.contains("\"ours\"") && facts.contains("\"theirs\"") && !facts.contains("in-use"))
    try qemuWrite(2, at: 0)
    try check()
    try Tool.qemuImg.succeed("bitmap", "--merge", "ours", path, "theirs")
    try change { map in
      for name in ["ours", "theirs"] {
        var ranges: [Range<UInt64>] = []
        try map.dirtyRanges(ofBitmapNamed: name) { ranges.append($0) }
        let expected: [Range<UInt64>] = [0..<65536, 1_048_576..<1_114_112]
        #expect(ranges == expected)
      }
      try map.removeBitmap(named: "theirs")
      try map.resize(to: 128 << 20, noBarrier)
    }
    try check()
    try Tool.qemuImg.succeed("bitmap", "--disable", "--clear", path, "ours")
    try Tool.qemuImg.succeed("bitmap", "--remove", path, "ours")
    try check()
  }

  @Test("amended images are sound to qemu-img")
  func amend() throws {
    try Tool.qemuImg.succeed("create", "-q", "-f", "qcow2", path, "64M")
    try qemuWrite(1, at: 0, 1 << 20)
    try Tool.qemuIO.succeed("-c", "write -z 65536 65536", path)
    try Tool.qemuImg.succeed("snapshot", "-c", "one", path)
    for options in [
      ["refcount_bits": "64"], ["refcount_bits": "2"], ["refcount_bits": "16", "compat": "0.10"], ["compat": "1.1"],
    ] {
      try change { try $0.amend(AmendRequest(options), noBarrier) }
      try check()
      #expect(try isFilled(1, at: 0))
      #expect(try isFilled(0, at: 65536))
    }
  }
}
