package import PlatterCore
import SystemPackage

/// An opened VMDK disk.
package final class VMDKImage: ImageMap {
  /// A run of the disk, and what it consists of.
  struct Part: Sendable {
    var start: UInt64
    var byteCount: UInt64
    var extent: any DiskExtent
    /// For `info`: the type as the descriptor names it, empty for an extent with its descriptor inside.
    var typeName: String
    /// For `info`: the file as the user would name it.
    var fileName: String

    var end: UInt64 { start + byteCount }
  }

  package let formatName = VMDK.name
  package let stores: [any ByteStore]
  package let byteCount: UInt64
  package let backing: BackingReference?
  package let descriptor: Descriptor
  /// In the order of the disk; they leave no gap.
  let parts: [Part]
  /// A child opens over a parent that changed since.
  let ignoresParentChanges: Bool
  private let warnings: [String]

  init(
    stores: [any ByteStore], descriptor: Descriptor, parts: [Part], backing: BackingReference?,
    ignoresParentChanges: Bool, warnings: [String]
  ) {
    self.stores = stores
    self.descriptor = descriptor
    self.parts = parts
    self.backing = backing
    self.ignoresParentChanges = ignoresParentChanges
    self.warnings = warnings
    byteCount = parts.last?.end ?? 0
  }

  /// The grain where all extents have the same.
  package var allocationUnit: UInt64? {
    guard let first = parts.first?.extent.grainByteCount else { return nil }
    for part in parts where part.extent.grainByteCount != first { return nil }
    return first
  }

  package var facts: ImageFacts {
    var facts = ImageFacts()
    facts.hasDirtyFlag = true
    for part in parts where part.extent.isUnclean { facts.isDirty = true }
    facts.warnings = warnings
    facts.specific = specificFacts
    facts.references = descriptor.references(withExtents: stores.count > 1 || parts.first?.typeName.isEmpty == false)
    return facts
  }

  /// QEMU's members in its order, then ours.
  private var specificFacts: Property {
    var extents: [Property] = []
    for part in parts {
      var members: [Property.Member] = []
      if part.extent.isCompressed { members.append(.init("compressed", .flag(true))) }
      members.append(.init("virtual-size", .unsigned(part.byteCount)))
      members.append(.init("filename", .text(part.fileName)))
      if let grain = part.extent.grainByteCount { members.append(.init("cluster-size", .unsigned(grain))) }
      members.append(.init("format", .text(part.typeName)))
      extents.append(.object(members))
    }
    var members: [Property.Member] = [
      .init("cid", .unsigned(UInt64(descriptor.contentID))),
      .init("parent-cid", .unsigned(UInt64(descriptor.parentContentID))),
      .init("create-type", .text(descriptor.createType)), .init("extents", .list(extents)),
    ]
    if let adapter = descriptor.databaseValue("adapterType") { members.append(.init("adapter-type", .text(adapter))) }
    if let version = descriptor.databaseValue("virtualHWVersion") {
      members.append(.init("hardware-version", .text(version)))
    }
    if parts.contains(where: { $0.extent.isUnclean }) { members.append(.init("unclean-shutdown", .flag(true))) }
    if !descriptor.database.isEmpty {
      members.append(.init("ddb", .object(descriptor.database.map { .init($0.name, .text($0.value)) })))
    }
    return .object(members)
  }

  /// Whether the disk is a delta link over another.
  var isChild: Bool { descriptor.parentContentID != Descriptor.noContentID }

  package func accept(parent: any ImageMap) throws(ImageError) {
    guard isChild else { return }
    guard let parent = parent as? VMDKImage else {
      throw .unsupported("the parent is a \(parent.formatName) image, and a VMDK can only have a VMDK parent")
    }
    guard !ignoresParentChanges, !hasContent(of: parent) else { return }
    throw .corrupt(
      "the parent changed after this image was made over it: parentCID is \(descriptor.parentContentID.hex8), and the "
        + "parent's CID is \(parent.descriptor.contentID.hex8)")
  }

  private func hasContent(of parent: VMDKImage) -> Bool {
    guard descriptor.parentContentID == Descriptor.longContentID else {
      return descriptor.parentContentID == parent.descriptor.contentID
    }
    let own = descriptor.databaseValue("parentLongContentID") ?? descriptor.databaseValue("longContentID")
    guard let own, let theirs = parent.descriptor.databaseValue("longContentID") else {
      return parent.descriptor.contentID == Descriptor.longContentID
    }
    return own.lowercased() == theirs.lowercased()
  }
}

extension UInt32 {
  /// Eight hexadecimal digits.
  var hex8: String {
    let digits = String(self, radix: 16)
    return String(repeating: "0", count: 8 - digits.count) + digits
  }
}

extension Descriptor {
  /// Names of other files: extents, the parent, the change tracking file.
  func references(withExtents: Bool) -> [String] {
    var names: [String] = []
    if withExtents {
      for extent in extents {
        guard let name = extent.name else { continue }
        let text = text(name)
        if !names.contains(text) { names.append(text) }
      }
    }
    if parentContentID != Self.noContentID, let parentHint { names.append(text(parentHint)) }
    if let changeTrackPath { names.append(text(changeTrackPath)) }
    return names
  }

  /// A name for people.
  func text(_ name: [UInt8]) -> String {
    String(decoding: TextEncoding.utf8(name, from: encoding) ?? name, as: UTF8.self)
  }

  /// The paths that a name may mean, best first: its bytes, the same in UTF-8, and with "/" for "\".
  func paths(_ name: [UInt8]) -> [FilePath] {
    var candidates = [name]
    if let converted = TextEncoding.utf8(name, from: encoding) { candidates.append(converted) }
    let backslash = UInt8(ascii: "\\")
    if let last = candidates.last, last.contains(backslash) {
      candidates.append(last.map { $0 == backslash ? UInt8(ascii: "/") : $0 })
    }
    var paths: [FilePath] = []
    for candidate in candidates {
      if let path = FilePath(bytes: candidate), !paths.contains(path) { paths.append(path) }
    }
    return paths
  }

  /// The image that unallocated grains come from, or nil for a disk that stands alone.
  ///
  /// Hints are often absolute paths of the machine that made the disk, so the name alone is tried last.
  func backing() throws(ImageError) -> BackingReference? {
    guard parentContentID != Self.noContentID else { return nil }
    guard let parentHint, !parentHint.isEmpty else {
      throw .corrupt(
        "the descriptor has a parent (parentCID \(parentContentID.hex8)), and no parentFileNameHint names it")
    }
    var names = paths(parentHint)
    if let last = names.last, let component = last.lastComponent {
      let plain = FilePath(root: nil, [component])
      if !names.contains(plain) { names.append(plain) }
    }
    return BackingReference(names: names, formatName: VMDK.name, displayName: text(parentHint))
  }
}
