package import Platter
package import PlatterCore
package import TestSupport

/// What everybody may see of a disk and of what lies below it.
package struct ProofState: Sendable {
  package struct Snapshot: Sendable, Equatable {
    package var name: String
    package var bytes: [UInt8]
    /// The clusters behind the disk where the state of a running machine lies, as they are in the file.
    package var machine: [UInt8] = []
  }

  package var bytes: [UInt8]
  package var snapshots: [Snapshot] = []
  /// Guest bytes of the images below, by name.
  package var bases: [String: [UInt8]] = [:]
  /// How often they have changed.
  package var baseVersion = 0
  /// What the header names; nil for nothing.
  package var backing: String?

  /// All guest bytes of the backing image.
  package var below: [UInt8] { backing.flatMap { bases[$0] } ?? [] }
}

/// The files of a chain, in memory.
package struct ProofFiles: Sendable {
  /// Names by number: in the journal of a power cut a file is a number.
  package static let names = ["top.qcow2", "data", "below", "other", "deep"]

  package var contents: [PagedBytes]
  /// Formats of the images below, by name.
  package var formats: [String: String]
  package var hasDataFile: Bool

  package func stores(_ journal: ChangeJournal? = nil) -> [PagedStore] {
    contents.indices.map { PagedStore(contents[$0], name: Self.names[$0], journal: journal, file: $0) }
  }
}

/// Opens a chain as the headers have it.
package struct ProofChain {
  package var stores: [any ByteStore]
  package var formats: [String: String]
  package var hasDataFile: Bool

  package init(_ stores: [any ByteStore], _ files: ProofFiles) {
    self.stores = stores
    formats = files.formats
    hasDataFile = files.hasDataFile
  }

  package func topMap(isWritable: Bool = false) throws(ImageError) -> any ImageMap {
    var context = OpenContext(isWritable: isWritable, passphrase: { ProofRow.secret() })
    if hasDataFile { context.dataFile = stores[1] }
    return try Formats.named("qcow2").open(stores[0], context)
  }

  /// The top image, or a snapshot of it, with all that is below.
  package func open(
    isWritable: Bool = false, isBaseWritable: Bool = false, snapshot: String? = nil
  ) throws(ImageError) -> DiskImage {
    var map = try topMap(isWritable: isWritable)
    if let snapshot { map = try map.snapshot(named: snapshot) }
    let below = try baseLayers(map.backing?.displayName, isWritable: isBaseWritable)
    return DiskImage(layers: [DiskImage.Layer(name: stores[0].name, map: map)] + below)
  }

  package func openBase(_ name: String) throws(ImageError) -> DiskImage {
    DiskImage(layers: try baseLayers(name, isWritable: false))
  }

  private func baseLayers(_ name: String?, isWritable: Bool) throws(ImageError) -> [DiskImage.Layer] {
    guard let name else { return [] }
    guard let number = ProofFiles.names.firstIndex(of: name), let format = formats[name] else {
      throw ImageError(.notFound, "the image names \"\(name)\", which never was a backing file")
    }
    let map = try Formats.named(format).open(stores[number], OpenContext(isWritable: isWritable))
    return [DiskImage.Layer(name: name, map: map)] + (try baseLayers(map.backing?.displayName, isWritable: false))
  }
}

extension ProofFiles {
  /// A new image of a row, over images with random content, and what it shows.
  package init(_ row: ProofRow, _ random: inout SeededGenerator) throws {
    let made = try row.create()
    contents = [made.top, made.data ?? PagedBytes(), PagedBytes(), PagedBytes(), PagedBytes()]
    formats = [:]
    hasDataFile = row.hasDataFile
    guard row.value("data_file") != "raw" else { return }
    let format = row.backing ?? BaseImage.formats.randomElement(using: &random) ?? "raw"
    let other = BaseImage.formats.randomElement(using: &random) ?? "raw"
    formats = ["below": format, "other": other, "deep": "raw"]
    let isDeep = format == "qcow2" && random.chance(2)
    contents[4] = PagedBytes(Self.content(row, &random))
    contents[2] = BaseImage.make(format, Self.content(row, &random), backing: isDeep ? "deep" : nil)
    contents[3] = BaseImage.make(other, Self.content(row, &random))
  }

  /// Sometimes shorter than the disk, sometimes longer.
  private static func content(_ row: ProofRow, _ random: inout SeededGenerator) -> [UInt8] {
    let most = row.byteCount * 5 / 4
    let count = Int(UInt64.random(in: 1...most / 512, using: &random) * 512)
    var content = [UInt8](repeating: 0, count: count)
    let step = max(1536, count / 64 / 512 * 512)
    for start in stride(from: 0, to: count, by: step) where !random.chance(3) {
      content.put(randomBytes(min(step * 2 / 3, count - start), from: start * 7 + 1), at: start)
    }
    return content
  }

  /// What the chain shows before anything was done to it.
  package func firstState(_ row: ProofRow) throws -> ProofState {
    let chain = ProofChain(stores(), self)
    var state = ProofState(bytes: [UInt8](repeating: 0, count: Int(row.byteCount)))
    for name in formats.keys {
      let base = try chain.openBase(name)
      state.bases[name] = try base.read(Int(base.byteCount), at: 0)
    }
    state.backing = row.backing == nil ? nil : "below"
    // Version 2 cannot say that space which was given in advance reads as zeros: what it deciphers to is there.
    if row.value("compat") == "0.10", row.isEncrypted, row.value("preallocation") != "off" {
      state.bytes = try chain.open().read(state.bytes.count, at: 0)
    }
    let shown = min(state.below.count, state.bytes.count)
    state.bytes.put(state.below.part(0..<shown), at: 0)
    return state
  }
}
