import Platter
import PlatterCore
import PlatterVMDK
import TestSupport
import Testing

@Suite("VMDK: images that qemu-img made") struct InteropTests {
  /// 3 MiB and 7 sectors: text, a hole, and bytes that do not compress.
  private static let content: [UInt8] = {
    var bytes: [UInt8] = []
    while bytes.count < 1 << 20 { bytes += Array("line \(bytes.count)\n".utf8) }
    bytes += [UInt8](repeating: 0, count: (2 << 20) - bytes.count)
    var state: UInt64 = 1
    while bytes.count < (3 << 20) + 7 * 512 {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      bytes.append(UInt8(truncatingIfNeeded: state >> 56))
    }
    return bytes
  }()

  private static let options = [
    "subformat=monolithicSparse", "subformat=monolithicFlat", "subformat=twoGbMaxExtentSparse",
    "subformat=twoGbMaxExtentFlat", "subformat=streamOptimized", "zeroed_grain=on", "adapter_type=lsilogic,hwversion=6",
  ]

  @Test("content, facts and soundness are what they should be", .requires(.qemuImg), arguments: options)
  func reading(options: String) throws {
    let folder = try ScratchDirectory()
    _ = try folder.write(Self.content, to: "in.raw")
    let tool = Tool.qemuImg
    try tool.succeed("convert", "-f", "raw", "-O", "vmdk", "-o", options, folder["in.raw"], folder["disk.vmdk"])
    let image = try DiskImage.open(folder["disk.vmdk"])
    #expect(image.byteCount == UInt64(Self.content.count))
    #expect(try image.read(Self.content.count, at: 0) == Self.content)
    let map = try #require(image.layers.first?.map as? any CheckableMap)
    let report = try map.check(workers: 1) { _ in true }
    #expect(report.corruptions == 0 && report.messages.isEmpty)
    let printed = try tool.succeed("info", "--output=json", folder["disk.vmdk"]).outputText
    let facts = try #require(map.facts.specific)
    for name in ["cid", "parent-cid"] {
      guard case .unsigned(let number) = facts[name] else {
        Issue.record("no \(name)")
        continue
      }
      #expect(printed.contains("\"\(name)\": \(number),"))
    }
    guard case .list(let extents) = facts["extents"], case .text(let file) = extents.first?["filename"] else {
      Issue.record("no extents")
      return
    }
    #expect(printed.contains("\"filename\": \"\(file)\""))
    #expect(printed.contains("\"compressed\": true") == (extents.first?["compressed"] == .flag(true)))
  }

  @Test("a child reads through to its parent", .requires(.qemuImg))
  func delta() throws {
    let folder = try ScratchDirectory()
    _ = try folder.write(Self.content, to: "in.raw")
    let tool = Tool.qemuImg
    try tool.succeed("convert", "-f", "raw", "-O", "vmdk", "in.raw", "base.vmdk", in: folder.path)
    try tool.succeed("create", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "child.vmdk", in: folder.path)
    let image = try DiskImage.open(folder["child.vmdk"])
    #expect(image.layers.count == 2)
    #expect(try image.read(Self.content.count, at: 0) == Self.content)
  }
}
