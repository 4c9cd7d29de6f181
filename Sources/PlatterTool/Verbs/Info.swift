package import Platter
package import PlatterCore
import SystemPackage

/// `info`: size, format and facts of an image, or of its whole backing chain.
package enum InfoVerb: Verb {
  package static let name = "info"
  package static let summary = "Show format, size and facts of an image."
  package static let operands = "FILENAME"
  package static let options =
    [
      SharedOptions.format, SharedOptions.output,
      OptionSpec(nil, "backing-chain", "show the images under it too"),
      SharedOptions.forceShare,
    ] + SharedOptions.opening

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let isJSON = try call.wantsJSON()
    let source = try call.source(try call.singleOperand())
    try call.checkFormatOptions()
    let reports = try InfoChain(call).reports(source, isWholeChain: call.options.has("backing-chain"))
    if isJSON {
      let objects = reports.map(\.json)
      JSONWriter.write(call.options.has("backing-chain") ? .list(objects) : objects[0], to: call.output)
      call.output.write("\n" as StaticString)
    } else {
      for (index, report) in reports.enumerated() {
        if index > 0 { call.output.write("\n" as StaticString) }
        report.write(to: call.output)
      }
    }
    return 0
  }
}

/// Opens the images of a chain one by one for their facts, so that a damaged parent does not hide its child.
private struct InfoChain {
  /// As the library's limit for chains.
  private static let maximumLength = DiskImage.maximumChainLength

  let call: Invocation

  init(_ call: Invocation) { self.call = call }

  func reports(_ source: ImageSource, isWholeChain: Bool) throws(Failure) -> [InfoReport] {
    var options = try call.openOptions()
    options.isForFactsOnly = true
    options.opensBacking = false
    var image = try call.open(source, options)
    var reports = [try report(image, source.fileNameBytes)]
    guard isWholeChain else { return reports }
    var seen: Set<StoreIdentity> = []
    while let reference = image.layers[0].map.backing {
      if let identity = image.layers[0].map.stores.first?.identity, !seen.insert(identity).inserted {
        throw Failure("Backing file '\(reports[reports.count - 1].fileName)' creates an infinite loop.")
      }
      guard reports.count < Self.maximumLength else {
        throw Failure("the backing chain is longer than \(Self.maximumLength) images")
      }
      image = try open(reference, of: image, options)
      reports.append(try report(image, Array(image.name.utf8)))
    }
    return reports
  }

  /// Opens a backing image, where the reference policy lets it.
  private func open(_ reference: BackingReference, of child: DiskImage, _ options: OpenOptions) throws(Failure)
    -> DiskImage
  {
    let resolver = ReferenceResolver(call.references)
    var firstError: ImageError?
    for name in reference.names {
      do throws(ImageError) {
        // The policy is asked first; the image is then opened under the path that it approved.
        let approved = try resolver.open(name, from: child.layers[0].path, what: "backing file")
        var options = options
        options.format = reference.formatName
        options.node = [:]
        return try DiskImage.open(path: approved.path, options)
      } catch {
        if firstError == nil { firstError = error }
        guard error.code == .notFound else { break }
      }
    }
    let error = firstError ?? ImageError(.corrupt, "the backing file has no usable name", file: child.name)
    throw OpenFailure.describe(error, InfoReport.fullName(reference.displayName, child.name), call.program)
  }

  private func report(_ image: DiskImage, _ fileNameBytes: [UInt8]) throws(Failure) -> InfoReport {
    do throws(ImageError) {
      return try InfoReport(image, fileNameBytes: fileNameBytes)
    } catch {
      throw Failure(error)
    }
  }
}

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

  package init(_ image: DiskImage, fileNameBytes: [UInt8]) throws(ImageError) {
    let map = image.layers[0].map
    self.fileNameBytes = fileNameBytes
    fileName = String(decoding: fileNameBytes, as: UTF8.self)
    formatName = map.formatName
    virtualByteCount = map.byteCount
    unitByteCount = map.allocationUnit
    backing = map.backing
    facts = map.facts
    // A qcow2 image tells under "encrypt" how it is encrypted, even without its secret.
    isEncrypted = map.isEncrypted || formatName == "luks" || facts.specific?["encrypt"] != nil
    var sum: UInt64 = 0
    var seen: Set<StoreIdentity> = []
    for store in map.stores {
      if let identity = store.identity, !seen.insert(identity).inserted { continue }
      sum = sum.adding(try store.allocatedByteCount()) ?? UInt64.max
    }
    actualByteCount = sum
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

/// The list of internal snapshots, in qemu-img's columns.
package enum SnapshotTable {
  package static func write(_ snapshots: [SnapshotFacts], to output: Output) {
    output.write(line: "Snapshot list:")
    output.write(line: row("ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT"))
    for snapshot in snapshots {
      output.write(
        line: row(
          HumanText.printable(snapshot.id), HumanText.printable(snapshot.name),
          HumanText.size(snapshot.vmStateByteCount), HumanText.localTime(snapshot.seconds),
          HumanText.clock(nanoseconds: snapshot.guestClockNanoseconds),
          snapshot.instructionCount.map { String($0) } ?? ""))
    }
  }

  private static func row(
    _ id: String, _ tag: String, _ size: String, _ date: String, _ clock: String, _ count: String
  ) -> String {
    [
      HumanText.left(id, 9), HumanText.left(tag, 16), HumanText.right(size, 8), HumanText.right(date, 19),
      HumanText.right(clock, 12), HumanText.right(count, 10),
    ].joined(separator: " ")
  }
}
