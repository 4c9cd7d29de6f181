package import Platter
package import PlatterCore

/// What `info` says of one image.
package struct InfoReport {
  package let fileName: String
  private let fileNameBytes: [UInt8]
  private let formatName: String
  private let virtualByteCount: UInt64
  private let actualByteCount: UInt64
  private let unitByteCount: UInt64?
  private let isEncrypted: Bool
  private let backing: BackingReference?
  private let facts: ImageFacts

  /// - Parameter isDropIn: leave out the facts that qemu-img does not know.
  package init(_ image: DiskImage, fileNameBytes: [UInt8], isDropIn: Bool = false) throws(ImageError) {
    let map = image.layers[0].map
    self.fileNameBytes = fileNameBytes
    fileName = String(decoding: fileNameBytes, as: UTF8.self)
    formatName = map.formatName
    virtualByteCount = map.byteCount
    unitByteCount = map.allocationUnit
    backing = map.backing
    var facts = map.facts
    facts.specific = Self.shownFacts(map, isDropIn: isDropIn)
    self.facts = facts
    // A qcow2 image tells under "encrypt" how it is encrypted, even without its secret.
    isEncrypted = map.isEncrypted || formatName == "luks" || facts.specific?["encrypt"] != nil
    var sum: UInt64 = 0
    var seen: Set<StoreIdentity> = []
    // As in qemu-img, the extents of a VMDK count and the data file of a qcow2 does not.
    for store in formatName == "vmdk" ? map.stores[...] : map.stores.prefix(1) {
      if let identity = store.identity, !seen.insert(identity).inserted { continue }
      sum = sum.adding(try store.allocatedByteCount()) ?? UInt64.max
    }
    actualByteCount = sum
  }

  /// The facts that belong to a format alone, as they are shown.
  static func shownFacts(_ map: any ImageMap, isDropIn: Bool) -> Property? {
    isDropIn ? map.facts.specific.flatMap { QEMUFacts.filter($0, map.formatName) } : map.facts.specific
  }

  /// A name inside an image as seen from where the program runs.
  static func fullName(_ name: String, _ image: String) -> String {
    guard !name.hasPrefix("/"), let slash = image.lastIndex(of: "/") else { return name }
    return image[...slash] + name
  }

  /// QEMU's programs tell of the dirty flag for every format but DMG.
  private var hasDirtyFlag: Bool { facts.hasDirtyFlag || formatName != "dmg" }

  /// The members in the order of qemu-img 7.2.
  package var json: Property {
    var members: [Property.Member] = []
    func add(_ name: String, _ value: Property?) {
      if let value { members.append(Property.Member(name, value)) }
    }
    add("backing-filename-format", backing?.formatName.map { .text($0) })
    if !facts.snapshots.isEmpty { add("snapshots", .list(facts.snapshots.map(Self.json))) }
    add("virtual-size", .unsigned(virtualByteCount))
    add("filename", .text(fileName))
    add("cluster-size", unitByteCount.map { .unsigned($0) })
    add("format", .text(formatName))
    add("actual-size", .unsigned(actualByteCount))
    add("format-specific", facts.specific.map { ["type": .text(formatName), "data": $0] })
    add("full-backing-filename", backing.map { .text(Self.fullName($0.displayName, fileName)) })
    if isEncrypted { add("encrypted", .flag(true)) }
    add("backing-filename", backing.map { .text($0.displayName) })
    if hasDirtyFlag { add("dirty-flag", .flag(facts.isDirty)) }
    return .object(members)
  }

  private static func json(_ snapshot: SnapshotFacts) -> Property {
    var members: [Property.Member] = []
    func add(_ name: String, _ value: Property) { members.append(Property.Member(name, value)) }
    if let count = snapshot.instructionCount { add("icount", .unsigned(count)) }
    add("vm-clock-nsec", .unsigned(snapshot.guestClockNanoseconds % 1_000_000_000))
    add("name", .text(snapshot.name))
    add("date-sec", .integer(snapshot.seconds))
    add("date-nsec", .unsigned(UInt64(snapshot.nanoseconds)))
    add("vm-clock-sec", .unsigned(snapshot.guestClockNanoseconds / 1_000_000_000))
    add("id", .text(snapshot.id))
    add("vm-state-size", .unsigned(snapshot.vmStateByteCount))
    return .object(members)
  }

  package func write(to output: Output) {
    output.write("image: " as StaticString)
    output.write(bytes: fileNameBytes)
    output.write(line: "")
    output.write(line: "file format: \(formatName)")
    output.write(line: "virtual size: \(HumanText.size(virtualByteCount)) (\(virtualByteCount) bytes)")
    output.write(line: "disk size: \(HumanText.size(actualByteCount))")
    if isEncrypted { output.write(line: "encrypted: yes") }
    if let unitByteCount { output.write(line: "cluster_size: \(unitByteCount)") }
    if facts.isDirty { output.write(line: "cleanly shut down: no") }
    if let backing { write(backing, to: output) }
    if !facts.snapshots.isEmpty { SnapshotTable.write(facts.snapshots, to: output) }
    if let specific = facts.specific {
      output.write(line: "Format specific information:")
      HumanText.write(specific, level: 1, to: output)
    }
  }

  private func write(_ backing: BackingReference, to output: Output) {
    let shown = HumanText.printable(backing.displayName)
    let full = HumanText.printable(Self.fullName(backing.displayName, fileName))
    output.write(line: "backing file: \(shown)" + (full == shown ? "" : " (actual path: \(full))"))
    if let format = backing.formatName { output.write(line: "backing file format: \(HumanText.printable(format))") }
  }
}

/// The members of "format-specific" that qemu-img 7.2 prints.
private enum QEMUFacts {
  private static let names: [String: Set<String>] = [
    "qcow2": [
      "compat", "compression-type", "lazy-refcounts", "bitmaps", "refcount-bits", "data-file", "encrypt",
      "data-file-raw", "corrupt", "extended-l2",
    ],
    "vmdk": ["cid", "parent-cid", "create-type", "extents"],
    "luks": [
      "ivgen-alg", "hash-alg", "cipher-alg", "uuid", "ivgen-hash-alg", "cipher-mode", "slots", "payload-offset",
      "master-key-iters",
    ],
  ]

  /// What is left of the facts; nil for a format of which qemu-img says nothing.
  static func filter(_ facts: Property, _ formatName: String) -> Property? {
    guard let known = names[formatName] else { return nil }
    guard case .object(let members) = facts else { return facts }
    return .object(members.filter { known.contains($0.name) })
  }
}
