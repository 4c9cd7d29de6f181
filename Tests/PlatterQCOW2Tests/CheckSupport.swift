import PlatterCore
import PlatterQCOW2
import SystemPackage
import TestSupport
import Testing

/// The report of a check that changes nothing.
func check(_ bytes: [UInt8], _ context: OpenContext = OpenContext(), workers: Int = 1) throws -> CheckReport {
  var context = context
  context.isForCheck = true
  let map = try #require(try open(bytes, context) as? any CheckableMap)
  return try map.check(workers: workers) { _ in true }
}

func check(_ image: QCOW2Builder) throws -> CheckReport { try check(image.build().bytes) }

/// The numbers of a check in qemu-img's words; those that are 0 are left out, as there.
struct CheckNumbers: Equatable, CustomStringConvertible {
  static let keys = [
    "corruptions", "leaks", "check-errors", "image-end-offset", "total-clusters", "allocated-clusters",
    "fragmented-clusters", "compressed-clusters",
  ]
  var values: [String: UInt64] = [:]

  init(_ report: CheckReport) {
    values = [
      "corruptions": UInt64(report.corruptions), "leaks": UInt64(report.leaks),
      "check-errors": UInt64(report.checkErrors), "image-end-offset": report.imageEndOffset ?? 0,
      "total-clusters": report.totalClusters ?? 0, "allocated-clusters": report.allocatedClusters ?? 0,
      "fragmented-clusters": report.fragmentedClusters ?? 0, "compressed-clusters": report.compressedClusters ?? 0,
    ].filter { $0.value > 0 }
  }

  /// What `qemu-img check --output=json` printed.
  init(json: String) {
    for key in Self.keys {
      guard let place = json.range(ofText: "\"\(key)\": ") else { continue }
      let digits = json.utf8[place...].prefix { (48...57).contains($0) }
      let value = UInt64(String(decoding: digits, as: UTF8.self)) ?? 0
      if value > 0 { values[key] = value }
    }
  }

  var description: String { values.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }.joined(separator: ", ") }
}

extension String {
  /// The place behind the first occurrence of a text.
  fileprivate func range(ofText text: String) -> String.Index? {
    let wanted = Array(text.utf8)
    var start = utf8.startIndex
    while start < utf8.endIndex {
      if utf8[start...].starts(with: wanted) { return utf8.index(start, offsetBy: wanted.count) }
      start = utf8.index(after: start)
    }
    return nil
  }
}

/// What qemu-img says of these bytes: its numbers and its exit status.
func qemuCheck(_ bytes: [UInt8]) throws -> (numbers: CheckNumbers, status: Int32, text: String) {
  let folder = try ScratchDirectory()
  let path = try folder.write(bytes, to: "disk.qcow2")
  let result = try Tool.qemuImg("check", "-f", "qcow2", "--output=json", path.string)
  return (CheckNumbers(json: result.outputText), Int32(result.status), result.outputText + result.errorText)
}

/// Exit status as `check` gives it.
func status(_ report: CheckReport) -> Int32 {
  if report.checkErrors > 0 { return 1 }
  if report.corruptions > 0 { return 2 }
  return report.leaks > 0 ? 3 : 0
}

/// A small image with a bit of everything: data, packed clusters in one host cluster, zeros, a snapshot, a bitmap.
func variedImage(clusterBits: Int = 12) -> QCOW2Builder {
  let size = 1 << clusterBits
  var image = QCOW2Builder(byteCount: UInt64(size) * 40, clusterBits: clusterBits)
  image.entries[0] = .data([1])
  image.entries[1] = .data([2])
  image.entries[3] = .zero
  image.entries[4] = .zeroAllocated
  image.entries[6] = .packed(deflateStored(Array(repeating: 9, count: size / 4)))
  image.entries[7] = .packed(deflateStored(Array(repeating: 8, count: size / 4)))
  image.entries[9] = .data([3])
  image.snapshots = [QCOW2Builder.Snapshot(id: "1", name: "one", entries: [0: .data([5]), 2: .data([6])])]
  image.bitmaps = [QCOW2Builder.Bitmap(name: "changes")]
  return image
}
