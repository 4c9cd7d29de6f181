import Platter
import PlatterCore
import SystemPackage
import TestSupport
import Testing
import WriterProof

/// Bitmaps are changed, copied, refused and told of as qemu-img does it.
@Suite("Dirty bitmaps, by the program", .requires(.qemuImg, .qemuIO))
struct BitmapVerbTests {
  @Test("every action, several at once, in the order given")
  func actions() throws {
    let twins = try Twins(
      "create -q -f qcow2 disk 10M", "qemu-io disk write -q 0 1M", "create -q -f qcow2 other 10M",
      "bitmap --add -g 4k other b", "qemu-io other write -q 5M 64k")
    for line in [
      "bitmap --add disk a", "bitmap --add -g 4k disk b", "bitmap --add --disable -g 1M disk c",
      "bitmap --add --enable --clear --merge a --remove disk d", "bitmap --merge a --merge b disk c",
      "bitmap -b other --merge b disk a", "bitmap -F qcow2 -b other --merge b disk b", "bitmap --disable disk a",
      "bitmap --enable disk c", "bitmap -g 0 --add disk e", "bitmap -g 2G --add disk f", "bitmap --remove disk b",
      "bitmap --image-opts --add driver=qcow2,file.filename=disk g", "bitmap --merge c disk c",
      "bitmap -f qcow2 --add disk \(String(repeating: "n", count: 1023))", "info --output=json other",
    ] {
      try twins.expectSame(line)
      try twins.expectEqual("disk")
    }
  }

  @Test(
    "mistakes",
    arguments: [
      "bitmap", "bitmap disk", "bitmap disk a", "bitmap --add disk", "bitmap --add disk a b", "bitmap --add disk a",
      "bitmap --remove disk no", "bitmap --clear disk no", "bitmap --enable disk no", "bitmap --disable disk no",
      "bitmap --merge no disk a", "bitmap --merge a disk no", "bitmap --remove --add disk no", "bitmap --add disk ''",
      "bitmap --add --merge no disk kept", "bitmap -g 1000 --add disk b", "bitmap -g 256 --add disk b",
      "bitmap -g 4G --add disk b", "bitmap -g foo --add disk b", "bitmap -g 1k --clear disk a", "bitmap -g 1k --clear",
      "bitmap -b small --clear disk a", "bitmap -F qcow2 --merge a disk a", "bitmap -b nope --merge a disk a",
      "bitmap -b disk --merge a disk a", "bitmap -b small --merge a disk a", "bitmap -b volume -F raw --merge a disk a",
      "bitmap --remove -f raw volume a", "bitmap --add nope a", "bitmap -q --add disk b", "bitmap -U --add disk b",
      "bitmap --image-opts -f qcow2 --add disk b", "bitmap -f blah --add disk b", "bitmap --add --add disk b",
      "bitmap --format qcow2 --add disk b", "bitmap --merge",
    ])
  func mistakes(line: String) throws {
    let twins = try Twins(
      "create -q -f qcow2 disk 10M", "bitmap --add disk a", "create -q -f qcow2 small 1M", "bitmap --add small a",
      "create -q -f raw volume 10M")
    try twins.expectSame(line)
    try twins.expectEqual("disk")
  }

  /// QEMU loses such a bitmap when it closes the image, and opens no image that has one.
  @Test("a disk of 0 bytes gets no bitmap, and one with bitmaps does not become so small")
  func emptyDisk() throws {
    let scratch = try ScratchDirectory()
    try Tool.qemuImg.succeed("create", "-q", "-f", "qcow2", "empty", "0", in: scratch.path)
    try Tool.qemuImg.succeed("create", "-q", "-f", "qcow2", "disk", "1M", in: scratch.path)
    try Tool.qemuImg.succeed("bitmap", "--add", "disk", "b", in: scratch.path)
    for (words, sentence) in [
      (["qemu-img", "bitmap", "--add", "empty", "b"], "a disk of 0 bytes has no bitmaps"),
      (["io", "-f", "qcow2", "-c", "truncate 0", "disk"], "they must be removed first"),
    ] {
      let got = try Program.run(words, in: scratch.path)
      #expect(got.status == 1)
      #expect((got.outputText + got.errorText).contains(sentence), "\(got.outputText)\(got.errorText)")
    }
    for name in ["empty", "disk"] { try Tool.qemuImg.succeed("check", "-q", name, in: scratch.path) }
    let kept = try Tool.qemuImg.succeed("info", "disk", in: scratch.path).outputText
    #expect(kept.contains("name: b"))
  }

  @Test(
    "what has no place for bitmaps says so",
    arguments: [
      ("-f raw volume", "Can't store persistent bitmaps to volume: Operation not supported"),
      ("old", "Can't make bitmap 'a' persistent in 'old': Cannot store dirty bitmaps in qcow2 v2 files"),
      (
        "-g 512 huge",
        "Can't make bitmap 'a' persistent in 'huge': Too much space will be occupied by the bitmap. "
          + "Use larger granularity"
      ),
    ])
  func refusals(words: String, reason: String) throws {
    let folder = try ScratchDirectory()
    try Tool.qemuImg.succeed("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "old", "1M", in: folder.path)
    try Tool.qemuImg.succeed("create", "-q", "-f", "qcow2", "huge", "60T", in: folder.path)
    try Tool.qemuImg.succeed("create", "-q", "-f", "raw", "volume", "1M", in: folder.path)
    let line = ["qemu-img", "bitmap", "--add"] + words.split(separator: " ").map(String.init) + ["a"]
    let result = try Program.run(line, in: folder.path)
    #expect(result.status == 1)
    #expect(result.errorText == "qemu-img: Operation add on bitmap a failed: \(reason)\n")
  }

  @Test("a bitmap that was not saved is listed, refused, and removed")
  func inconsistent() throws {
    let twins = try Twins("create -q -f qcow2 disk 10M", "bitmap --add disk a", "bitmap --add --disable -g 4k disk b")
    try twins.markInUse("disk", bitmap: "b")
    try twins.expectEqual("disk")
    for line in [
      "bitmap --clear disk b", "bitmap --enable disk b", "bitmap --disable disk b", "bitmap --merge b disk a",
      "bitmap --merge a disk b", "bitmap --add disk b", "resize disk 12M", "amend -o size=12M disk",
      "measure -O qcow2 disk", "convert --bitmaps -O qcow2 disk copy",
      "convert --bitmaps --skip-broken-bitmaps -O qcow2 disk copy",
    ] {
      try twins.expectSame(line)
      try twins.expectEqual("disk")
    }
    try twins.expectEqual("copy")
    try twins.expectSame("bitmap --remove disk b")
    try twins.expectEqual("disk")
    try twins.expectSame("resize disk 12M")
    try twins.expectEqual("disk")
  }

  @Test("convert copies bitmaps where it can, and says why it cannot")
  func convert() throws {
    let twins = try Twins(
      "create -q -f qcow2 disk 10M", "bitmap --add disk a", "bitmap --add -g 4k disk b", "qemu-io disk write -q 1M 1M",
      "bitmap --disable disk b", "create -q -f raw volume 10M", "create -q -f qcow2 same 10M",
      "create -q -f qcow2 large 20M", "create -q -f qcow2 -o compat=0.10 old 10M")
    for line in [
      "convert --bitmaps -O qcow2 disk copy", "convert --bitmaps -c -O qcow2 -o cluster_size=4k disk copy",
      "convert --bitmaps -O qcow2 -o preallocation=metadata disk copy",
      "convert --bitmaps -O qcow2 -o extended_l2=on disk copy",
    ] {
      try twins.expectSame(line)
      try twins.expectEqual("copy")
    }
    try twins.expectSame("convert --bitmaps -n -O qcow2 disk same")
    try twins.expectEqual("same")
    for line in [
      "convert --bitmaps -O raw disk none", "convert --bitmaps -f raw -O qcow2 volume none",
      "convert --bitmaps -O qcow2 old none", "convert --bitmaps -O qcow2 disk disk none",
      "convert --skip-broken-bitmaps -O qcow2 disk none", "convert --bitmaps -n -O qcow2 disk same",
      "convert --bitmaps -n -O qcow2 disk large", "convert --bitmaps -n -O qcow2 disk old",
      "convert --bitmaps -O qcow2 -o compat=0.10 disk none",
    ] {
      try twins.expectSame(line)
    }
  }

  @Test("measure counts bitmaps", arguments: ["", "-o cluster_size=4k ", "-o cluster_size=2M ", "-o compat=0.10 "])
  func measure(options: String) throws {
    let twins = try Twins(
      "create -q -f qcow2 disk 3G", "bitmap --add disk a",
      "bitmap --add -g 512 disk \(String(repeating: "n", count: 999))",
      "create -q -f qcow2 none 1M", "create -q -f qcow2 -o compat=0.10 old 1M", "create -q -f raw volume 1M")
    for image in ["disk", "none", "old", "-f raw volume"] {
      try twins.expectSame("measure -O qcow2 \(options)\(image)")
      try twins.expectSame("measure -O qcow2 --output=json \(options)\(image)")
    }
    try twins.expectSame("measure -O raw disk")
  }

  @Test("snapshot, commit, rebase and amend with bitmaps")
  func otherVerbs() throws {
    let twins = try Twins(
      "create -q -f qcow2 base 10M", "bitmap --add base a", "create -q -f qcow2 -b base -F qcow2 top 12M",
      "bitmap --add -g 4k top b", "qemu-io top write -q -P 1 1M 1M", "snapshot -c one base")
    for line in [
      "snapshot -c two base", "snapshot -a two base", "snapshot -d one base", "snapshot -d two base", "commit top",
      "amend -o refcount_bits=8 base", "amend -o lazy_refcounts=on base", "amend -o size=16M base",
      "rebase -b '' top", "resize --shrink top 1M",
    ] {
      try twins.expectSame(line)
      for image in ["base", "top"] { try twins.expectEqual(image) }
    }
  }
}

extension Twins {
  /// Marks a bitmap in both images as one that was not saved.
  func markInUse(_ image: String, bitmap: String) throws {
    for place in [theirs, ours] {
      let path = place.appending(image)
      var bytes = try readFile(path)
      let name = Array(bitmap.utf8)
      var entry = 0
      for offset in stride(from: 0, through: bytes.count - 24 - name.count, by: 8)
      where bytes[offset + 16] == 1 {
        let count = Int(bytes[offset + 18]) << 8 | Int(bytes[offset + 19])
        if count == name.count, bytes[offset + 20..<offset + 24].allSatisfy({ $0 == 0 }),
          Array(bytes[offset + 24..<offset + 24 + count]) == name, (9...31).contains(bytes[offset + 17])
        {
          entry = offset
        }
      }
      try #require(entry > 0)
      bytes[entry + 15] |= 1
      try writeFile(bytes, to: path)
    }
  }
}

/// QEMU reads the very bits that we wrote, we read those that QEMU wrote, and both record the same for the same requests.
@Suite("Dirty bitmaps, bit by bit", .serialized, .requires(.qemuImg, .qemuIO, .qemuNBD, .nbdinfo))
struct BitmapBitTests {
  private let folder: ScratchDirectory

  init() throws { folder = try ScratchDirectory() }

  private func theirRanges(_ image: String, _ bitmap: String) throws -> [Range<UInt64>] {
    try BitmapRanges.theirs(image, bitmap, in: folder.path)
  }

  private func ourRanges(_ image: String, _ bitmap: String) throws -> [Range<UInt64>] {
    try BitmapRanges.ours(folder.file(image), bitmap, OpenOptions(format: "qcow2"))
  }

  /// Requests in qemu-io's words, anywhere behind the first 4 MiB. Those are for packed clusters, which QEMU writes once
  /// only.
  private static func requests(
    _ byteCount: UInt64, _ cluster: UInt64, _ packed: inout UInt64, _ random: inout SeededGenerator
  ) -> [String] {
    var requests: [String] = []
    for _ in 0..<Int.random(in: 1...12, using: &random) {
      let unit: UInt64 = random.chance(2) ? 512 : random.chance(2) ? 1 : cluster
      let start = max(4 << 20, UInt64.random(in: 0..<byteCount, using: &random) / unit * unit)
      let count = min(byteCount - start, UInt64.random(in: 1...40, using: &random) * unit)
      switch Int.random(in: 0..<8, using: &random) {
      case 0...2: requests.append("write -P 7 \(start) \(count)")
      case 3: requests.append("write -z \(start) \(count)")
      case 4: requests.append("write -z -u \(start) \(count)")
      case 5, 6: requests.append("discard \(start) \(count)")
      default:
        guard packed + cluster <= 4 << 20 else { continue }
        requests.append("write -c -P 9 \(packed) \(cluster)")
        packed += cluster
      }
    }
    return requests
  }

  private func apply(_ requests: [String], to image: String, isOurs: Bool) throws {
    let words = ["-f", "qcow2"] + requests.flatMap { ["-c", $0] } + [folder[image]]
    let result =
      isOurs ? try Program.run(["qemu-io"] + words) : try run(Tool.qemuIO.path ?? "qemu-io", words)
    try #require(result.succeeded, "\(result.outputText)\(result.errorText)")
  }

  @Test(
    "both programs take turns on twin images",
    arguments: [
      (65536, "", "512"), (512, "", "512"), (4096, "", "64k"), (65536, ",extended_l2=on", "4k"), (2 << 20, "", "1M"),
    ] as [(UInt64, String, String)])
  func turns(cluster: UInt64, more: String, granularity: String) throws {
    let byteCount: UInt64 = 20 << 20 | 512
    var packed: UInt64 = 0
    var random = SeededGenerator(seed: 0xb17)
    for image in ["one", "two"] {
      try Tool.qemuImg.succeed(
        "create", "-q", "-f", "qcow2", "-o", "cluster_size=\(cluster)\(more)", folder[image], "\(byteCount)")
      try Tool.qemuImg.succeed("bitmap", "--add", "-g", granularity, folder[image], "b")
      try Tool.qemuImg.succeed("bitmap", "--add", folder[image], "sum")
    }
    for round in 0..<6 {
      let requests = Self.requests(byteCount, cluster, &packed, &random)
      try apply(requests, to: "one", isOurs: round % 2 == 0)
      try apply(requests, to: "two", isOurs: round % 2 == 1)
      if round == 3 {
        let clearing = ["bitmap", "--merge", "b", "--clear", "--merge", "sum"]
        #expect(try Program.run(["qemu-img"] + clearing + [folder["one"], "b"]).succeeded)
        #expect(try run(Tool.qemuImg.path ?? "qemu-img", clearing + [folder["two"], "b"]).succeeded)
      }
      for bitmap in ["b", "sum"] {
        let expected = try theirRanges("one", bitmap)
        #expect(try ourRanges("one", bitmap) == expected, "\(requests)")
        #expect(try theirRanges("two", bitmap) == expected, "\(requests)")
        #expect(try ourRanges("two", bitmap) == expected, "\(requests)")
      }
      for image in ["one", "two"] {
        let check = try Tool.qemuImg("check", folder[image])
        #expect(check.succeeded, "\(check.outputText)\(check.errorText)")
      }
    }
    for line in [["resize", "-q"], ["resize", "-q", "--shrink"]] {
      let size = line.count == 2 ? "30M" : "7M"
      #expect(try Program.run(["qemu-img"] + line + [folder["one"], size]).succeeded)
      try #require(try run(Tool.qemuImg.path ?? "qemu-img", line + [folder["two"], size]).succeeded)
      // More is no harm: we clear what may be left behind the old end.
      let found = try theirRanges("one", "b")
      for range in try theirRanges("two", "b") {
        #expect(found.contains { $0.lowerBound <= range.lowerBound && range.upperBound <= $0.upperBound })
      }
    }
    #expect(
      try Program.run(["qemu-img", "convert", "--bitmaps", "-O", "qcow2", folder["two"], folder["copy"]]).succeeded)
    #expect(try theirRanges("copy", "b") == theirRanges("two", "b"))
  }

  @Test("QEMU sees that a writer was interrupted")
  func interrupted() throws {
    try Tool.qemuImg.succeed("create", "-q", "-f", "qcow2", folder["one"], "1M")
    #expect(try Program.run(["qemu-img", "bitmap", "--add", folder["one"], "b"]).succeeded)
    var options = OpenOptions(format: "qcow2")
    options.isWritable = true
    options.locking = .shared
    let writer = try DiskWriter(try DiskImage.open(path: folder.file("one"), options))
    try writer.write([1].rawBytes, at: 0)
    try writer.flush()
    // Nobody closes it.
    let facts = try Tool.qemuImg.succeed("info", "-U", "--output=json", folder["one"]).outputText
    #expect(facts.contains("in-use"))
    #expect(try !Tool.qemuImg("bitmap", "--clear", folder["one"], "b").succeeded)
    try Tool.qemuImg.succeed("bitmap", "--remove", folder["one"], "b")
    try Tool.qemuImg.succeed("check", folder["one"])
  }
}
