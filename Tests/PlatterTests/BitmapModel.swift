import Platter
import PlatterCore
import PlatterQCOW2
import TestSupport
import WriterProof

/// A dirty bitmap as an array of flags.
struct FlagBitmap: Equatable, Sendable {
  var name: String
  var granularity: UInt64
  var isEnabled: Bool
  var flags: [Bool]

  mutating func mark(_ range: Range<UInt64>) {
    guard !range.isEmpty else { return }
    for index in range.lowerBound / granularity...(range.upperBound - 1) / granularity { flags[Int(index)] = true }
  }

  func isMarked(_ byte: UInt64) -> Bool {
    let index = Int(byte / granularity)
    return index < flags.count && flags[index]
  }

  /// Marked ranges of the disk, neighbours joined.
  func ranges(_ byteCount: UInt64) -> [Range<UInt64>] {
    var all: [Range<UInt64>] = []
    for (index, isMarked) in flags.enumerated() where isMarked {
      let start = UInt64(index) * granularity
      all.appendJoining(start..<min(start + granularity, byteCount))
    }
    return all
  }

  func resized(to byteCount: UInt64) -> FlagBitmap {
    var new = self
    let count = Int(byteCount.dividedRoundingUp(by: granularity))
    new.flags = Array(flags.prefix(count)) + [Bool](repeating: false, count: max(0, count - flags.count))
    return new
  }
}

extension [Range<UInt64>] {
  /// Adds a range behind the others, as one with the last where they touch.
  mutating func appendJoining(_ range: Range<UInt64>) {
    guard let last, last.upperBound == range.lowerBound else { return append(range) }
    self[count - 1] = last.lowerBound..<range.upperBound
  }
}

extension BitmapSource {
  /// What a bitmap of the image says, neighbours joined.
  func joinedRanges(_ name: String) throws -> [Range<UInt64>] {
    var all: [Range<UInt64>] = []
    try dirtyRanges(ofBitmapNamed: name) { all.appendJoining($0) }
    return all
  }
}

/// A written image with bitmaps, beside arrays of flags that say what they must hold.
struct BitmapModel {
  private(set) var disk: WriterModel
  private(set) var bitmaps: [FlagBitmap] = []
  /// What was done, for messages.
  private(set) var history: [String] = []
  private var counter = 0

  init(_ disk: WriterModel) { self.disk = disk }

  /// A kind of image that can have bitmaps.
  static func subject(_ random: inout SeededGenerator) -> WriterSubject {
    var subject = WriterSubject.random(&random)
    subject.version = 3
    subject.hasFeatureNames = subject.clusterBits > 9 && random.chance(2)
    return subject
  }

  private var byteCount: UInt64 { UInt64(disk.bytes.count) }

  mutating func step(_ random: inout SeededGenerator) throws {
    switch Int.random(in: 0..<25, using: &random) {
    case 0...6: try write(disk.randomRange(&random), &random)
    case 7, 8: try zero(disk.randomRange(&random), mayUnmap: random.chance(2))
    case 9: try discard(disk.randomRange(&random))
    case 10: try writePacked(&random)
    case 11: try makeAbsent(disk.randomRange(&random))
    case 12: try disk.flush()
    case 13: try reopen()
    case 14, 15: try resize(&random)
    case 16...18: try add(&random)
    case 19: try remove(&random)
    case 20: try clear(&random)
    case 21: try toggle(&random)
    case 22, 23: try merge(&random)
    default: try compare()
    }
  }

  // MARK: The disk

  /// Notes the step in the history before it is done, so that a failing one is told.
  private mutating func note(_ step: String) { history.append(step) }

  private mutating func mark(_ range: Range<UInt64>) {
    for index in bitmaps.indices where bitmaps[index].isEnabled { bitmaps[index].mark(range) }
  }

  private mutating func write(_ range: Range<UInt64>, _ random: inout SeededGenerator) throws {
    note("write \(range)")
    try disk.write(range, &random)
    mark(range)
  }

  private mutating func zero(_ range: Range<UInt64>, mayUnmap: Bool) throws {
    note("zero \(range) unmap:\(mayUnmap)")
    try disk.zero(range, mayUnmap: mayUnmap)
    mark(range)
  }

  /// All that was asked for counts as changed, as with QEMU: what becomes of it is the format's matter.
  private mutating func discard(_ range: Range<UInt64>) throws {
    note("discard \(range)")
    try disk.discard(range)
    mark(range)
  }

  private mutating func makeAbsent(_ range: Range<UInt64>) throws {
    note("make absent \(range)")
    try disk.makeAbsent(range)
    mark(disk.wholeUnits(range))
  }

  private mutating func writePacked(_ random: inout SeededGenerator) throws {
    guard byteCount > 0, !disk.subject.isEncrypted else { return }
    let index = UInt64.random(in: 0...(byteCount - 1) / disk.subject.cluster, using: &random)
    note("write packed \(index)")
    let done = disk.history.count
    try disk.writePacked(Int(index), &random)
    guard disk.history.count > done else { return }
    mark(index * disk.subject.cluster..<min((index + 1) * disk.subject.cluster, byteCount))
  }

  mutating func reopen() throws {
    note("reopen")
    try disk.reopen()
    try compare()
  }

  private mutating func resize(_ random: inout SeededGenerator) throws {
    let unit = random.chance(2) ? 512 : disk.subject.cluster
    let limit = disk.subject.byteCount * 3 / 2
    let new = random.chance(12) ? 0 : UInt64.random(in: 0...limit, using: &random) / unit * unit
    let old = byteCount
    note("resize \(old) to \(new)")
    guard new > 0 || bitmaps.isEmpty else {
      do { try disk.resize(to: new) } catch is ImageError { return }
      throw WriterFault("a disk with bitmaps has 0 bytes")
    }
    try disk.resize(to: new)
    // Bytes between the sizes may have been cleared on the way, which may mark them, and what shares a bit with them.
    for index in bitmaps.indices {
      var expected = bitmaps[index].resized(to: new)
      let found = try Self.flags(of: expected, in: source())
      for place in expected.flags.indices where found[place] != expected.flags[place] {
        let end = UInt64(place + 1) * expected.granularity
        guard found[place], expected.isEnabled, end > min(old, new) else {
          throw WriterFault("bit \(place) of \(expected.name) is \(found[place]) after resizing")
        }
        expected.flags[place] = true
      }
      bitmaps[index] = expected
    }
  }

  // MARK: The bitmaps

  private func source() throws -> any BitmapSource {
    guard let map = disk.disk.layers[0].map as? any BitmapSource else { throw WriterFault("no bitmaps") }
    return map
  }

  private func edit(_ body: (any BitmapMap) throws(ImageError) -> Void) throws {
    try disk.writer.restructure { (map, _) throws(ImageError) in
      guard let map = map as? any BitmapMap else { throw ImageError(.unsupported, "no bitmaps") }
      try body(map)
    }
  }

  mutating func add(_ random: inout SeededGenerator) throws {
    guard bitmaps.count < 4, byteCount > 0 else { return }
    counter += 1
    let name = "bitmap \(counter)" + String(repeating: "x", count: Int.random(in: 0...9, using: &random))
    let chosen = ([nil, 512, 1024, 4096, 65536, 1 << 20] as [UInt64?]).randomElement(using: &random) ?? nil
    let granularity = chosen ?? min(max(disk.subject.cluster, 4096), 65536)
    let isEnabled = !random.chance(4)
    note("add \(name) \(granularity) \(isEnabled)")
    try edit { map throws(ImageError) in try map.addBitmap(named: name, granularity: chosen, isEnabled: isEnabled) }
    let count = Int(byteCount.dividedRoundingUp(by: granularity))
    bitmaps.append(
      FlagBitmap(
        name: name, granularity: granularity, isEnabled: isEnabled, flags: [Bool](repeating: false, count: count)))
  }

  private mutating func remove(_ random: inout SeededGenerator) throws {
    guard let index = bitmaps.indices.randomElement(using: &random) else { return }
    let name = bitmaps[index].name
    note("remove \(name)")
    try edit { map throws(ImageError) in try map.removeBitmap(named: name) }
    bitmaps.remove(at: index)
  }

  private mutating func clear(_ random: inout SeededGenerator) throws {
    guard let index = bitmaps.indices.randomElement(using: &random) else { return }
    let name = bitmaps[index].name
    note("clear \(name)")
    try edit { map throws(ImageError) in try map.clearBitmap(named: name) }
    bitmaps[index].flags = bitmaps[index].flags.map { _ in false }
  }

  private mutating func toggle(_ random: inout SeededGenerator) throws {
    guard let index = bitmaps.indices.randomElement(using: &random) else { return }
    let (name, isEnabled) = (bitmaps[index].name, !bitmaps[index].isEnabled)
    note("enable \(name): \(isEnabled)")
    try edit { map throws(ImageError) in try map.setBitmap(named: name, isEnabled: isEnabled) }
    bitmaps[index].isEnabled = isEnabled
  }

  private mutating func merge(_ random: inout SeededGenerator) throws {
    guard let from = bitmaps.randomElement(using: &random),
      let to = bitmaps.indices.randomElement(using: &random)
    else { return }
    let target = bitmaps[to].name
    note("merge \(from.name) into \(target)")
    try edit { map throws(ImageError) in try map.mergeBitmap(named: from.name, into: target) }
    for range in from.ranges(byteCount) { bitmaps[to].mark(range) }
  }

  // MARK: Comparing

  /// The flags of a bitmap as an image has them.
  private static func flags(of bitmap: FlagBitmap, in source: any BitmapSource) throws -> [Bool] {
    var found = bitmap
    found.flags = found.flags.map { _ in false }
    for range in try source.joinedRanges(bitmap.name) { found.mark(range) }
    return found.flags
  }

  func compare() throws { try Self.compare(bitmaps, with: source(), byteCount) }

  /// - Throws: `WriterFault` where an image does not have just these bitmaps.
  static func compare(_ bitmaps: [FlagBitmap], with source: any BitmapSource, _ byteCount: UInt64) throws {
    let wanted = bitmaps.map {
      BitmapFacts(name: $0.name, granularity: $0.granularity, isEnabled: $0.isEnabled, isInconsistent: false)
    }
    guard source.bitmaps == wanted else { throw WriterFault("the bitmaps are \(source.bitmaps), not \(wanted)") }
    for bitmap in bitmaps {
      let (found, expected) = (try source.joinedRanges(bitmap.name), bitmap.ranges(byteCount))
      guard found == expected else { throw WriterFault("\(bitmap.name) has \(found), not \(expected)") }
    }
  }
}
