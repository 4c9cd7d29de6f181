import Platter
import PlatterCore
import PlatterQED
import TestSupport
import Testing

@Suite("QED: images that qemu-img made") struct InteropTests {
  @Test(
    "content and check are what they should be", .requires(.qemuImg),
    arguments: [
      "cluster_size=4096,table_size=2", "cluster_size=65536,table_size=4", "cluster_size=1M,table_size=16",
    ])
  func reading(options: String) throws {
    let folder = try ScratchDirectory()
    var content = [UInt8](repeating: 0, count: 5 << 20)
    for index in 0..<70_000 { content[index * 13] = UInt8(truncatingIfNeeded: index) }
    for index in 2 << 20..<3 << 20 { content[index] = 0 }
    _ = try folder.write(content, to: "in.raw")
    let tool = Tool.qemuImg
    try tool.succeed("convert", "-f", "raw", "-O", "qed", "-o", options, folder["in.raw"], folder["disk.qed"])
    let image = try DiskImage.open(folder["disk.qed"])
    #expect(try image.read(content.count, at: 0) == content)
    let map = try #require(image.layers.first?.map as? any CheckableMap)
    let report = try map.check(workers: 1) { _ in true }
    #expect(report.corruptions == 0 && report.leaks == 0)
    let printed = try tool.succeed("check", "--output=json", "-f", "qed", folder["disk.qed"]).outputText
    #expect(printed.contains("\"allocated-clusters\": \(report.allocatedClusters ?? 0),"))
    #expect(printed.contains("\"total-clusters\": \(report.totalClusters ?? 0),"))
  }
}
