import Platter
import PlatterCore
import PlatterQCOW2
package import TestSupport

/// The state of a running machine that a snapshot keeps behind its disk, read from the specification alone.
enum MachineState {
  /// Where a snapshot's entry lies in the table.
  static func record(_ image: PagedBytes, snapshot: Int) -> UInt64 {
    var place = image.number(at: 64)
    for _ in 0..<snapshot {
      let names = image.number(at: place + 12, byteCount: 2) + image.number(at: place + 14, byteCount: 2)
      place = (place + 40 + image.number(at: place + 36, byteCount: 4) + names + 7) / 8 * 8
    }
    return place
  }

  /// The clusters as they lie in the file; empty where the snapshot has none.
  static func read(_ image: PagedBytes, snapshot: Int) -> [UInt8] {
    let place = record(image, snapshot: snapshot)
    guard image.number(at: place + 36, byteCount: 4) >= 16 else { return [] }
    let (byteCount, disk) = (image.number(at: place + 40), image.number(at: place + 48))
    let cluster = UInt64(1) << image.number(at: 20, byteCount: 4)
    let isExtended = image.number(at: 4, byteCount: 4) >= 3 && image.number(at: 72) & 16 != 0
    let width: UInt64 = isExtended ? 16 : 8
    let coverage = cluster / width * cluster
    var bytes: [UInt8] = []
    var position = (disk + coverage - 1) / coverage * coverage
    let end = position + byteCount
    while position < end {
      let table = image.number(at: image.number(at: place) + position / coverage * 8) & 0x00ff_ffff_ffff_fe00
      let entry = image.number(at: table + position % coverage / cluster * width)
      let host = entry & 0x00ff_ffff_ffff_fe00
      bytes += image.read(host..<host + cluster)
      position += cluster
    }
    return bytes
  }
}

/// Looks at files that nobody has open: a checker that shares no line with the product, and the product's own check.
package struct ProofAudit {
  private let contents: [PagedBytes]
  private let chain: ProofChain

  package init(_ contents: [PagedBytes], _ chain: ProofChain) {
    self.contents = contents
    self.chain = ProofChain(chain, contents)
  }

  /// Every count of every qcow2 image.
  package func checkCounts(mayLeak: Bool, withOwnCheck: Bool = true) throws {
    try check(0, mayLeak: mayLeak)
    for (name, format) in chain.formats where format == "qcow2" {
      if let number = ProofFiles.names.firstIndex(of: name) { try check(number, mayLeak: mayLeak) }
    }
    guard withOwnCheck, let map = try chain.topMap() as? any CheckableMap else { return }
    let report = try map.check(workers: 1) { _ in true }
    guard report.corruptions == 0, report.checkErrors == 0, mayLeak || report.leaks == 0 else {
      throw WriterFault("check: \(report.messages.joined(separator: "; "))")
    }
  }

  private func check(_ number: Int, mayLeak: Bool) throws {
    let check = QCOW2Checker(contents[number], countsLeaks: !mayLeak)
    guard check.damages.isEmpty else {
      throw WriterFault("\(ProofFiles.names[number]) is damaged: \(check.damages.joined(separator: "; "))")
    }
    guard mayLeak || check.leaks == 0 else {
      throw WriterFault("\(check.leaks) clusters of \(ProofFiles.names[number]) leak")
    }
  }

  /// Whether files that were left in the middle are one of some states: each sector of the disk as in one of them, the
  /// snapshots as in one of them.
  package func check(against states: [ProofState], isThorough: Bool) throws {
    try checkCounts(mayLeak: true, withOwnCheck: isThorough)
    let disk = try chain.open()
    let found = try disk.read(Int(disk.byteCount), at: 0)
    let sizes = states.map(\.bytes.count)
    guard sizes.contains(found.count) else { throw WriterFault("the disk has \(found.count) bytes, not \(sizes)") }
    // The end that a resize was about to cut off may show the backing image already.
    let below = states.map(\.below)
    try Self.compare(found, states.map(\.bytes), also: below, from: sizes.min() ?? 0, "of the disk")
    try checkBases(states)
    try checkSnapshots(states, disk, isThorough: isThorough)
  }

  private func checkBases(_ states: [ProofState]) throws {
    guard Set(states.map(\.baseVersion)).count > 1 else { return }
    for name in chain.formats.keys {
      let base = try chain.openBase(name)
      let found = try base.read(Int(base.byteCount), at: 0)
      try Self.compare(found, states.compactMap { $0.bases[name] }, "of \(name)")
    }
  }

  private func checkSnapshots(_ states: [ProofState], _ disk: DiskImage, isThorough: Bool) throws {
    let names = disk.layers[0].map.facts.snapshots.map(\.name)
    guard states.contains(where: { $0.snapshots.map(\.name) == names }) else {
      throw WriterFault("the snapshots are \(names), not \(states.map { $0.snapshots.map(\.name) })")
    }
    guard isThorough else { return }
    for (index, name) in names.enumerated() {
      let image = try chain.open(snapshot: name)
      let found = try image.read(Int(image.byteCount), at: 0)
      let machine = MachineState.read(contents[0], snapshot: index)
      let known = states.flatMap(\.snapshots).filter { $0.name == name }
      guard known.contains(where: { $0.bytes == found && $0.machine == machine }) else {
        throw WriterFault("snapshot \(name) is another one than was taken")
      }
    }
  }

  private static func compare(
    _ found: [UInt8], _ states: [[UInt8]], also below: [[UInt8]] = [], from shortest: Int = .max, _ what: String
  ) throws {
    if let last = states.last, last.count == found.count, found.isEqual(last, 0..<found.count) { return }
    for start in stride(from: 0, to: found.count, by: 512) {
      let part = start..<min(start + 512, found.count)
      guard !states.contains(where: { found.isEqual($0, part) }) else { continue }
      for index in part
      where !states.contains(where: { index < $0.count ? $0[index] == found[index] : found[index] == 0 }) {
        if index >= shortest, below.contains(where: { index < $0.count && $0[index] == found[index] }) { continue }
        let values = states.map { index < $0.count ? Int($0[index]) : -1 }
        throw WriterFault("byte \(index) \(what) reads \(found[index]), and was \(values)")
      }
    }
  }
}

extension ProofChain {
  /// The same chain of other contents.
  init(_ chain: ProofChain, _ contents: [PagedBytes]) {
    self = chain
    stores = contents.indices.map { PagedStore(contents[$0], name: ProofFiles.names[$0]) }
  }
}
