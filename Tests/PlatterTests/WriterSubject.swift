import Platter
import PlatterCodecs
import PlatterCore
import PlatterQCOW2
import PlatterRaw
import SystemPackage
import TestSupport
import WriterProof

/// A kind of qcow2 image that the writer is tried on.
struct WriterSubject: Sendable, Hashable, CustomStringConvertible {
  enum Backing: Sendable { case none, raw, qcow2 }
  enum Sharing: Sendable { case none, data, tables }
  enum DataFile: Sendable { case none, plain, raw }

  var version: UInt32 = 3
  var clusterBits = 9
  var refcountOrder: UInt32 = 4
  var isExtended = false
  var isEncrypted = false
  var isZstd = false
  var backing = Backing.none
  var sharing = Sharing.none
  var dataFile = DataFile.none
  var clusterCount = 100
  /// The header names its features, as QEMU's do: what comes behind lies in another sector.
  var hasFeatureNames = false

  var cluster: UInt64 { 1 << UInt64(clusterBits) }
  var mapUnit: UInt64 { isExtended ? cluster / 32 : cluster }
  /// The last cluster is cut.
  var byteCount: UInt64 { UInt64(clusterCount) * cluster - 512 * UInt64(clusterCount % 2) }
  var description: String {
    "v\(version) 2^\(clusterBits) 2^\(refcountOrder) extended:\(isExtended) aes:\(isEncrypted) zstd:\(isZstd) "
      + "backing:\(backing) sharing:\(sharing) dataFile:\(dataFile) clusters:\(clusterCount)"
  }

  static func random(_ random: inout SeededGenerator, withDataFile: Bool = false) -> WriterSubject {
    var subject = WriterSubject()
    subject.version = random.chance(5) ? 2 : 3
    subject.clusterBits = [9, 9, 9, 10, 12, 12, 14, 16].randomElement(using: &random) ?? 9
    if subject.version == 3 {
      subject.refcountOrder = UInt32.random(in: 0...6, using: &random)
      subject.isExtended = subject.clusterBits >= 14 && random.chance(2)
      subject.isZstd = random.chance(3)
    }
    subject.isEncrypted = random.chance(6)
    subject.backing = [.none, .none, .raw, .qcow2].randomElement(using: &random) ?? .none
    // A count of some clusters shared by packed units needs room.
    if subject.refcountOrder >= 4 { subject.sharing = [.none, .data, .tables].randomElement(using: &random) ?? .none }
    subject.clusterCount = [3, 20, 80, 81].randomElement(using: &random) ?? 20
    if subject.clusterBits >= 14 { subject.clusterCount = Int.random(in: 3...9, using: &random) }
    if withDataFile {
      subject.version = 3
      subject.sharing = .none
      subject.dataFile = random.chance(2) ? .raw : .plain
      if subject.dataFile == .raw { subject.backing = .none }
    }
    return subject
  }
}

/// An image as its builder made it, and what its guest sees.
struct BuiltSubject: Sendable {
  var image = PagedBytes()
  var backing: PagedBytes?
  var backingByteCount: UInt64 = 0
  /// Guest bytes of the present disk; the snapshot, if there is one, has the same.
  var guest: [UInt8] = []
  /// Guest bytes of the backing image, as long as the disk.
  var below: [UInt8] = []
  var dataFile: [UInt8] = []
}

extension PagedBytes {
  /// Stores the low bytes of a number, most significant first.
  mutating func put(_ value: UInt64, byteCount: Int = 8, at offset: UInt64) {
    let bytes = Array(bigEndianBytes(value).suffix(byteCount))
    write(bytes.rawBytes, at: offset)
  }
}

extension WriterSubject {
  /// Lays the image out: data, packed units, zeros and gaps.
  func build(seed: UInt64) throws -> BuiltSubject {
    var random = SeededGenerator(seed: seed)
    var built = BuiltSubject()
    var image = QCOW2Builder(byteCount: byteCount, clusterBits: clusterBits)
    image.version = version
    image.refcountOrder = refcountOrder
    image.hasExtendedL2 = isExtended
    image.compressionType = isZstd ? 1 : 0
    image.encryptionMethod = isEncrypted ? 1 : 0
    if hasFeatureNames { image.featureNames = (0..<8).map { (0, $0, "feature \($0)") } }
    if backing != .none { image.backingName = Array("below".utf8) }
    if dataFile != .none {
      image.dataFileName = "data"
      if dataFile == .raw { image.autoclear = 2 }
    }
    try buildBacking(&built, &random)
    built.guest = built.below
    if sharing != .none { image.snapshots = [QCOW2Builder.Snapshot(id: "1", name: "one")] }
    // Encrypted clusters are left to the writer: the builder has no cipher.
    if !isEncrypted, dataFile == .none { fill(&image, &built.guest, &random) }
    let laid = image.build()
    built.image = PagedBytes(laid.bytes)
    if sharing != .none { share(&built.image, laid) }
    return built
  }

  private func buildBacking(_ built: inout BuiltSubject, _ random: inout SeededGenerator) throws {
    built.below = [UInt8](repeating: 0, count: Int(byteCount))
    guard backing != .none else { return }
    // Sometimes shorter than the disk, sometimes longer.
    let count = UInt64.random(in: 1...byteCount / 512 + 20, using: &random) * 512
    built.backingByteCount = count
    var content = [UInt8](repeating: 0, count: Int(count))
    for start in stride(from: 0, to: Int(count), by: 1536) where !random.chance(3) {
      content.put(randomPool.part(start % 65536..<start % 65536 + min(1024, Int(count) - start)), at: start)
    }
    let shown = min(Int(count), Int(byteCount))
    built.below.put(content.part(0..<shown), at: 0)
    guard backing == .qcow2 else {
      built.backing = PagedBytes(content)
      return
    }
    var image = QCOW2Builder(byteCount: count, clusterBits: 9)
    for index in 0..<Int(count / 512) {
      let part = content.part(index * 512..<index * 512 + 512)
      if part.contains(where: { $0 != 0 }) { image.entries[index] = .data(part) }
    }
    built.backing = PagedBytes(image.build().bytes)
  }

  private func fill(_ image: inout QCOW2Builder, _ guest: inout [UInt8], _ random: inout SeededGenerator) {
    let cluster = Int(cluster)
    for index in 0..<clusterCount where random.chance(2) {
      var bytes = randomPool.part(index * 512..<index * 512 + cluster)
      switch Int.random(in: 0..<5, using: &random) {
      case 0, 1: image.entries[index] = .data(bytes)
      // Small counts cannot say how many packed units share a cluster.
      case 2 where refcountOrder >= 4:
        bytes.clear(cluster / 3..<cluster)
        guard let packed = pack(bytes) else { continue }
        image.entries[index] = .packed(packed)
      case 3 where version >= 3:
        image.entries[index] = .zero
        bytes.clear(0..<cluster)
      case 4 where version >= 3:
        image.entries[index] = .zeroAllocated
        bytes.clear(0..<cluster)
      default: continue
      }
      let end = min((index + 1) * cluster, guest.count)
      guest.put(bytes.part(0..<end - index * cluster), at: index * cluster)
    }
  }

  /// A cluster's packed form; nil where it is no shorter.
  func pack(_ bytes: [UInt8]) -> [UInt8]? {
    var output = [UInt8](repeating: 0, count: bytes.count - 1)
    let count = output.withMutableRawBytes { buffer in
      isZstd
        ? ZstdEncoder(level: 1).encode(bytes.rawBytes, into: &buffer)
        : DeflateEncoder(level: 1).encode(bytes.rawBytes, into: &buffer)
    }
    return count.map { output.part(0..<$0) }
  }

  /// Gives the snapshot all that the present disk has, as taking a snapshot does: its L1 table names the same L2 tables
  /// (or, for `.data`, copies of them), every count goes up, and nothing is owned alone any more.
  private func share(_ image: inout PagedBytes, _ laid: QCOW2Builder.Built) {
    for (index, table) in laid.l2Offsets {
      var snapshotTable = table
      if sharing == .data {
        // Into clusters behind the end; the count of each is the first one there.
        snapshotTable = (image.byteCount + cluster - 1) / cluster * cluster
        let copy = image.read(table..<table + cluster)
        image.write(copy.rawBytes, at: snapshotTable)
      }
      guard count(&image, snapshotTable, laid) else { continue }
      image.put(snapshotTable, at: laid.snapshotL1Offsets[0] + UInt64(index) * 8)
      if sharing == .tables { image.put(table, at: laid.l1Offset + UInt64(index) * 8) }
      for entry in stride(from: table, to: table + cluster, by: isExtended ? 16 : 8) {
        let word = image.number(at: entry)
        if word & 1 << 62 != 0 {
          let bits = UInt64(70 - clusterBits)
          let (offset, sectors) = (word & (1 << bits - 1), word >> bits & (1 << UInt64(clusterBits - 8) - 1))
          for number in offset / cluster...(offset + (sectors + 1) * 512 - offset % 512 - 1) / cluster {
            _ = count(&image, number * cluster, laid)
          }
        } else if word & 0x00ff_ffff_ffff_fe00 != 0 {
          _ = count(&image, word & 0x00ff_ffff_ffff_fe00, laid)
          image.put(word & ~(1 << 63), at: entry)
        }
      }
    }
  }

  /// Adds 1 to a cluster's count. False where no block counts it.
  private func count(_ image: inout PagedBytes, _ offset: UInt64, _ laid: QCOW2Builder.Built) -> Bool {
    let width = UInt64(1) << UInt64(refcountOrder) / 8
    let perBlock = cluster / width
    let number = offset / cluster
    guard number / perBlock < cluster / 8 else { return false }
    let block = image.number(at: laid.refcountTableOffset + number / perBlock * 8)
    guard block != 0 else { return false }
    let place = block + number % perBlock * width
    let value = image.number(at: place, byteCount: Int(width)) + 1
    image.put(value, byteCount: Int(width), at: place)
    return true
  }
}
