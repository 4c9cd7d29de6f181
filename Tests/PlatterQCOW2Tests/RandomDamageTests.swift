import PlatterCore
import PlatterQCOW2
import SystemPackage
import TestSupport
import Testing

/// A sound image with random content, and a broken copy of it.
private struct RandomDamage {
  var image: QCOW2Builder
  var sound: [UInt8]
  var broken: [UInt8]
  /// What was done to it, for a failure's message.
  var history: [String] = []

  init(_ random: inout SeededGenerator) {
    image = Self.image(&random)
    let built = image.build()
    sound = built.bytes
    broken = sound
    for _ in 0..<Int.random(in: 1...4, using: &random) { damage(built, &random) }
  }

  private static func image(_ random: inout SeededGenerator) -> QCOW2Builder {
    let extended = Int.random(in: 0..<6, using: &random) == 0
    var image = variedImage(clusterBits: extended ? 14 : [9, 9, 12, 16].randomElement(using: &random) ?? 12)
    image.refcountOrder = UInt32.random(in: 1...6, using: &random)
    if extended {
      image.hasExtendedL2 = true
      image.entries[12] = .subclusters("aazz" + String(repeating: "-", count: 28), [7])
    }
    if random.next() % 2 == 0 {
      image.snapshots.append(.init(id: "2", name: "two", entries: [5: .data([7]), 8: .data([8]), 9: .zero]))
    }
    if random.next() % 3 == 0 { image.bitmaps.append(.init(name: "second", granularityBits: 12)) }
    if random.next() % 4 == 0 {
      image.version = 2
      image.refcountOrder = 4
      image.bitmaps = []
      image.hasExtendedL2 = false
      image.entries = image.entries.filter { entry in
        switch entry.value {
        case .zero, .zeroAllocated, .subclusters: false
        case .data, .packed, .raw: true
        }
      }
      for index in image.snapshots.indices { image.snapshots[index].entries[9] = nil }
    }
    for guest in 20..<Int.random(in: 20...39, using: &random) { image.entries[guest] = .data([UInt8(guest)]) }
    return image
  }

  /// Lies in one word of one structure.
  private mutating func damage(_ built: QCOW2Builder.Built, _ random: inout SeededGenerator) {
    let size = UInt64(image.clusterByteCount)
    let words = size / 8
    func inside(_ offset: UInt64, _ count: UInt64) -> UInt64 {
      offset + UInt64.random(in: 0..<max(count, 1), using: &random) * 8
    }
    let tables = built.l2Offsets.values.sorted()
    let block = broken.word(at: built.refcountTableOffset)
    var places: [(String, UInt64)] = [
      ("L1 table", inside(built.l1Offset, 1)),
      ("L2 table", inside(tables.randomElement(using: &random) ?? 0, min(40, words))),
      ("L2 table", inside(tables.randomElement(using: &random) ?? 0, min(40, words))),
      ("refcount table", inside(built.refcountTableOffset, 2)),
      ("refcount block", block % size == 0 && block < UInt64(broken.count) ? inside(block, min(30, words)) : 48),
      ("header", [40, 48, 56, 64].randomElement(using: &random) ?? 48),
    ]
    if !image.snapshots.isEmpty {
      places.append(("snapshot table", inside(built.snapshotTableOffset, 9)))
      let l1 = built.snapshotL1Offsets.randomElement(using: &random) ?? 0
      places.append(("snapshot L1 table", inside(l1, 1)))
      let table = sound.word(at: l1)
      if table > 0 { places.append(("snapshot L2 table", inside(table, min(12, words)))) }
    }
    if !image.bitmaps.isEmpty {
      places.append(("bitmap directory", inside(built.bitmapDirectoryOffset, 3)))
      places.append(("bitmap table", sound.word(at: built.bitmapDirectoryOffset)))
    }
    guard let (what, place) = places.randomElement(using: &random) else { return }
    let old = broken.word(at: place)
    let word: UInt64 =
      switch Int.random(in: 0..<8, using: &random) {
      case 0: random.next()
      case 1: 0
      case 2, 3: UInt64.random(in: 0..<UInt64(sound.count) / size, using: &random) * size | copied
      case 4: UInt64.random(in: 0..<UInt64(sound.count) / size, using: &random) * size
      case 5: old ^ 1 << UInt64.random(in: 0..<64, using: &random)
      case 6: (old & ~0x00ff_ffff_ffff_fe00) | UInt64.random(in: 0..<UInt64(sound.count) / size, using: &random) * size
      default: old &+ size
      }
    broken.lie(at: place, word)
    history.append("\(what) at \(place): \(old.hex) became \(word.hex)")
  }
}

/// Everything that can be read of an image: the present disk and each snapshot by its id, cluster by cluster.
private func everything(_ bytes: [UInt8], _ clusterByteCount: Int) -> [String: [[UInt8]?]] {
  var context = OpenContext()
  context.isForCheck = true
  var all: [String: [[UInt8]?]] = [:]
  if let map = try? open(bytes, context) {
    all["present"] = contents(of: map, bytes, clusterByteCount: clusterByteCount)
  }
  guard let map = try? open(bytes) else { return all }
  for snapshot in map.facts.snapshots {
    guard let disk = try? map.snapshot(named: snapshot.id), disk.byteCount == map.byteCount else { continue }
    all[snapshot.id] = contents(of: disk, bytes, clusterByteCount: clusterByteCount)
  }
  return all
}

/// Images broken at random, checked and repaired beside qemu-img.
///
/// `PLATTER_DAMAGE_COUNT` sets how many; a failing seed is printed, and `PLATTER_DAMAGE_SEED` runs it alone.
@Suite("Random damage", .requires(.qemuImg)) struct RandomDamageTests {
  static let count = environmentValue("PLATTER_DAMAGE_COUNT").flatMap(UInt64.init) ?? 60
  static let chosenSeed = environmentValue("PLATTER_DAMAGE_SEED").flatMap(UInt64.init)
  static let shareCount: UInt64 = 2

  @Test(
    "is found wherever qemu-img finds it, and repaired for both without losing what could be read",
    arguments: 0..<shareCount)
  func damage(share: UInt64) throws {
    for seed in Self.chosenSeed.map({ [$0] }) ?? Array(stride(from: share, to: Self.count, by: Int(Self.shareCount))) {
      var random = SeededGenerator(seed: seed)
      let damage = RandomDamage(&random)
      if let fault = try Self.fault(of: damage) {
        Issue.record("seed \(seed): \(fault)\n\(damage.history.joined(separator: "\n"))")
      }
      if Self.chosenSeed != nil { return }
    }
  }

  private static func fault(of damage: RandomDamage) throws -> String? {
    let theirs = try qemuCheck(damage.broken)
    guard let found = try? check(damage.broken) else {
      return theirs.status == 1 ? nil : "not opened for a check, although qemu-img gives \(theirs.status)"
    }
    let ours = status(found)
    let isWorse = (theirs.status == 2 && ours != 2) || (theirs.status == 3 && ours == 0)
    if isWorse { return "status \(ours), qemu-img \(theirs.status)\n\(theirs.text)" }
    if ours == theirs.status, ours != 2, CheckNumbers(found) != theirs.numbers {
      return "\(CheckNumbers(found)), qemu-img \(theirs.numbers)"
    }
    let (fixed, report) = try repair(damage.broken)
    // Where the present disk's own table is nowhere, nothing can be put right, and nothing is.
    if report.messages.contains(where: { $0.hasPrefix("ERROR the L1 table (") }) { return nil }
    guard status(report) == 0 else { return "not repaired: \(report.messages.joined(separator: "\n"))" }
    let again = try qemuCheck(fixed)
    // The specification allows it, qemu-img does not open it: no damage.
    if again.text.contains("Bitmap extra data is not supported") { return nil }
    guard again.status == 0 else { return "repaired, but not for qemu-img: \(again.text)" }
    return lost(damage, fixed).map { "\($0)\n\(report.messages.joined(separator: "\n"))" }
  }

  /// Something that the broken image still had right and the repaired one has not.
  private static func lost(_ damage: RandomDamage, _ fixed: [UInt8]) -> String? {
    let size = damage.image.clusterByteCount
    let (sound, broken, after) = (
      everything(damage.sound, size), everything(damage.broken, size), everything(fixed, size)
    )
    for (disk, clusters) in sound {
      guard let before = broken[disk] else { continue }
      guard let now = after[disk] else { return "disk \(disk) is gone" }
      for guest in clusters.indices {
        // Without a single content where subclusters differ, and where it cannot be read.
        guard let content = clusters[guest], before[guest] == content, now[guest] != content else { continue }
        return "disk \(disk), guest cluster \(guest) is not what it was"
      }
    }
    return nil
  }
}
