import Platter
import PlatterCore
import SystemPackage
import TestSupport
import Testing

/// A conversion into qcow2: `-o` options, and whether it compresses.
struct Conversion: Sendable, CustomTestStringConvertible {
  var options: [String: String]
  var isCompressed: Bool
  init(_ text: String, compressed: Bool = false) {
    options = [:]
    for pair in text.split(separator: ",") {
      let parts = pair.split(separator: "=", maxSplits: 1)
      options[String(parts[0])] = String(parts[1])
    }
    isCompressed = compressed
  }
  var testDescription: String {
    options.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }.joined(separator: ",")
      + (isCompressed ? " compressed" : "")
  }
}

@Suite struct ConvertImageTests {
  static let luks = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"

  static let plain: [Conversion] =
    [
      Conversion(""), Conversion("cluster_size=512"), Conversion("cluster_size=2M"), Conversion("extended_l2=on"),
      Conversion("compat=0.10"), Conversion("data_file=d.raw"), Conversion("data_file=d.raw,data_file_raw=on"),
      Conversion("preallocation=metadata"), Conversion("preallocation=falloc,extended_l2=on"),
    ] + [1, 2, 4, 8, 32, 64].map { Conversion("refcount_bits=\($0)") }

  static let compressed: [Conversion] = [
    Conversion("", compressed: true), Conversion("compression_type=zstd", compressed: true),
    Conversion("cluster_size=512", compressed: true), Conversion("cluster_size=2M", compressed: true),
    Conversion("extended_l2=on", compressed: true), Conversion("refcount_bits=1,cluster_size=512", compressed: true),
    Conversion("refcount_bits=2", compressed: true), Conversion("compression_window=4k", compressed: true),
    Conversion("compression_level=12", compressed: true), Conversion("compat=0.10", compressed: true),
  ]

  static let encrypted: [Conversion] = [
    Conversion(luks), Conversion(luks + ",extended_l2=on"), Conversion(luks + ",preallocation=metadata"),
    Conversion(luks + ",data_file=d.raw"), Conversion("encrypt.format=aes,encrypt.key-secret=s"),
    Conversion("encrypt.format=aes,encrypt.key-secret=s,compat=0.10,preallocation=metadata"),
  ]

  /// Noise, text, a hole, zeros written as data, and an end inside a cluster.
  static let content: [UInt8] = {
    var bytes = [UInt8](repeating: 0, count: (2 << 20) + 1536)
    var random = SeededGenerator(seed: 0xc0de)
    for index in 0..<(150 << 10) { bytes[index] = UInt8.random(in: 0...255, using: &random) }
    for index in (512 << 10)..<(900 << 10) { bytes[index] = UInt8(truncatingIfNeeded: index / 97 ^ index % 13) }
    for index in (3 << 19) + 70_000..<(3 << 19) + 74_096 { bytes[index] = 0x42 }
    for index in (2 << 20)..<bytes.count { bytes[index] = UInt8.random(in: 0...255, using: &random) }
    return bytes
  }()

  static func open(_ path: FilePath, format: String, isWritable: Bool = false) throws(ImageError) -> DiskImage {
    var options = OpenOptions(format: format, references: .any)
    options.isWritable = isWritable
    options.passphrase = { Array("abc".utf8) }
    return try DiskImage.open(path: path, options)
  }

  /// Converts a raw file of the folder to a qcow2 file in it.
  static func convert(
    _ source: String, to target: String, in folder: ScratchDirectory, _ conversion: Conversion, workers: Int = 3
  ) throws(ImageError) {
    var create = Create(
      folder.file(target), format: try TargetFormats.named("qcow2"), byteCount: nil, options: conversion.options)
    create.backingOptions.references = .any
    create.backingOptions.secrets = { _ in Array("abc".utf8) }
    var options = Convert.Options()
    options.workerCount = workers
    options.isCompressed = conversion.isCompressed
    try Convert(
      sources: [try open(folder.file(source), format: "raw")], target: .newImage(create), options: options
    ).run()
  }

  @Test("the guest reads what it read before", arguments: plain + compressed + encrypted)
  func content(_ conversion: Conversion) throws {
    let folder = try ScratchDirectory()
    try folder.write(Self.content, to: "disk.raw")
    try Self.convert("disk.raw", to: "disk.qcow2", in: folder, conversion)
    let image = try Self.open(folder.file("disk.qcow2"), format: "qcow2")
    #expect(image.byteCount == UInt64(Self.content.count))
    #expect(try image.read(Self.content.count, at: 0) == Self.content)
  }

  @Test("the file is the same on every run, with any number of workers", arguments: plain + compressed)
  func sameBytes(_ conversion: Conversion) throws {
    let folder = try ScratchDirectory()
    try folder.write(Self.content, to: "disk.raw")
    try Self.convert("disk.raw", to: "disk.qcow2", in: folder, conversion, workers: 1)
    let first = try folder.read("disk.qcow2")
    for workers in [2, 7] {
      try Self.convert("disk.raw", to: "disk.qcow2", in: folder, conversion, workers: workers)
      #expect(try folder.read("disk.qcow2") == first)
    }
  }

  @Test(
    "an overlay holds only what differs from the image under it",
    arguments: [
      Conversion("backing_fmt=raw"), Conversion("backing_fmt=raw", compressed: true),
      Conversion("backing_fmt=raw,compat=0.10"), Conversion("backing_fmt=raw,extended_l2=on"),
      Conversion("backing_fmt=raw,data_file=d.raw"),
      Conversion("backing_fmt=raw,preallocation=metadata,extended_l2=on"),
      Conversion("backing_fmt=raw," + luks),
    ])
  func overlay(_ conversion: Conversion) throws {
    let folder = try ScratchDirectory()
    var base = Self.content
    // Data where the disk has zeros, another byte where both have data, and an earlier end.
    for index in (1 << 20)..<(1 << 20) + 100_000 { base[index] = 7 }
    base[512 << 10] ^= 1
    base.removeLast(1536)
    try folder.write(Self.content, to: "disk.raw")
    try folder.write(base, to: "base.raw")
    var conversion = conversion
    conversion.options["backing_file"] = "base.raw"
    try Self.convert("disk.raw", to: "disk.qcow2", in: folder, conversion)
    let image = try Self.open(folder.file("disk.qcow2"), format: "qcow2")
    #expect(image.layers.count == 2)
    #expect(try image.read(Self.content.count, at: 0) == Self.content)
    guard conversion.options["preallocation"] == nil else { return }
    var extents: [Extent] = []
    _ = try image.layers[0].map.map(0..<64 << 10, limit: 1, into: &extents)
    #expect(extents.first?.kind == .absent)
  }

  @Test("several disks are joined, though none ends at a cluster's end", arguments: [false, true])
  func joining(isCompressed: Bool) throws {
    let folder = try ScratchDirectory()
    try folder.write(Self.content, to: "disk.raw")
    let source = try Self.open(folder.file("disk.raw"), format: "raw")
    let create = Create(
      folder.file("disk.qcow2"), format: try TargetFormats.named("qcow2"), byteCount: nil, options: [:])
    var options = Convert.Options()
    options.isCompressed = isCompressed
    try Convert(sources: [source, source, source], target: .newImage(create), options: options).run()
    let image = try Self.open(folder.file("disk.qcow2"), format: "qcow2")
    #expect(try image.read(3 * Self.content.count, at: 0) == Self.content + Self.content + Self.content)
  }

  @Test("an image that is there is written over, and its rest left alone")
  func existing() throws {
    let folder = try ScratchDirectory()
    try folder.write([UInt8](repeating: 9, count: 3 << 20), to: "old.raw")
    try folder.write(Self.content, to: "disk.raw")
    try Self.convert("old.raw", to: "disk.qcow2", in: folder, Conversion("", compressed: true))
    try writeOver(folder.file("disk.qcow2"), with: folder.file("disk.raw"))
    let image = try Self.open(folder.file("disk.qcow2"), format: "qcow2")
    #expect(try image.read(Self.content.count, at: 0) == Self.content)
    #expect(try image.read(1000, at: 3_000_000) == [UInt8](repeating: 9, count: 1000))
  }

  /// The target is closed, and its lock gone, when this returns.
  private func writeOver(_ target: FilePath, with source: FilePath) throws {
    let target = try Self.open(target, format: "qcow2", isWritable: true)
    try Convert(sources: [try Self.open(source, format: "raw")], target: .image(target, isZero: false)).run()
  }

  @Test("a copy that fails leaves neither the new image nor anything beside it")
  func failure() throws {
    let folder = try ScratchDirectory()
    try folder.write(Self.content, to: "disk.raw")
    let error = #expect(throws: ImageError.self) {
      let create = Create(
        folder.file("disk.qcow2"), format: try TargetFormats.named("qcow2"), byteCount: nil, options: [:])
      try Convert(
        sources: [try Self.open(folder.file("disk.raw"), format: "raw")], target: .newImage(create)
      ).run { done, _ in done == 0 }
    }
    #expect(error?.code == .cancelled)
    #expect(namesInFolder(folder.path) == ["disk.raw"])
  }

  @Test(
    "compression is refused where the format cannot have it",
    arguments: [luks, "data_file=d.raw", "preallocation=full"])
  func refusedCompression(_ text: String) throws {
    let folder = try ScratchDirectory()
    try folder.write(Self.content, to: "disk.raw")
    let error = #expect(throws: ImageError.self) {
      try Self.convert("disk.raw", to: "disk.qcow2", in: folder, Conversion(text, compressed: true))
    }
    #expect(error?.message.contains("not supported at the same time") == true)
    #expect(namesInFolder(folder.path) == ["disk.raw"])
  }

  @Test(
    "qemu-img reads the same, and finds nothing wrong", .requires(.qemuImg), arguments: plain + compressed + encrypted)
  func interop(_ conversion: Conversion) throws {
    let folder = try ScratchDirectory()
    try folder.write(Self.content, to: "disk.raw")
    try Self.convert("disk.raw", to: "disk.qcow2", in: folder, conversion)
    try Self.expectSameForQEMU(conversion, in: folder)
  }

  /// qemu-img finds nothing wrong with disk.qcow2, and in it what disk.raw has.
  static func expectSameForQEMU(_ conversion: Conversion, in folder: ScratchDirectory) throws {
    var image = "driver=qcow2,file.filename=disk.qcow2"
    if conversion.options["encrypt.format"] != nil { image += ",encrypt.key-secret=s" }
    let secret = ["--object", "secret,id=s,data=abc", "--image-opts"]
    let check = try Tool.qemuImg("check", secret[0], secret[1], secret[2], image, in: folder.path)
    #expect(check.status == 0, "\(check.outputText)\(check.errorText)")
    let compare = try Tool.qemuImg(
      "compare", secret[0], secret[1], secret[2], "driver=raw,file.filename=disk.raw", image, in: folder.path)
    #expect(compare.status == 0, "\(compare.outputText)\(compare.errorText)")
  }
}

/// The formats that new images can have, by name.
enum TargetFormats {
  static func named(_ name: String) throws(ImageError) -> any CreatableFormat.Type {
    guard let format = try Formats.named(name) as? any CreatableFormat.Type else {
      throw ImageError(.unsupported, "no \(name) image can be made")
    }
    return format
  }
}
