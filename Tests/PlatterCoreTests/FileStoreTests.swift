import PlatterCore
import SystemPackage
import TestSupport
import Testing

@Suite struct ImageLockTests {
  @Test("readers share a file; a writer and a reader keep each other out")
  func locks() throws {
    let folder = try ScratchDirectory()
    let path = try folder.write([0], to: "disk")
    let reader = try FileStore(path)
    let otherReader = try FileStore(path)
    try ImageLock.acquireForReading(reader)
    try ImageLock.acquireForReading(otherReader)
    let writer = try FileStore(path, FileStore.Options(isWritable: true))
    let refusal = #expect(throws: ImageError.self) { try ImageLock.acquireForWriting(writer) }
    #expect(refusal?.code == .busy)
    #expect(refusal?.message == "Failed to get \"write\" lock")
  }

  @Test("a reader is told who is in its way, and gets in when the writer has gone")
  func afterWriter() throws {
    let folder = try ScratchDirectory()
    let path = try folder.write([0], to: "disk")
    var writer: FileStore? = try FileStore(path, FileStore.Options(isWritable: true))
    try ImageLock.acquireForWriting(#require(writer))
    let refused = try FileStore(path)
    let refusal = #expect(throws: ImageError.self) { try ImageLock.acquireForReading(refused) }
    #expect(refusal?.message == "Failed to get shared \"write\" lock")
    writer = nil
    try ImageLock.acquireForReading(FileStore(path))
  }

  @Test("qemu-io and we keep each other out", .requires(.qemuIO))
  func withQEMU() throws {
    let folder = try ScratchDirectory()
    let path = try folder.write([UInt8](repeating: 0, count: 4096), to: "disk")
    let reader = try FileStore(path)
    try ImageLock.acquireForReading(reader)
    let refused = try run("qemu-io", ["-f", "raw", "-c", "write 0 512", path.string])
    #expect(refused.status == 1)
    #expect(refused.errorText.contains("Failed to get \"write\" lock"))
    #expect(try run("qemu-io", ["-r", "-f", "raw", "-c", "read 0 512", path.string]).succeeded)
  }
}

@Suite struct FileStoreTests {
  @Test("direct I/O takes requests of any place and length", arguments: [0, 1, 511, 4096, 5000])
  func direct(offset: Int) throws {
    // A memory file system may have no direct I/O; the working folder's has.
    let folder = try ScratchDirectory(in: FilePath("."))
    var random = SeededGenerator(seed: 0xd12ec7)
    let bytes = (0..<20_000).map { _ in UInt8.random(in: 0...255, using: &random) }
    let path = try folder.write(bytes, to: "disk")
    var options = FileStore.Options(isWritable: true)
    options.isDirect = true
    let store = try FileStore(path, options)
    #expect(try store.readFully("part", at: UInt64(offset), count: 9000) == Array(bytes[offset..<offset + 9000]))
    #expect(try store.readPrefix(at: 19_000, count: 4096) == Array(bytes[19_000...]))
    try store.write([1, 2, 3].rawBytes, at: UInt64(offset))
    #expect(try Array(folder.read("disk")[offset..<offset + 4]) == [1, 2, 3, bytes[offset + 3]])
  }

  @Test("a read past the end names the structure and both sizes")
  func truncated() throws {
    let error = #expect(throws: ImageError.self) {
      try MemoryStore([1, 2, 3], name: "x.img").readFully("L1 table", at: 2, count: 8)
    }
    #expect(error?.code == .truncated)
    #expect(error?.description == "x.img: L1 table (8 bytes at 0x2) lies past the end of the file (0x3)")
  }

  @Test("holes are found, punched and counted")
  func holes() throws {
    let folder = try ScratchDirectory(in: FilePath("."))
    let path = try folder.write([UInt8](repeating: 7, count: 1 << 20), to: "disk")
    let store = try FileStore(path, FileStore.Options(isWritable: true))
    try store.punch(65536..<131072)
    #expect(try store.segment(at: 0, limit: 1 << 20) == StoreSegment(isHole: false, byteCount: 65536))
    #expect(try store.segment(at: 65536, limit: 1 << 20) == StoreSegment(isHole: true, byteCount: 65536))
    #expect(try store.segment(at: 70000, limit: 1000) == StoreSegment(isHole: true, byteCount: 1000))
    #expect(try folder.read("disk")[65535...65536].elementsEqual([7, 0]))
  }
}

@Suite struct BytesTests {
  @Test("a byte that is not zero is seen wherever it stands", arguments: [1, 7, 8, 31, 255, 256, 257, 4095, 4096])
  func zeroTest(count: Int) {
    for misalignment in 0..<9 {
      var bytes = [UInt8](repeating: 0, count: misalignment + count)
      #expect(isZero(bytes, from: misalignment))
      for place in [0, count / 2, count - 1] {
        bytes[misalignment + place] = 1
        #expect(!isZero(bytes, from: misalignment))
        bytes[misalignment + place] = 0
      }
    }
  }

  private func isZero(_ bytes: [UInt8], from start: Int) -> Bool {
    bytes.rawBytes.extracting(start..<bytes.count).isAllZero
  }

  @Test("the first difference is found", arguments: [0, 1, 300, 999])
  func difference(place: Int) {
    let one = [UInt8](repeating: 3, count: 1000)
    var other = one
    other[place] = 4
    let found = one.rawBytes.firstDifference(from: other.rawBytes)
    #expect(found == place)
    let same = one.rawBytes.firstDifference(from: one.rawBytes)
    #expect(same == nil)
  }

  @Test("integers outside a span are nil, at any offset", arguments: [-1, 0, 1, 4, 5, Int.max])
  func bounds(offset: Int) {
    let bytes: [UInt8] = [1, 2, 3, 4, 5]
    let value: UInt32? = bytes.rawBytes.bigEndian(at: offset)
    #expect((value != nil) == (0...1).contains(offset))
  }
}
