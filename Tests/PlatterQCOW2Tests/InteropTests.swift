import PlatterCore
import PlatterQCOW2
import SystemPackage
import TestSupport
import Testing

@Suite("qemu-img agrees", .requires(.qemuImg))
struct InteropTests {
  @Test("the builder's images are sound, and both see the same runs", arguments: LayoutShape.all)
  func builtImages(_ shape: LayoutShape) throws {
    var random = SeededGenerator(seed: shape.seed)
    var image = randomImage(shape, &random)
    // qemu-img rounds other sizes down.
    image.byteCount -= image.byteCount % 512
    let folder = try ScratchDirectory()
    let path = try folder.write(image.build().bytes, to: "disk.qcow2")
    let check = try Tool.qemuImg("check", path.string)
    #expect(check.status == 0, "\(check.outputText)\(check.errorText)")
    let map = try QCOW2.open(try FileStore(path), OpenContext(path: path))
    let theirs = try Tool.qemuImg.succeed("map", "--output=json", path.string).outputText
    #expect(theirs == lines(try runs(map)))
  }

  /// Runs as qemu-img prints them: packed ones without their place, neighbours of one look joined.
  private func lines(_ runs: [Extent]) -> String {
    var entries: [(start: UInt64, length: UInt64, look: String, offset: UInt64?)] = []
    for run in runs {
      let look: String =
        switch run.kind {
        case .absent: "\"present\": false, \"zero\": true, \"data\": false"
        case .zero: "\"present\": true, \"zero\": true, \"data\": false"
        case .data, .packed: "\"present\": true, \"zero\": false, \"data\": true"
        }
      let offset = run.hasOffset && run.kind != .packed ? run.offset : nil
      if let last = entries.last, last.look == look, last.offset.map({ $0 + last.length }) == offset {
        entries[entries.count - 1].length += run.byteCount
      } else {
        entries.append((run.start, run.byteCount, look, offset))
      }
    }
    let texts = entries.map { entry in
      "{ \"start\": \(entry.start), \"length\": \(entry.length), \"depth\": 0, \(entry.look)"
        + (entry.offset.map { ", \"offset\": \($0)" } ?? "") + "}"
    }
    return "[" + texts.joined(separator: ",\n") + "]\n"
  }
}
