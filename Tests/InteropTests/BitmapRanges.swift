import Platter
import PlatterCore
import SystemPackage
import TestSupport

/// What a bitmap says, through both programs' eyes.
enum BitmapRanges {
  /// As QEMU's server tells it to nbdinfo.
  static func theirs(_ image: String, _ bitmap: String, in folder: FilePath) throws -> [Range<UInt64>] {
    let result = try Tool.nbdinfo.succeed(
      "--map=qemu:dirty-bitmap:\(bitmap)", "--", "[", Tool.qemuNBD.path ?? "qemu-nbd", "-r", "-f", "qcow2", "-B",
      bitmap, image, "]", in: folder)
    var ranges: [Range<UInt64>] = []
    for line in result.outputText.split(separator: "\n") {
      let words = line.split(separator: " ")
      guard words.count >= 3, let start = UInt64(words[0]), let count = UInt64(words[1]) else { continue }
      if words[2] == "1" { add(start..<start + count, to: &ranges) }
    }
    return ranges
  }

  static func ours(_ image: FilePath, _ bitmap: String, _ options: OpenOptions) throws -> [Range<UInt64>] {
    let disk = try DiskImage.open(path: image, options)
    guard let source = disk.layers[0].map as? any BitmapSource else { return [] }
    var ranges: [Range<UInt64>] = []
    try source.dirtyRanges(ofBitmapNamed: bitmap) { add($0, to: &ranges) }
    return ranges
  }

  private static func add(_ range: Range<UInt64>, to ranges: inout [Range<UInt64>]) {
    guard let last = ranges.last, last.upperBound == range.lowerBound else { return ranges.append(range) }
    ranges[ranges.count - 1] = last.lowerBound..<range.upperBound
  }
}
