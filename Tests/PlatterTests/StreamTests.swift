import Platter
import PlatterCore
import Synchronization
import SystemPackage
import TestSupport
import Testing

/// Images that are sent in order. The target only ever takes bytes at its end, as a pipe does.
@Suite struct StreamedImageTests {
  static let conversions =
    ConvertImageTests.plain.filter { $0.options["data_file"] == nil } + ConvertImageTests.compressed
    + ConvertImageTests.encrypted.filter { $0.options["data_file"] == nil }

  /// Converts a disk into a qcow2 stream that a file of the folder takes.
  static func send(
    _ sources: [DiskImage], to target: String, in folder: ScratchDirectory, _ conversion: Conversion, workers: Int = 3,
    sparseByteCount: Int = 4096
  ) throws {
    var create = Create(
      folder.file("standard output"), format: try TargetFormats.named("qcow2"), byteCount: nil,
      options: conversion.options)
    create.backingOptions.references = .any
    create.backingOptions.secrets = { _ in Array("abc".utf8) }
    var options = Convert.Options()
    options.workerCount = workers
    options.isCompressed = conversion.isCompressed
    options.sparseByteCount = sparseByteCount
    let file = try FileDescriptor.open(
      folder.file(target), .writeOnly, options: [.create, .truncate, .append], permissions: .ownerReadWrite)
    try file.closeAfter {
      let stream = OutputStream(descriptor: file.rawValue, name: target)
      try Convert(sources: sources, target: .imageStream(create, stream), options: options).run()
    }
  }

  @Test("the guest reads what it read before; nothing else is left in the folder", arguments: conversions)
  func content(_ conversion: Conversion) throws {
    let folder = try ScratchDirectory()
    try folder.write(ConvertImageTests.content, to: "disk.raw")
    let source = try ConvertImageTests.open(folder.file("disk.raw"), format: "raw")
    try Self.send([source], to: "disk.qcow2", in: folder, conversion)
    let image = try ConvertImageTests.open(folder.file("disk.qcow2"), format: "qcow2")
    #expect(image.byteCount == UInt64(ConvertImageTests.content.count))
    #expect(try image.read(ConvertImageTests.content.count, at: 0) == ConvertImageTests.content)
    #expect(namesInFolder(folder.path) == ["disk.qcow2", "disk.raw"])
  }

  @Test("the stream is the same on every run, with any number of workers", arguments: ConvertImageTests.compressed)
  func sameBytes(_ conversion: Conversion) throws {
    let folder = try ScratchDirectory()
    try folder.write(ConvertImageTests.content, to: "disk.raw")
    let source = try ConvertImageTests.open(folder.file("disk.raw"), format: "raw")
    try Self.send([source], to: "disk.qcow2", in: folder, conversion, workers: 1)
    let first = try folder.read("disk.qcow2")
    for workers in [2, 7] {
      try Self.send([source], to: "disk.qcow2", in: folder, conversion, workers: workers)
      #expect(try folder.read("disk.qcow2") == first)
    }
  }

  @Test("a stream is no larger than the file would be", arguments: ["", "cluster_size=4k", "refcount_bits=1"])
  func size(_ options: String) throws {
    let folder = try ScratchDirectory()
    try folder.write(ConvertImageTests.content, to: "disk.raw")
    let source = try ConvertImageTests.open(folder.file("disk.raw"), format: "raw")
    for isCompressed in [false, true] {
      let conversion = Conversion(options, compressed: isCompressed)
      try Self.send([source], to: "stream.qcow2", in: folder, conversion)
      try ConvertImageTests.convert("disk.raw", to: "file.qcow2", in: folder, conversion)
      #expect(try folder.read("stream.qcow2").count <= folder.read("file.qcow2").count)
    }
  }

  @Test(
    "an overlay holds only what differs from the image under it",
    arguments: ["", "compat=0.10", "extended_l2=on", ConvertImageTests.luks], [false, true])
  func overlay(_ options: String, isCompressed: Bool) throws {
    guard !isCompressed || !options.contains("encrypt") else { return }
    let folder = try ScratchDirectory()
    var base = ConvertImageTests.content
    for index in (1 << 20)..<(1 << 20) + 100_000 { base[index] = 7 }
    base[512 << 10] ^= 1
    base.removeLast(1536)
    try folder.write(ConvertImageTests.content, to: "disk.raw")
    try folder.write(base, to: "base.raw")
    var conversion = Conversion(options, compressed: isCompressed)
    conversion.options["backing_file"] = "base.raw"
    conversion.options["backing_fmt"] = "raw"
    let source = try ConvertImageTests.open(folder.file("disk.raw"), format: "raw")
    try Self.send([source], to: "disk.qcow2", in: folder, conversion)
    let image = try ConvertImageTests.open(folder.file("disk.qcow2"), format: "qcow2")
    #expect(image.layers.count == 2)
    #expect(try image.read(ConvertImageTests.content.count, at: 0) == ConvertImageTests.content)
    var extents: [Extent] = []
    _ = try image.layers[0].map.map(0..<64 << 10, limit: 1, into: &extents)
    #expect(extents.first?.kind == .absent)
  }

  @Test("several disks are joined, packed ones and a chain too, and zeros are written where holes are unwanted")
  func joining() throws {
    let folder = try ScratchDirectory()
    try folder.write(ConvertImageTests.content, to: "disk.raw")
    try ConvertImageTests.convert(
      "disk.raw", to: "packed.qcow2", in: folder, Conversion("cluster_size=2M", compressed: true))
    let sources = [
      try ConvertImageTests.open(folder.file("disk.raw"), format: "raw"),
      try ConvertImageTests.open(folder.file("packed.qcow2"), format: "qcow2"),
    ]
    for sparseByteCount in [0, 4096] {
      for isCompressed in [false, true] {
        try Self.send(
          sources, to: "both.qcow2", in: folder, Conversion("cluster_size=4k", compressed: isCompressed),
          sparseByteCount: sparseByteCount)
        let image = try ConvertImageTests.open(folder.file("both.qcow2"), format: "qcow2")
        let expected = ConvertImageTests.content + ConvertImageTests.content
        #expect(try image.read(expected.count, at: 0) == expected)
      }
    }
  }

  @Test("a disk without bytes, and one without data", arguments: [0, 1 << 30])
  func empty(byteCount: UInt64) throws {
    let folder = try ScratchDirectory()
    try folder.write([], to: "disk.raw")
    var fileOptions = FileStore.Options(isWritable: true)
    fileOptions.creates = true
    try FileStore(folder.file("disk.raw"), fileOptions).resize(to: byteCount)
    let source = try ConvertImageTests.open(folder.file("disk.raw"), format: "raw")
    try Self.send([source], to: "disk.qcow2", in: folder, Conversion("", compressed: true))
    #expect(try folder.read("disk.qcow2").count <= 4 << 16)
    let image = try ConvertImageTests.open(folder.file("disk.qcow2"), format: "qcow2")
    #expect(image.byteCount == byteCount)
    #expect(try image.read(Int(min(byteCount, 512)), at: 0).allSatisfy { $0 == 0 })
  }

  /// A store whose bytes become others after so many were read.
  private final class ChangingStore: StoreDecorator {
    let base: any ByteStore
    private let limit: UInt64
    private let done = Atomic<UInt64>(0)
    init(_ bytes: [UInt8], after limit: UInt64) {
      base = MemoryStore(bytes, isWritable: false)
      self.limit = limit
    }
    func read(into buffer: inout MutableRawSpan, at offset: UInt64) throws(ImageError) -> Int {
      let got = try base.read(into: &buffer, at: offset)
      if done.add(UInt64(got), ordering: .relaxed).oldValue >= limit, got > 0 { buffer.zero(0..<got / 2) }
      return got
    }
  }

  @Test("a source that changes between the passes is an error, not a broken image")
  func changing() throws {
    let folder = try ScratchDirectory()
    var text: [UInt8] = []
    for line in 0..<60_000 { text += Array("line \(line * 7919)\n".utf8) }
    let count = UInt64(text.count)
    let source = try DiskImage.open(ChangingStore(text, after: count), OpenOptions(format: "raw"))
    let error = #expect(throws: ImageError.self) {
      try Self.send([source], to: "disk.qcow2", in: folder, Conversion("", compressed: true), workers: 1)
    }
    #expect(error?.message.contains("the source changed while it was read") == true)
  }

  @Test("what cannot be sent is refused before a byte is sent", arguments: ["data_file=d.raw", "cluster_size=3"])
  func refused(_ options: String) throws {
    let folder = try ScratchDirectory()
    try folder.write(ConvertImageTests.content, to: "disk.raw")
    let source = try ConvertImageTests.open(folder.file("disk.raw"), format: "raw")
    #expect(throws: ImageError.self) {
      try Self.send([source], to: "disk.qcow2", in: folder, Conversion(options))
    }
    #expect(try folder.read("disk.qcow2") == [])
    #expect(namesInFolder(folder.path) == ["disk.qcow2", "disk.raw"])
  }

  @Test("qemu-img reads the same, and finds nothing wrong", .requires(.qemuImg), arguments: conversions)
  func interop(_ conversion: Conversion) throws {
    let folder = try ScratchDirectory()
    try folder.write(ConvertImageTests.content, to: "disk.raw")
    let source = try ConvertImageTests.open(folder.file("disk.raw"), format: "raw")
    try Self.send([source], to: "disk.qcow2", in: folder, conversion)
    try ConvertImageTests.expectSameForQEMU(conversion, in: folder)
  }
}

/// Raw disks that come through a pipe.
@Suite struct PipeSourceTests {
  /// Runs `body` with a disk that can only be read in order.
  private func withPipe<R>(
    _ bytes: [UInt8], byteCount: UInt64? = nil, in folder: ScratchDirectory, _ body: (PipeSource) throws -> R
  ) throws -> R {
    try folder.write(bytes, to: "piped")
    let file = try FileDescriptor.open(folder.file("piped"), .readOnly)
    return try file.closeAfter {
      try body(PipeSource(descriptor: file.rawValue, name: "standard input", byteCount: byteCount))
    }
  }

  private func target(_ folder: ScratchDirectory, _ options: [String: String]) throws -> ConvertTarget {
    .newImage(
      Create(folder.file("disk.qcow2"), format: try TargetFormats.named("qcow2"), byteCount: nil, options: options))
  }

  @Test(
    "an image made from a pipe has the disk's size and bytes, told or not",
    arguments: [
      Conversion(""), Conversion("", compressed: true), Conversion("cluster_size=512"),
      Conversion("extended_l2=on,compression_type=zstd", compressed: true), Conversion("compat=0.10"),
      Conversion("cluster_size=2M"), Conversion("refcount_bits=1", compressed: true),
    ], [true, false])
  func image(_ conversion: Conversion, isTold: Bool) throws {
    let folder = try ScratchDirectory()
    let content = Array(ConvertImageTests.content.dropLast(100))
    var options = Convert.Options()
    options.isCompressed = conversion.isCompressed
    options.workerCount = 4
    // The order of places cannot be given up here.
    options.isOrdered = false
    try withPipe(content, byteCount: isTold ? UInt64(content.count) : nil, in: folder) { pipe in
      try Convert(.pipe(pipe), target: try target(folder, conversion.options), options: options).run()
    }
    let image = try ConvertImageTests.open(folder.file("disk.qcow2"), format: "qcow2")
    #expect(image.byteCount == UInt64(ConvertImageTests.content.count))
    #expect(try image.read(content.count, at: 0) == content)
    #expect(try image.read(100, at: UInt64(content.count)) == [UInt8](repeating: 0, count: 100))
    guard Tool.qemuImg.isInstalled else { return }
    #expect(try Tool.qemuImg("check", "disk.qcow2", in: folder.path).status == 0)
  }

  @Test("a raw file, one that is there, an image that is there, and another pipe take it")
  func otherTargets() throws {
    let folder = try ScratchDirectory()
    let content = ConvertImageTests.content
    try withPipe(Array(content.dropLast(10)), in: folder) { pipe in
      try Convert(.pipe(pipe), target: .newFile(folder.file("new.raw"))).run()
    }
    #expect(try folder.read("new.raw") == content.dropLast(10) + [UInt8](repeating: 0, count: 10))
    try folder.write([UInt8](repeating: 9, count: 3 << 20), to: "old.raw")
    try withPipe(content, in: folder) { pipe in
      try Convert(.pipe(pipe), target: .existing(folder.file("old.raw"), isZero: false)).run()
    }
    #expect(try folder.read("old.raw") == content + [UInt8](repeating: 9, count: (3 << 20) - content.count))
    for isCompressed in [false, true] {
      try ConvertImageTests.convert("old.raw", to: "old.qcow2", in: folder, Conversion(""))
      try withPipe(content, in: folder) { pipe in
        let image = try ConvertImageTests.open(folder.file("old.qcow2"), format: "qcow2", isWritable: true)
        var options = Convert.Options()
        options.isCompressed = isCompressed
        try Convert(.pipe(pipe), target: .image(image, isZero: false), options: options).run()
      }
      let image = try ConvertImageTests.open(folder.file("old.qcow2"), format: "qcow2")
      #expect(try image.read(3 << 20, at: 0) == folder.read("old.raw"))
    }
  }

  @Test(
    "a pipe that ends too early or too late is an error, and no file is left", arguments: [false, true], [-1, 1])
  func wrongSize(isImage: Bool, difference: Int) throws {
    let folder = try ScratchDirectory()
    let told = ConvertImageTests.content.count + difference
    let error = try withPipe(ConvertImageTests.content, byteCount: UInt64(told), in: folder) { pipe in
      #expect(throws: ImageError.self) {
        let target = isImage ? try target(folder, [:]) : ConvertTarget.newFile(folder.file("disk.raw"))
        try Convert(.pipe(pipe), target: target).run()
      }
    }
    #expect(
      error?.description
        == (difference > 0
          ? "standard input: ends after \(told - 1) bytes, but the disk should have \(told)"
          : "standard input: goes on after the \(told) bytes that the disk should have"))
    #expect(namesInFolder(folder.path) == ["piped"])
  }

  @Test("more than an image that is there can take is an error", arguments: [false, true])
  func tooLarge(isCompressed: Bool) throws {
    let folder = try ScratchDirectory()
    try folder.write([UInt8](repeating: 9, count: 1 << 20), to: "old.raw")
    try ConvertImageTests.convert("old.raw", to: "old.qcow2", in: folder, Conversion(""))
    let error = try withPipe(ConvertImageTests.content, in: folder) { pipe in
      #expect(throws: ImageError.self) {
        let image = try ConvertImageTests.open(folder.file("old.qcow2"), format: "qcow2", isWritable: true)
        var options = Convert.Options()
        options.isCompressed = isCompressed
        try Convert(.pipe(pipe), target: .image(image, isZero: false), options: options).run()
      }
    }
    #expect(error?.code == .invalidArgument)
  }

  @Test("a copy that fails does not wait for more bytes")
  func failedTarget() throws {
    let ends = try FileDescriptor.pipe()
    defer {
      try? ends.readEnd.close()
      try? ends.writeEnd.close()
    }
    // One block for one worker, as long as a piece of a copy; then nothing comes for the others, and the end stays open.
    let writeEnd = ends.writeEnd
    #expect(Workers.startDetached { _ = try? writeEnd.writeAll([UInt8](repeating: 1, count: 1 << 20)) })
    let folder = try ScratchDirectory()
    let pipe = PipeSource(descriptor: ends.readEnd.rawValue, name: "pipe", byteCount: 4 << 20)
    var options = Convert.Options()
    options.workerCount = 3
    options.isCompressed = true
    let error = #expect(throws: ImageError.self) {
      try Convert(.pipe(pipe), target: try target(folder, ["cluster_size": "4k"]), options: options).run { _, _ in
        false
      }
    }
    #expect(error?.code == .cancelled)
    #expect(namesInFolder(folder.path) == [])
  }

  @Test("a reader that waits for bytes can be stopped")
  func cancelled() throws {
    let ends = try FileDescriptor.pipe()
    defer {
      try? ends.readEnd.close()
      try? ends.writeEnd.close()
    }
    let folder = try ScratchDirectory()
    let pipe = PipeSource(
      descriptor: ends.readEnd.rawValue, name: "pipe", byteCount: nil, isCancelled: { true })
    let error = #expect(throws: ImageError.self) {
      try Convert(.pipe(pipe), target: try target(folder, [:])).run()
    }
    #expect(error?.code == .cancelled)
    #expect(namesInFolder(folder.path) == [])
  }
}
