import Platter
import PlatterCore
import TestSupport

extension ProofModel {
  /// Whether an error is a refusal with a reason: nothing is changed then.
  private func isRefusal(_ error: ImageError) -> Bool {
    guard [.unsupported, .invalidArgument, .forbidden].contains(error.code) else { return false }
    history.append("refused: \(error.message)")
    return true
  }

  /// Runs a change of the whole image.
  /// - Returns: false where it was refused.
  private func restructure<Map>(
    _ type: Map.Type, _ body: @escaping (Map, Barrier) throws(ImageError) -> Void
  ) throws -> Bool {
    guard let map = disk.layers[0].map as? Map else { throw WriterFault("the map is no \(type)") }
    do throws(ImageError) {
      try writer.restructure { (_, barrier) throws(ImageError) in try body(map, barrier) }
      return true
    } catch {
      guard isRefusal(error) else { throw error }
      return false
    }
  }

  // MARK: Size

  func resize(_ random: inout SeededGenerator) throws {
    let unit = random.chance(2) ? 512 : row.cluster
    let most = row.byteCount * 3 / 2
    let count = random.chance(12) ? 0 : UInt64.random(in: 0...most, using: &random) / unit * unit
    try resize(to: count, Preallocation.allCases.randomElement(using: &random) ?? .off)
  }

  /// - Parameter preallocation: how much of the new space is settled.
  func resize(to count: UInt64, _ preallocation: Preallocation = .off) throws {
    let old = state.bytes.count
    history.append("resize \(old) to \(count), preallocation \(preallocation)")
    do throws(ImageError) { try writer.resize(to: count) } catch {
      guard isRefusal(error) else { throw error }
      return try writer.flush()
    }
    if count > old { try writer.preallocate(UInt64(old)..<count, preallocation) }
    state.bytes = state.bytes.resized(to: Int(count))
    between.append(state)
    for name in bitmaps.keys { bitmaps[name]?.resize(from: old, to: Int(count), cluster: Int(row.cluster)) }
    guard disk.byteCount == count else { throw WriterFault("the disk has \(disk.byteCount) bytes, not \(count)") }
  }

  // MARK: Snapshots

  func createSnapshot(_ random: inout SeededGenerator) throws {
    guard state.snapshots.count < 5 else { return }
    if state.snapshots.count < 3, random.chance(3), try createWithMachine(&random) { return }
    names += 1
    let name = "s\(names)"
    history.append("create snapshot \(name)")
    let isDone = try restructure((any SnapshotMap).self) { (map, barrier) throws(ImageError) in
      _ = try map.createSnapshot(named: name, seconds: 1, nanoseconds: 2, barrier)
    }
    try writer.flush()
    if isDone { state.snapshots.append(.init(name: name, bytes: state.bytes)) }
  }

  /// A snapshot of a running machine: its state lies behind the disk, from the next L2 table's range on.
  private func createWithMachine(_ random: inout SeededGenerator) throws -> Bool {
    let old = state.bytes.count
    let start = (old + Int(row.tableCoverage) - 1) / Int(row.tableCoverage) * Int(row.tableCoverage)
    guard row.tableCoverage <= 1 << 20, !row.hasDataFile, version >= 3, bitmaps.isEmpty else { return false }
    try resize(to: UInt64(start + 2 * cluster))
    try write(UInt64(start)..<UInt64(start + 2 * cluster), &random)
    between.append(state)
    names += 1
    let name = "s\(names)"
    history.append("create snapshot \(name) with a machine")
    let isDone = try restructure((any SnapshotMap).self) { (map, barrier) throws(ImageError) in
      _ = try map.createSnapshot(named: name, seconds: 1, nanoseconds: 2, barrier)
    }
    if isDone {
      var larger = state
      larger.snapshots.append(.init(name: name, bytes: state.bytes))
      between.append(larger)
    }
    try resize(to: UInt64(old))
    if isDone, let smaller = between.last {
      var smaller = smaller
      smaller.snapshots = between[between.count - 2].snapshots
      between.append(smaller)
    }
    guard isDone else { return true }
    // What QEMU writes into the table for such a snapshot.
    try close()
    let place = MachineState.record(stores[0].bytes, snapshot: state.snapshots.count)
    for (value, offset) in [(old, UInt64(48)), (2 * cluster, 40)] {
      let field = bigEndianBytes(UInt64(value))
      try stores[0].write(field.rawBytes, at: place + offset)
      try stores[0].flush()
    }
    var unmarked = state
    unmarked.snapshots.append(.init(name: name, bytes: state.bytes))
    between.append(unmarked)
    let machine = MachineState.read(stores[0].bytes, snapshot: state.snapshots.count)
    guard machine.count == 2 * cluster else { throw WriterFault("the machine's state has \(machine.count) bytes") }
    state.snapshots.append(.init(name: name, bytes: state.bytes, machine: machine))
    try open()
    return true
  }

  func applySnapshot(_ random: inout SeededGenerator) throws {
    guard let snapshot = state.snapshots.randomElement(using: &random) else { return }
    history.append("apply snapshot \(snapshot.name)")
    let isDone = try restructure((any SnapshotMap).self) { (map, barrier) throws(ImageError) in
      try map.applySnapshot(.name(snapshot.name), barrier)
    }
    try writer.flush()
    if isDone { state.bytes = snapshot.bytes }
  }

  func deleteSnapshot(_ random: inout SeededGenerator) throws {
    guard let index = state.snapshots.indices.randomElement(using: &random) else { return }
    let name = state.snapshots[index].name
    history.append("delete snapshot \(name)")
    let isDone = try restructure((any SnapshotMap).self) { (map, barrier) throws(ImageError) in
      try map.deleteSnapshot(.name(name), barrier)
    }
    try writer.flush()
    if isDone { state.snapshots.remove(at: index) }
  }

  // MARK: The chain

  /// Writes what the image has into its backing image, where that can be written.
  func commit() throws {
    // A snapshot shows the backing image too, and would change with it.
    guard let backing = state.backing, ["raw", "qcow2"].contains(files.formats[backing]), state.snapshots.isEmpty
    else { return }
    history.append("commit")
    try close()
    try Commit(chain.open(isWritable: true, isBaseWritable: true)).run()
    let base = state.bases[backing] ?? []
    state.bases[backing] = state.bytes + base.dropFirst(state.bytes.count)
    state.baseVersion += 1
    for name in bitmaps.keys { bitmaps[name]?.noteEverything(state.bytes.count) }
    try open()
  }

  /// Another backing image, or none.
  func rebase(_ random: inout SeededGenerator) throws {
    guard !files.formats.isEmpty, state.snapshots.isEmpty else { return }
    let target = ["below", "other", nil].filter { $0 != state.backing }.randomElement(using: &random) ?? nil
    history.append("rebase \(target ?? "onto nothing")")
    let backing = target.map { Rebase.Backing(name: Array($0.utf8), format: files.formats[$0]) }
    try close()
    let newBase = try target.map { try chain.openBase($0) }
    try Rebase(chain.open(isWritable: true), onto: backing).run(newBase: newBase)
    state.backing = target
    for name in bitmaps.keys { bitmaps[name]?.noteEverything(state.bytes.count) }
    try open()
  }

  // MARK: Options

  func amend(_ random: inout SeededGenerator) throws {
    let choices: [[String: String]] = [
      ["compat": "0.10"], ["compat": "1.1"], ["compat": "1.1", "lazy_refcounts": "on"], ["lazy_refcounts": "off"],
      ["refcount_bits": "\(1 << Int.random(in: 0...6, using: &random))"],
      ["refcount_bits": "\(1 << Int.random(in: 0...6, using: &random))"], ["refcount_bits": "16"],
      ["data_file_raw": "off"],
    ]
    guard let options = choices.randomElement(using: &random) else { return }
    history.append("amend \(options)")
    let isDone = try restructure((any AmendableMap).self) { (map, barrier) throws(ImageError) in
      try map.amend(AmendRequest(options), barrier)
    }
    try writer.flush()
    guard isDone else { return }
    if let compat = options["compat"] { version = compat == "1.1" ? 3 : 2 }
    if options["data_file_raw"] != nil { isDataFileRaw = false }
  }

  // MARK: Bitmaps

  func changeBitmaps(_ random: inout SeededGenerator) throws {
    let name = "b\(Int.random(in: 0..<4, using: &random))"
    history.append("bitmap \(name)")
    let isEnabled = random.chance(2)
    let granularity = UInt64(512) << UInt64.random(in: 0...8, using: &random)
    let choice = Int.random(in: 0..<4, using: &random)
    let source = bitmaps.keys.sorted().randomElement(using: &random)
    let isThere = bitmaps[name] != nil
    let isDone = try restructure((any BitmapMap).self) { (map, _) throws(ImageError) in
      guard isThere else {
        return try map.addBitmap(named: name, granularity: granularity, isEnabled: isEnabled)
      }
      switch choice {
      case 0: try map.removeBitmap(named: name)
      case 1: try map.clearBitmap(named: name)
      case 2: try map.setBitmap(named: name, isEnabled: isEnabled)
      default: try map.mergeBitmap(named: source ?? name, into: name)
      }
    }
    guard isDone else { return }
    if !isThere {
      bitmaps[name] = ProofBitmap(granularity: granularity, isEnabled: isEnabled)
    } else {
      switch choice {
      case 0: bitmaps[name] = nil
      case 1: bitmaps[name]?.clear()
      case 2: bitmaps[name]?.isEnabled = isEnabled
      default: if let source, let other = bitmaps[source] { bitmaps[name]?.merge(other, state.bytes.count) }
      }
    }
    try checkBitmaps()
  }

  /// Every byte that changed is in a bitmap, and nothing that nobody asked for.
  func checkBitmaps() throws {
    for (name, bitmap) in bitmaps {
      let found = try dirtyGranules(name, bitmap)
      guard found.isSuperset(of: bitmap.must) else {
        throw WriterFault("bitmap \(name) lacks \(bitmap.must.subtracting(found).sorted())")
      }
      guard found.isSubset(of: bitmap.may) else {
        throw WriterFault("bitmap \(name) has \(found.subtracting(bitmap.may).sorted()) too much")
      }
    }
  }

  private func dirtyGranules(_ name: String, _ bitmap: ProofBitmap) throws -> Set<Int> {
    guard let map = writer.image.layers[0].map as? any BitmapMap else { throw WriterFault("the map has no bitmaps") }
    var ranges: [Range<UInt64>] = []
    try map.dirtyRanges(ofBitmapNamed: name) { ranges.append($0) }
    return Set(ranges.flatMap { bitmap.granules($0) })
  }
}
