import PlatterCore
package import TestSupport

/// A sound qcow2 image and a copy of it with lies in its metadata. Places are found from the specification alone.
package struct DamagedImage: Sendable {
  /// A word of a structure.
  private struct Place {
    var what: String
    var offset: UInt64
  }

  package let sound: PagedBytes
  package private(set) var broken: PagedBytes
  /// What was done, for a failure's message.
  package private(set) var history: [String] = []
  private let cluster: UInt64
  private let entryByteCount: UInt64

  private static let copied: UInt64 = 1 << 63
  private static let offsetMask: UInt64 = 0x00ff_ffff_ffff_fe00

  package init(_ sound: PagedBytes, _ random: inout SeededGenerator) {
    self.sound = sound
    broken = sound
    cluster = 1 << sound.number(at: 20, byteCount: 4)
    let isExtended = sound.number(at: 4, byteCount: 4) >= 3 && sound.number(at: 72) & 16 != 0
    entryByteCount = isExtended ? 16 : 8
    let places = Dictionary(grouping: places(), by: \.what)
    for _ in 0..<Int.random(in: 1...4, using: &random) {
      // Each structure is as likely as any other, however many words it has.
      let what = places.keys.sorted().randomElement(using: &random) ?? ""
      guard let place = places[what]?.randomElement(using: &random) else { continue }
      if place.offset >= cluster, random.chance(6) { smash(place, &random) } else { lie(place, &random) }
    }
  }

  // MARK: Places

  private func places() -> [Place] {
    var places = [24, 40, 48, 56, 60, 64].map { Place(what: "header", offset: $0) }
    if sound.number(at: 4, byteCount: 4) >= 3 {
      places += [72, 80, 88].map { Place(what: "features", offset: $0) }
    }
    places += tree("present", sound.number(at: 40), sound.number(at: 36, byteCount: 4))
    places += words("refcount table", sound.number(at: 48), sound.number(at: 56, byteCount: 4) * cluster / 8, most: 16)
    for index in 0..<sound.number(at: 56, byteCount: 4) * cluster / 8 {
      let block = sound.number(at: sound.number(at: 48) + index * 8)
      if block != 0 { places += words("refcount block", block, cluster / 8, most: 64) }
    }
    return places + snapshots() + extensions()
  }

  private func words(_ what: String, _ offset: UInt64, _ count: UInt64, most: UInt64 = 1 << 12) -> [Place] {
    (0..<min(count, most)).map { Place(what: what, offset: offset + $0 * 8) }
  }

  private func tree(_ name: String, _ offset: UInt64, _ count: UInt64) -> [Place] {
    var places = words("\(name) L1 table", offset, count)
    for index in 0..<count {
      let table = sound.number(at: offset + index * 8) & Self.offsetMask
      guard table != 0 else { continue }
      // Words that say something, and a few that do not.
      sound.forEachEntry(table..<table + cluster, width: 8) { place, _, _ in
        places.append(Place(what: "\(name) L2 table", offset: place))
      }
      places += words("\(name) L2 table", table, cluster / 8, most: 8)
    }
    return places
  }

  private func snapshots() -> [Place] {
    var places: [Place] = []
    for index in 0..<Int(sound.number(at: 60, byteCount: 4)) {
      let record = MachineState.record(sound, snapshot: index)
      places += words("snapshot table", record, 7)
      places += tree("snapshot's", sound.number(at: record), sound.number(at: record + 8, byteCount: 4))
    }
    return places
  }

  /// Extensions of the header that name something in the file.
  private func extensions() -> [Place] {
    let version = sound.number(at: 4, byteCount: 4)
    var place = version >= 3 ? sound.number(at: 100, byteCount: 4) : 72
    var places: [Place] = []
    while place + 8 <= cluster {
      let (type, byteCount) = (sound.number(at: place, byteCount: 4), sound.number(at: place + 4, byteCount: 4))
      switch type {
      case 0: return places
      case 0x2385_2875:
        places += words("bitmaps extension", place + 8, 3)
        let (directory, count) = (sound.number(at: place + 24), sound.number(at: place + 16) / 8)
        places += words("bitmap directory", directory, count)
        places += words("bitmap table", sound.number(at: directory), 1)
      case 0x0537_be77: places += words("crypto extension", place + 8, 2)
      default: break
      }
      place += 8 + (byteCount + 7) / 8 * 8
    }
    return places
  }

  // MARK: Lies

  /// Writes something else over all of a cluster.
  private mutating func smash(_ place: Place, _ random: inout SeededGenerator) {
    let start = place.offset / cluster * cluster
    let other = UInt64.random(in: 0..<max(sound.byteCount / cluster, 1), using: &random) * cluster
    let bytes: [UInt8] =
      switch Int.random(in: 0..<3, using: &random) {
      case 0: [UInt8](repeating: 0, count: Int(cluster))
      case 1: randomBytes(Int(cluster), from: Int(start % 65521))
      default: sound.read(other..<other + cluster)
      }
    broken.write(bytes.rawBytes, at: start)
    history.append("\(place.what): all of the cluster at \(start) became others' bytes (\(bytes[0]), ...)")
  }

  private mutating func lie(_ place: Place, _ random: inout SeededGenerator) {
    let old = broken.number(at: place.offset)
    let clusters = sound.byteCount / cluster
    let any = UInt64.random(in: 0..<max(clusters, 1), using: &random) * cluster
    var word: UInt64 =
      switch Int.random(in: 0..<10, using: &random) {
      case 0: random.next()
      case 1: 0
      case 2, 3: any | Self.copied
      case 4: any
      case 5: old ^ 1 << UInt64.random(in: 0..<64, using: &random)
      case 6: (old & ~Self.offsetMask) | any
      case 7: old &+ cluster
      case 8: old &- 1
      // The word of a neighbour: the same cluster twice.
      default: broken.number(at: place.offset &- entryByteCount)
      }
    // Bitmaps that nobody trusts any more keep their space here, and leak for the checkers.
    if place.offset == 88 { word |= old & 1 }
    var bytes: [UInt8] = []
    for shift in stride(from: UInt64(56), through: 0, by: -8) { bytes.append(UInt8(truncatingIfNeeded: word >> shift)) }
    broken.write(bytes.rawBytes, at: place.offset)
    history.append("\(place.what) at \(place.offset): \(String(old, radix: 16)) became \(String(word, radix: 16))")
  }
}
