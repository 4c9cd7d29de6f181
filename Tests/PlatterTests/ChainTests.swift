import Platter
import PlatterCore
import SystemPackage
import TestSupport
import Testing

@Suite struct ChainTests {
  private func overlay(_ byteCount: UInt64, over name: String, format: String?) -> QCOW2Builder {
    var image = QCOW2Builder(byteCount: byteCount)
    image.backingName = Array(name.utf8)
    image.backingFormat = format
    return image
  }

  @Test("a chain of any depth reads each cluster from the topmost image that has it")
  func depth() throws {
    let folder = try ScratchDirectory()
    let depth = 12
    var expected = [UInt8](repeating: 9, count: 16 << 16)
    try folder.write(expected, to: "0")
    for level in 1...depth {
      var image = overlay(16 << 16, over: "\(level - 1)", format: level == 1 ? "raw" : "qcow2")
      image.entries[level] = .data([UInt8](repeating: UInt8(level), count: 65536))
      for index in level << 16..<(level + 1) << 16 { expected[index] = UInt8(level) }
      try folder.write(image.build().bytes, to: "\(level)")
    }
    let disk = try DiskImage.open(folder["\(depth)"], OpenOptions(format: "qcow2"))
    #expect(disk.layers.count == depth + 1)
    #expect(try disk.read(16 << 16, at: 0) == expected)
    #expect(try disk.read(2, at: 65535) == [9, 1])
  }

  @Test("a backing image that is shorter reads as zeros past its end, inside a cluster too")
  func shortBacking() throws {
    let folder = try ScratchDirectory()
    try folder.write([UInt8](repeating: 5, count: 70_000), to: "base")
    try folder.write(overlay(1 << 18, over: "base", format: "raw").build().bytes, to: "top")
    let disk = try DiskImage.open(folder["top"])
    #expect(
      try disk.read(1 << 18, at: 0)
        == [UInt8](repeating: 5, count: 70_000) + [UInt8](repeating: 0, count: (1 << 18) - 70_000))
  }

  @Test("a chain that comes back to itself is one error", arguments: [1, 3])
  func loops(length: Int) throws {
    let folder = try ScratchDirectory()
    for level in 0..<length {
      let image = overlay(1 << 16, over: "\((level + 1) % length)", format: "qcow2")
      try folder.write(image.build().bytes, to: "\(level)")
    }
    let error = #expect(throws: ImageError.self) { try DiskImage.open(folder["0"]) }
    #expect(error?.code == .corrupt)
    #expect(error?.message.contains("loop") == true)
  }

  @Test("a backing file that the policy forbids, or that is not there, is an error that names it")
  func refusedBacking() throws {
    let folder = try ScratchDirectory()
    try folder.write(overlay(1 << 16, over: "base", format: "raw").build().bytes, to: "top")
    let missing = #expect(throws: ImageError.self) { try DiskImage.open(folder["top"]) }
    #expect(missing?.code == .notFound)
    try folder.write([1], to: "base")
    let none = OpenOptions(references: .none)
    let forbidden = #expect(throws: ImageError.self) { try DiskImage.open(folder["top"], none) }
    #expect(forbidden?.code == .forbidden)
    #expect(forbidden?.message.contains("\"base\"") == true)
  }

  @Test("async reads and opens give what the blocking ones give")
  func asynchronous() async throws {
    let folder = try ScratchDirectory()
    try folder.write(Array(0..<200), to: "disk")
    let path = folder["disk"]
    let disk = try await DiskImage.open(path, OpenOptions(format: "raw"))
    try await withThrowingTaskGroup(of: Bool.self) { group in
      for offset in 0..<100 {
        group.addTask { try await disk.read(50, at: UInt64(offset)) == Array(UInt8(offset)..<UInt8(offset + 50)) }
      }
      for try await isRight in group { #expect(isRight) }
    }
  }
}

@Suite struct CopyTests {
  /// A disk of data, zeros and packed units, over a store that fails at the n-th read.
  private func disk(_ faults: FaultyStore.Fault...) throws -> (DiskImage, [UInt8]) {
    var image = QCOW2Builder(byteCount: 40 << 16)
    var expected = [UInt8](repeating: 0, count: 40 << 16)
    for index in stride(from: 0, to: 40, by: 3) {
      let bytes = [UInt8](repeating: UInt8(index + 1), count: 65536)
      image.entries[index] =
        index % 2 == 0
        ? .data(bytes) : .packed(deflateStored(Array(bytes.prefix(60_000)) + [UInt8](repeating: 0, count: 5536)))
      let kept = index % 2 == 0 ? 65536 : 60_000
      for offset in 0..<kept { expected[index << 16 + offset] = UInt8(index + 1) }
    }
    let base = MemoryStore(image.build().bytes, name: "disk.qcow2", isWritable: false)
    let store: any ByteStore = faults.first.map { FaultyStore(base, $0) } ?? base
    return (try DiskImage.open(store, OpenOptions(format: "qcow2")), expected)
  }

  @Test("a copy is right with any number of workers, and sparse where the source is", arguments: [1, 2, 5])
  func workers(count: Int) throws {
    let folder = try ScratchDirectory(in: FilePath("."))
    let (source, expected) = try disk()
    var options = Convert.Options()
    options.workerCount = count
    try Convert(sources: [source, source], target: .newFile(folder.file("out")), options: options).run()
    #expect(try folder.read("out") == expected + expected)
    let written = try FileStore(folder.file("out")).allocatedByteCount()
    #expect(written < 2 * 16 << 16)
  }

  @Test("a read that fails, whichever it is, fails the copy and leaves no file", arguments: 8..<18)
  func failingRead(number: Int) throws {
    let folder = try ScratchDirectory()
    guard let (source, _) = try? disk(.failRead(nth: number)) else { return }
    #expect(throws: ImageError.self) {
      try Convert(sources: [source], target: .newFile(folder.file("out"))).run()
    }
    #expect(namesInFolder(folder.path) == [])
  }

  @Test("a failed copy leaves the file that was there as it was")
  func oldFileStays() throws {
    let folder = try ScratchDirectory()
    try folder.write([1, 2, 3], to: "out")
    let (source, _) = try disk(.failRead(nth: 12))
    #expect(throws: ImageError.self) {
      try Convert(sources: [source], target: .newFile(folder.file("out"))).run()
    }
    #expect(try folder.read("out") == [1, 2, 3])
  }

  @Test("a copy can be cancelled")
  func cancelled() throws {
    let folder = try ScratchDirectory()
    let (source, _) = try disk()
    let error = #expect(throws: ImageError.self) {
      try Convert(sources: [source], target: .newFile(folder.file("out"))).run { _, _ in false }
    }
    #expect(error?.code == .cancelled)
    #expect(namesInFolder(folder.path) == [])
  }

  @Test("comparing finds the first of several differences, and zeros equal holes")
  func comparing() throws {
    let (source, expected) = try disk()
    var options = OpenOptions(format: "raw")
    options.references = .none
    let same = try DiskImage.open(MemoryStore(expected, name: "same"), options)
    #expect(try Compare(source, same).run() == .identical)
    var bytes = expected
    for place in [2_000_000, 300_001, 2_500_000] { bytes[place] ^= 1 }
    let other = try DiskImage.open(MemoryStore(bytes, name: "other"), options)
    #expect(try Compare(source, other).run() == .contentDiffers(at: 300_001))
    let shorter = try DiskImage.open(MemoryStore(Array(expected.dropLast(65536)), name: "shorter"), options)
    #expect(try Compare(source, shorter).run() == .contentDiffers(at: 39 << 16))
  }

  @Test("the checksum is of the content: equal for packed, plain and sparse, and SHA-256 on demand")
  func checksums() throws {
    let (source, expected) = try disk()
    let raw = try DiskImage.open(MemoryStore(expected, name: "raw"), OpenOptions(format: "raw", references: .none))
    #expect(try Checksum(source).run() == Checksum(raw).run())
    var plain = Checksum(source)
    plain.method = .plain
    var plainRaw = Checksum(raw)
    plainRaw.method = .plain
    #expect(try plain.run() == plainRaw.run())
    var changed = expected
    changed[5] ^= 1
    let other = try DiskImage.open(MemoryStore(changed, name: "x"), OpenOptions(format: "raw", references: .none))
    #expect(try Checksum(source).run() != Checksum(other).run())
  }
}
