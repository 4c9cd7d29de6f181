package import Platter
import PlatterCore
import PlatterQCOW2
package import TestSupport

/// A qcow2 image that `create` made, in a chain, beside plain arrays that say what it must read as.
package final class ProofModel {
  package let row: ProofRow
  package let files: ProofFiles
  package let stores: [PagedStore]
  /// What the writer writes to: the stores, or ones that fail in front of them.
  let chain: ProofChain
  package internal(set) var disk: DiskImage
  package internal(set) var writer: DiskWriter
  package internal(set) var state: ProofState
  package internal(set) var bitmaps: [String: ProofBitmap] = [:]
  /// What was done, for messages.
  package internal(set) var history: [String] = []
  /// The step that is under way has closed the writer.
  package internal(set) var isClosed = false
  /// A fault has left clusters behind that nobody refers to.
  package var mayLeak = false
  /// States inside the step under way that are on the disk for a while.
  var between: [ProofState] = []
  var version: UInt64
  var isDataFileRaw: Bool
  var names = 0

  /// - Parameter front: a file, by its number, that fails for the writer.
  package init(
    _ row: ProofRow, _ files: ProofFiles, _ state: ProofState, _ journal: ChangeJournal? = nil,
    front: (place: Int, fault: FaultyStore.Fault)? = nil
  ) throws {
    self.row = row
    self.files = files
    self.state = state
    let stores = files.stores(journal)
    self.stores = stores
    var fronts: [any ByteStore] = stores
    if let front { fronts[front.place] = FaultyStore(stores[front.place], front.fault) }
    chain = ProofChain(fronts, files)
    version = stores[0].bytes.number(at: 4, byteCount: 4)
    isDataFileRaw = row.value("data_file") == "raw"
    disk = try chain.open(isWritable: true)
    writer = try DiskWriter(disk)
  }

  var cluster: Int { Int(row.cluster) }

  // MARK: Steps

  /// - Parameter withBitmaps: dirty bitmaps are added and changed too.
  package func step(_ random: inout SeededGenerator, withBitmaps: Bool = false) throws {
    between = []
    switch Int.random(in: 0..<36, using: &random) {
    case 0...9: try write(randomRange(&random), &random)
    case 10...12: try zero(randomRange(&random), mayUnmap: random.chance(2))
    case 13: try discard(randomRange(&random))
    case 14: try makeAbsent(randomRange(&random))
    case 15, 16: try writeCompressed(&random)
    case 17, 18: try flush()
    case 19, 20: try reopen()
    case 21, 22: try resize(&random)
    case 23, 24: try createSnapshot(&random)
    case 25, 26: try applySnapshot(&random)
    case 27: try deleteSnapshot(&random)
    case 28: try commit()
    case 29, 30: try rebase(&random)
    case 31, 32: try amend(&random)
    case 33, 34:
      if withBitmaps { try changeBitmaps(&random) } else { try write(randomRange(&random), &random) }
    default: try compare(randomRange(&random))
    }
  }

  /// Any bytes, sectors, or clusters; mostly short.
  func randomRange(_ random: inout SeededGenerator) -> Range<UInt64> {
    let count = UInt64(state.bytes.count)
    let units: [UInt64] = [1, 512, row.mapUnit, row.cluster]
    let unit = units.randomElement(using: &random) ?? 1
    let start = UInt64.random(in: 0...count, using: &random) / unit * unit
    let longest = random.chance(8) ? count : row.cluster > 65536 ? row.mapUnit : 3 * row.cluster
    let length = UInt64.random(in: 0...longest, using: &random) / unit * unit + (random.chance(4) ? 0 : unit)
    return start..<min(count, start + length)
  }

  func write(_ range: Range<UInt64>, _ random: inout SeededGenerator) throws {
    history.append("write \(range)")
    let payload = randomBytes(range.count, from: Int.random(in: 0..<16384, using: &random) * 64)
    try writer.write(payload.rawBytes, at: range.lowerBound)
    change(range) { $0.put(payload, at: Int(range.lowerBound)) }
  }

  func zero(_ range: Range<UInt64>, mayUnmap: Bool) throws {
    history.append("zero \(range) unmap:\(mayUnmap)")
    try writer.zero(range, mayUnmap: mayUnmap)
    change(range) { $0.clear(Int(range.lowerBound)..<Int(range.upperBound)) }
  }

  func discard(_ range: Range<UInt64>) throws {
    history.append("discard \(range)")
    try writer.discard(range)
    touch(range)
    // Version 2 has no zero clusters, and a raw data file says with its bytes what it holds.
    guard version >= 3 ? !isDataFileRaw : state.backing == nil else { return }
    // Clusters, also where parts of them could be given up.
    let whole = wholeUnits(range, row.cluster)
    try settle(whole, [UInt8](repeating: 0, count: whole.count), mayStay: false)
  }

  func makeAbsent(_ range: Range<UInt64>) throws {
    guard !isDataFileRaw else { return }
    history.append("make absent \(range)")
    let answer = try writer.makeAbsent(range)
    touch(range)
    let whole = wholeUnits(range)
    var content = [UInt8](repeating: 0, count: whole.count)
    let below = state.below
    if whole.lowerBound < UInt64(below.count) {
      content.put(below.part(Int(whole.lowerBound)..<min(Int(whole.upperBound), below.count)), at: 0)
    }
    try settle(whole, content, mayStay: answer == .cannot)
  }

  /// One cluster, packed, where there is none yet.
  func writeCompressed(_ random: inout SeededGenerator) throws {
    guard !state.bytes.isEmpty else { return }
    let index = Int.random(in: 0...(state.bytes.count - 1) / cluster, using: &random)
    let range = index * cluster..<min((index + 1) * cluster, state.bytes.count)
    var payload = randomBytes(range.count, from: index * 4099)
    payload.clear(Int.random(in: 0..<range.count, using: &random)..<range.count)
    history.append("write compressed \(range)")
    let content = payload
    do throws(ImageError) {
      try writer.writeCompressed(content.rawBytes, at: UInt64(range.lowerBound))
    } catch {
      let isImpossible = error.code == .unsupported && (row.isEncrypted || row.hasDataFile)
      guard isImpossible || error.message.contains("has space already") else { throw error }
      return history.append("refused")
    }
    change(UInt64(range.lowerBound)..<UInt64(range.upperBound)) { $0.put(content, at: range.lowerBound) }
  }

  package func flush() throws {
    history.append("flush")
    try writer.flush()
  }

  package func reopen() throws {
    history.append("reopen")
    try finish()
    try open()
  }

  /// Closes the writer for something that opens the files itself.
  func close() throws {
    isClosed = true
    try writer.close()
  }

  func open() throws {
    disk = try chain.open(isWritable: true)
    writer = try DiskWriter(disk)
    isClosed = false
    guard disk.layers[0].map.backing?.displayName == state.backing else {
      throw WriterFault("the header names \(disk.layers[0].map.backing?.displayName ?? "no file")")
    }
  }

  // MARK: Content

  /// A request named a range: bitmaps may say all of it.
  private func touch(_ range: Range<UInt64>) {
    for name in bitmaps.keys { bitmaps[name]?.touch(range, cluster: row.cluster) }
  }

  /// Changes the array, and what the bitmaps must know of it.
  func change(_ range: Range<UInt64>, _ body: (inout [UInt8]) -> Void) {
    let old = bitmaps.isEmpty ? [] : state.bytes.part(Int(range.lowerBound)..<Int(range.upperBound))
    body(&state.bytes)
    guard !bitmaps.isEmpty else { return }
    let new = state.bytes.part(Int(range.lowerBound)..<Int(range.upperBound))
    for name in bitmaps.keys { bitmaps[name]?.note(range, cluster: row.cluster, old, new) }
  }

  /// Takes over what a range of whole units must read as now.
  /// - Parameter mayStay: each unit may be what it was instead (parts of packed clusters).
  private func settle(_ whole: Range<UInt64>, _ content: [UInt8], mayStay: Bool) throws {
    guard !whole.isEmpty else { return }
    var content = content
    if mayStay {
      let found = try disk.read(whole.count, at: whole.lowerBound)
      for start in stride(from: 0, to: whole.count, by: Int(row.mapUnit)) {
        let part = start..<min(start + Int(row.mapUnit), whole.count)
        let place = Int(whole.lowerBound) + start
        let old = state.bytes.part(place..<place + part.count)
        guard found.part(part) == old || found.part(part) == content.part(part) else {
          throw WriterFault("bytes at \(place) are neither what they were nor what they should be")
        }
      }
      content = found
    }
    let settled = content
    change(whole) { $0.put(settled, at: Int(whole.lowerBound)) }
  }

  private func wholeUnits(_ range: Range<UInt64>, _ unit: UInt64? = nil) -> Range<UInt64> {
    let unit = unit ?? row.mapUnit
    let start = (range.lowerBound + unit - 1) / unit * unit
    let end = range.upperBound == UInt64(state.bytes.count) ? range.upperBound : range.upperBound / unit * unit
    return start..<max(start, end)
  }

  // MARK: Comparing

  package func compare(_ range: Range<UInt64>) throws { try compare(disk, state.bytes, range, "through the writer") }

  private func compare(_ image: DiskImage, _ bytes: [UInt8], _ range: Range<UInt64>, _ how: String) throws {
    let found = try image.read(range.count, at: range.lowerBound)
    let wanted = bytes.rawBytes.extracting(Int(range.lowerBound)..<Int(range.upperBound))
    if let first = found.rawBytes.firstDifference(from: wanted) {
      throw WriterFault(
        "byte \(Int(range.lowerBound) + first) of \(bytes.count) reads \(found[first]), "
          + "not \(bytes[Int(range.lowerBound) + first]), \(how)")
    }
  }

  /// Closes, and looks at the files as others see them: counts, guest bytes, snapshots, bitmaps.
  package func finish() throws {
    let all = 0..<UInt64(state.bytes.count)
    try compare(all)
    try close()
    try ProofAudit(stores.map(\.bytes), chain).checkCounts(mayLeak: mayLeak)
    let reopened = try ProofChain(stores, files).open()
    guard reopened.byteCount == all.upperBound else { throw WriterFault("reopened with \(reopened.byteCount) bytes") }
    try compare(reopened, state.bytes, all, "after reopening")
    if isDataFileRaw, !row.isEncrypted {
      guard stores[1].bytes.read(0..<stores[1].bytes.byteCount) == state.bytes else {
        throw WriterFault("the raw data file is not the disk")
      }
    }
    if let backing = state.backing {
      let base = try ProofChain(stores, files).openBase(backing)
      try compare(base, state.below, 0..<base.byteCount, "in \(backing)")
    }
    try checkSnapshots()
  }

  private func checkSnapshots() throws {
    let reader = ProofChain(stores, files)
    let facts = try reader.topMap().facts.snapshots
    guard facts.map(\.name) == state.snapshots.map(\.name) else {
      throw WriterFault("the snapshots are \(facts.map(\.name)), not \(state.snapshots.map(\.name))")
    }
    for (index, snapshot) in state.snapshots.enumerated() {
      let image = try reader.open(snapshot: snapshot.name)
      guard image.byteCount == UInt64(snapshot.bytes.count) else {
        throw WriterFault("snapshot \(snapshot.name) has \(image.byteCount) bytes")
      }
      try compare(image, snapshot.bytes, 0..<image.byteCount, "in snapshot \(snapshot.name)")
      guard MachineState.read(stores[0].bytes, snapshot: index) == snapshot.machine else {
        throw WriterFault("the machine's state in snapshot \(snapshot.name) has changed")
      }
    }
  }
}
