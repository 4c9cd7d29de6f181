import Platter
import PlatterCore
import PlatterQCOW2
import PlatterRaw
import SystemPackage
import TestSupport
import WriterProof

/// A written image beside an array of bytes that says what it must read as.
struct WriterModel {
  let subject: WriterSubject
  let built: BuiltSubject
  let store: PagedStore
  /// What the writer writes to: `store`, or one that fails in front of it.
  private let front: any ByteStore
  let dataFile: FilePath?
  private(set) var disk: DiskImage
  private(set) var writer: DiskWriter
  private(set) var bytes: [UInt8]
  /// All guest bytes of the backing image.
  let below: [UInt8]
  private let baseLeaks: Int
  /// What was done, for messages.
  private(set) var history: [String] = []

  init(
    _ subject: WriterSubject, _ built: BuiltSubject, dataFile: FilePath? = nil, journal: ChangeJournal? = nil,
    front: (PagedStore) -> any ByteStore = { $0 }
  ) throws {
    self.subject = subject
    self.built = built
    self.dataFile = dataFile
    store = PagedStore(built.image, name: "top.qcow2", journal: journal)
    self.front = front(store)
    bytes = built.guest
    disk = try Self.open(self.front, built, subject, dataFile, isWritable: true)
    writer = try DiskWriter(disk)
    below =
      disk.layers.count > 1 ? try DiskImage(layers: [disk.layers[1]]).read(Int(built.backingByteCount), at: 0) : []
    let check = QCOW2Checker(built.image)
    guard check.damages.isEmpty else { throw WriterFault("the built image is damaged: \(check.damages)") }
    baseLeaks = check.leaks
  }

  static func open(
    _ store: any ByteStore, _ built: BuiltSubject, _ subject: WriterSubject, _ dataFile: FilePath? = nil,
    isWritable: Bool = false, snapshot: String? = nil
  ) throws(ImageError) -> DiskImage {
    var context = OpenContext(isWritable: isWritable, passphrase: { Array("secret".utf8) })
    if let dataFile { context.options["data-file.filename"] = dataFile.string }
    var map = try QCOW2.open(store, context)
    if let snapshot { map = try map.snapshot(named: snapshot) }
    var layers = [DiskImage.Layer(name: store.name, map: map)]
    if let backing = built.backing {
      let below = PagedStore(backing, name: "below", isWritable: false)
      let map =
        subject.backing == .raw ? try Raw.open(below, OpenContext()) : try QCOW2.open(below, OpenContext())
      layers.append(DiskImage.Layer(name: "below", map: map))
    }
    return DiskImage(layers: layers)
  }

  // MARK: Steps

  mutating func step(_ random: inout SeededGenerator) throws {
    switch Int.random(in: 0..<20, using: &random) {
    case 0...8: try write(randomRange(&random), &random)
    case 9...11: try zero(randomRange(&random), mayUnmap: random.chance(2))
    case 12: try discard(randomRange(&random))
    case 13, 14: try writePacked(&random)
    case 15: try flush()
    case 16: try reopen()
    case 17: try resize(&random)
    case 18: try makeAbsent(randomRange(&random))
    default: try compare(randomRange(&random))
    }
  }

  /// Any bytes, sectors, or clusters; mostly short.
  func randomRange(_ random: inout SeededGenerator) -> Range<UInt64> {
    let count = UInt64(bytes.count)
    let units: [UInt64] = [1, 512, subject.mapUnit, subject.cluster]
    let unit = units.randomElement(using: &random) ?? 1
    let start = UInt64.random(in: 0...count, using: &random) / unit * unit
    let longest = random.chance(8) ? count : 3 * subject.cluster
    let length = UInt64.random(in: 0...longest, using: &random) / unit * unit + (random.chance(4) ? 0 : unit)
    return start..<min(count, start + length)
  }

  mutating func write(_ range: Range<UInt64>, _ random: inout SeededGenerator) throws {
    history.append("write \(range)")
    let start = Int.random(in: 0..<4096, using: &random) * 64
    let payload = randomPool.part(start..<start + range.count)
    try writer.write(payload.rawBytes, at: range.lowerBound)
    bytes.put(payload, at: Int(range.lowerBound))
  }

  mutating func zero(_ range: Range<UInt64>, mayUnmap: Bool) throws {
    history.append("zero \(range) unmap:\(mayUnmap)")
    try writer.zero(range, mayUnmap: mayUnmap)
    bytes.clear(Int(range.lowerBound)..<Int(range.upperBound))
  }

  mutating func flush() throws {
    history.append("flush")
    try writer.flush()
  }

  mutating func discard(_ range: Range<UInt64>) throws {
    history.append("discard \(range)")
    try writer.discard(range)
    // Version 2 has no zero clusters, and a raw data file says with its bytes what it holds.
    let isPossible = subject.version >= 3 ? subject.dataFile != .raw : subject.backing == .none
    guard isPossible else { return }
    // Clusters, also where parts of them could be given up.
    let whole = wholeUnits(range, subject.cluster)
    try settle(whole, [UInt8](repeating: 0, count: whole.count), mayStay: false)
  }

  mutating func makeAbsent(_ range: Range<UInt64>) throws {
    guard subject.dataFile != .raw else { return }
    history.append("make absent \(range)")
    let answer = try writer.makeAbsent(range)
    let whole = wholeUnits(range)
    var content = [UInt8](repeating: 0, count: whole.count)
    if whole.lowerBound < UInt64(below.count) {
      content.put(below.part(Int(whole.lowerBound)..<min(Int(whole.upperBound), below.count)), at: 0)
    }
    try settle(whole, content, mayStay: answer == .cannot)
  }

  /// Takes over what a range of whole units must read as now.
  /// - Parameter mayStay: each unit may be what it was instead (parts of packed clusters).
  private mutating func settle(_ whole: Range<UInt64>, _ content: [UInt8], mayStay: Bool) throws {
    guard !whole.isEmpty else { return }
    guard mayStay else { return bytes.put(content, at: Int(whole.lowerBound)) }
    let found = try disk.read(whole.count, at: whole.lowerBound)
    for start in stride(from: 0, to: whole.count, by: Int(subject.mapUnit)) {
      let part = start..<min(start + Int(subject.mapUnit), whole.count)
      let place = Int(whole.lowerBound) + start
      let old = bytes.part(place..<place + part.count)
      let new = content.part(part)
      guard found.part(part) == old || found.part(part) == new else {
        throw WriterFault("bytes at \(place) are neither what they were nor what they should be")
      }
      bytes.put(found.part(part), at: place)
    }
  }

  func wholeUnits(_ range: Range<UInt64>, _ unit: UInt64? = nil) -> Range<UInt64> {
    let unit = unit ?? subject.mapUnit
    let start = (range.lowerBound + unit - 1) / unit * unit
    let end = range.upperBound == UInt64(bytes.count) ? range.upperBound : range.upperBound / unit * unit
    return start..<max(start, end)
  }

  mutating func writePacked(_ random: inout SeededGenerator) throws {
    let cluster = Int(subject.cluster)
    guard !bytes.isEmpty else { return }
    try writePacked(Int.random(in: 0...(bytes.count - 1) / cluster, using: &random), &random)
  }

  /// Stores a guest cluster packed, where the image can.
  mutating func writePacked(_ index: Int, _ random: inout SeededGenerator) throws {
    let cluster = Int(subject.cluster)
    var content = randomPool.part(index * 64..<index * 64 + cluster)
    content.clear(Int.random(in: 0..<cluster / 2, using: &random)..<cluster)
    guard let packed = subject.pack(content) else { return }
    history.append("write packed \(index): \(packed.count)")
    let isDone = try writer.writePacked(packed.rawBytes, unitStart: UInt64(index * cluster))
    guard isDone == (!subject.isEncrypted && subject.dataFile == .none) else {
      throw WriterFault("packed units: \(isDone)")
    }
    guard isDone else { return }
    bytes.put(content.part(0..<min(cluster, bytes.count - index * cluster)), at: index * cluster)
  }

  mutating func resize(_ random: inout SeededGenerator) throws {
    guard subject.version >= 3 || subject.sharing == .none else { return }
    let unit = random.chance(2) ? 512 : subject.cluster
    let count = random.chance(12) ? 0 : UInt64.random(in: 0...subject.byteCount * 3 / 2, using: &random) / unit * unit
    try resize(to: count)
  }

  mutating func resize(to count: UInt64) throws {
    history.append("resize \(bytes.count) to \(count)")
    try writer.resize(to: count)
    let kept = bytes.part(0..<min(bytes.count, Int(count)))
    bytes = kept + [UInt8](repeating: 0, count: Int(count) - kept.count)
    guard disk.byteCount == count else { throw WriterFault("the disk has \(disk.byteCount) bytes, not \(count)") }
  }

  mutating func reopen() throws {
    history.append("reopen")
    try finish()
    disk = try Self.open(front, built, subject, dataFile, isWritable: true)
    writer = try DiskWriter(disk)
  }

  // MARK: Comparing

  func compare(_ range: Range<UInt64>) throws { try compare(disk, range, "through the writer") }

  private func compare(_ image: DiskImage, _ range: Range<UInt64>, _ how: String) throws {
    let found = try image.read(range.count, at: range.lowerBound)
    let wanted = bytes.part(Int(range.lowerBound)..<Int(range.upperBound))
    if let first = found.rawBytes.firstDifference(from: wanted.rawBytes) {
      throw WriterFault(
        "byte \(Int(range.lowerBound) + first) of \(bytes.count) reads \(found[first]), not \(wanted[first]), \(how)")
    }
  }

  /// Closes, and looks at the file as others see it: its counts, its guest bytes, its snapshot.
  func finish() throws {
    let all = 0..<UInt64(bytes.count)
    try compare(all)
    try writer.close()
    let check = QCOW2Checker(store.bytes)
    guard check.damages.isEmpty else { throw WriterFault("damaged: \(check.damages.joined(separator: "; "))") }
    guard check.leaks <= baseLeaks else { throw WriterFault("\(check.leaks) clusters leak, \(baseLeaks) at first") }
    let reopened = try Self.open(store, built, subject, dataFile)
    guard reopened.byteCount == all.upperBound else { throw WriterFault("reopened with \(reopened.byteCount) bytes") }
    try compare(reopened, all, "after reopening")
    if subject.dataFile == .raw, !subject.isEncrypted, let dataFile {
      var options = OpenOptions(format: "raw")
      options.locking = .shared
      try compare(DiskImage.open(path: dataFile, options), all, "in the raw data file")
    }
    guard subject.sharing != .none else { return }
    let snapshot = try Self.open(store, built, subject, snapshot: "one")
    let found = try snapshot.read(Int(snapshot.byteCount), at: 0)
    guard found == built.guest else { throw WriterFault("the snapshot has changed") }
  }
}
