import PlatterCore
import TestSupport
import WriterProof

extension TurnModel {
  /// One side does something, and the other looks at it.
  func step(_ random: inout SeededGenerator) throws {
    let side = TurnSide.allCases.randomElement(using: &random) ?? .ours
    // Key slots are in few images, and there often.
    let choice = !slots.isEmpty && random.chance(3) ? 34 : Int.random(in: 0..<34, using: &random)
    chooseKey(&random)
    switch choice {
    case 0...6: try writeSome(side, &random)
    case 7, 8: try discard(side, &random)
    case 9...11: try writeCompressed(side, &random)
    case 12...14: try resize(side, &random)
    case 15, 16: try createSnapshot(side)
    case 17, 18: try applySnapshot(side, &random)
    case 19: try deleteSnapshot(side, &random)
    case 20, 21: try commit(side, &random)
    case 22: try rebase(side, &random)
    case 23: try rename(side, &random)
    case 24, 25: try amend(side, &random)
    case 26...28: try changeBitmaps(side, &random)
    case 29, 30: try convert(side, &random)
    case 31: try copyPart(side, &random)
    case 32, 33: try crash(side, &random)
    default: try changeKeys(side, &random)
    }
    try audit(by: side.other, isThorough: choice >= 12)
    if (20...23).contains(choice) { try auditBases() }
  }

  // MARK: Size

  private func resize(_ side: TurnSide, _ random: inout SeededGenerator) throws {
    let unit = random.chance(2) ? 512 : cluster
    let most = Int(row.byteCount) * 3 / 2
    let count = Int.random(in: 1...max(1, most / unit), using: &random) * unit
    let isDone: Bool
    var isSettled = false
    if count > bytes.count, random.chance(3) {
      isDone = try take(side, image.requests(["truncate \(count)"]), with: .qemuIO)
    } else {
      isSettled = count > bytes.count && random.chance(4)
      let more = isSettled ? ["--preallocation=\(preallocation(&random))"] : []
      isDone = try take(side, image.words("resize", ["-q", "--shrink"] + more, ["\(count)"]))
    }
    guard isDone else { return }
    let old = bytes.count
    resize(to: count)
    if count < old, side == .theirs || row.isEncrypted && row.hasDataFile { mayHideBytes = true }
    guard count > old else { return }
    if row.isEncrypted, isDataFileRaw || isSettled {
      // What new space deciphers to is there, if QEMU gives it in advance.
      try takeOver(try read(by: side), old..<count)
    } else if mayHideBytes, side == .theirs {
      try takeOver(try read(by: side), old..<min(count, (old + cluster - 1) / cluster * cluster))
    }
  }

  private func takeOver(_ found: [UInt8], _ range: Range<Int>) throws {
    guard found.count == bytes.count else { throw WriterFault("the disk has \(found.count) bytes, not \(bytes.count)") }
    bytes.put(found.part(range), at: range.lowerBound)
  }

  private func preallocation(_ random: inout SeededGenerator) -> String {
    ["metadata", "falloc", "full"].randomElement(using: &random) ?? "metadata"
  }

  private func resize(to count: Int) {
    let old = bytes.count
    bytes = bytes.resized(to: count)
    untouched = untouched.filter { ($0 + 1) * cluster <= count }
    for name in bitmaps.keys { bitmaps[name]?.resize(from: old, to: count, cluster: cluster) }
  }

  // MARK: Snapshots

  /// Whether counts of this width can say that so many snapshots share a cluster. QEMU fails in the middle where not.
  private var hasRoomForSnapshot: Bool {
    refcountBits >= 8 || refcountBits > 1 && !hasPacked && snapshots.count + 2 < 1 << refcountBits
  }

  private func createSnapshot(_ side: TurnSide) throws {
    guard snapshots.count < 5 else { return }
    names += 1
    let name = "s\(names)"
    if try take(side, image.words("snapshot", ["-c", name]), isOursAlone: !hasRoomForSnapshot) {
      snapshots.append(Snapshot(name: name, bytes: bytes))
    }
  }

  private func applySnapshot(_ side: TurnSide, _ random: inout SeededGenerator) throws {
    guard let snapshot = snapshots.randomElement(using: &random) else { return }
    guard try take(side, image.words("snapshot", ["-a", snapshot.name]), isOursAlone: refcountBits < 8) else { return }
    mayHideBytes = true
    resize(to: snapshot.bytes.count)
    bytes = snapshot.bytes
    untouched = []
  }

  private func deleteSnapshot(_ side: TurnSide, _ random: inout SeededGenerator) throws {
    guard let index = snapshots.indices.randomElement(using: &random) else { return }
    if try take(side, image.words("snapshot", ["-d", snapshots[index].name])) { snapshots.remove(at: index) }
  }

  // MARK: Options

  private func amend(_ side: TurnSide, _ random: inout SeededGenerator) throws {
    let bits = "refcount_bits=\(1 << Int.random(in: 0...6, using: &random))"
    let choices = [
      "compat=0.10", "compat=1.1", "compat=1.1,lazy_refcounts=on", "lazy_refcounts=off", "lazy_refcounts=on", bits,
      bits,
      "refcount_bits=16", "data_file_raw=off",
    ]
    guard let options = choices.randomElement(using: &random) else { return }
    // QEMU goes through every entry that a table of this size could have: minutes for the larger clusters.
    let isSlow = options.hasPrefix("refcount_bits=") && cluster > 65536
    guard try take(side, image.words("amend", ["-o", options]), isOursAlone: isSlow) else { return }
    if options.hasPrefix("compat=") { version = options.hasPrefix("compat=1.1") ? 3 : 2 }
    if options.hasPrefix("refcount_bits=") { refcountBits = Int(options.dropFirst(14)) ?? 16 }
    if options == "data_file_raw=off" { isDataFileRaw = false }
  }

  // MARK: Bitmaps

  private func changeBitmaps(_ side: TurnSide, _ random: inout SeededGenerator) throws {
    let name = "b\(Int.random(in: 0..<4, using: &random))"
    let isEnabled = random.chance(2)
    let granularity = UInt64(512) << UInt64.random(in: 0...8, using: &random)
    guard bitmaps[name] != nil else {
      let options = ["--add", "-g", "\(granularity)"] + (isEnabled ? [] : ["--disable"])
      guard try take(side, image.words("bitmap", options, [name])) else { return }
      bitmaps[name] = ProofBitmap(granularity: granularity, isEnabled: isEnabled)
      return
    }
    let source = bitmaps.keys.sorted().randomElement(using: &random) ?? name
    switch Int.random(in: 0..<4, using: &random) {
    case 0: if try take(side, image.words("bitmap", ["--remove"], [name])) { bitmaps[name] = nil }
    case 1: if try take(side, image.words("bitmap", ["--clear"], [name])) { bitmaps[name]?.clear() }
    case 2:
      let isDone = try take(side, image.words("bitmap", [isEnabled ? "--enable" : "--disable"], [name]))
      if isDone { bitmaps[name]?.isEnabled = isEnabled }
    default:
      guard try take(side, image.words("bitmap", ["--merge", source], [name])), let other = bitmaps[source] else {
        return
      }
      bitmaps[name]?.merge(other, bytes.count)
    }
  }
}
