package import PlatterCore
import Synchronization
import SystemPackage

extension VMDK {
  /// Driver option: a child opens over a parent that changed after it was made.
  package static let ignoreParentChangesOption = "ignore-parent-changes"

  package static func open(_ store: any ByteStore, _ context: OpenContext) throws(ImageError) -> any ImageMap {
    try naming(store.name) { () throws(ImageError) in
      let head = try store.readPrefix(count: 4)
      var opening = Opening(store, context)
      switch head.rawBytes.littleEndian(at: 0, as: UInt32.self) {
      case SparseHeader.magic: try opening.openWithDescriptorInside()
      case COWDHeader.magic: try opening.openBareVMFSSparse()
      default: try opening.openFromText()
      }
      return try opening.image()
    }
  }
}

/// The steps of opening a disk.
struct Opening {
  private let context: OpenContext
  private let files: ExtentFiles
  private var descriptor = Descriptor()
  private var parts: [VMDKImage.Part] = []
  private var warnings: [String] = []
  private var end: UInt64 = 0

  init(_ store: any ByteStore, _ context: OpenContext) {
    self.context = context
    files = ExtentFiles(store, context)
  }

  func image() throws(ImageError) -> VMDKImage {
    // For facts alone, a parent that cannot be named is no error.
    var backing: BackingReference?
    do throws(ImageError) {
      backing = try descriptor.backing()
    } catch {
      guard context.isForFactsOnly else { throw error }
    }
    return VMDKImage(
      stores: files.stores, descriptor: descriptor, parts: parts, backing: backing,
      ignoresParentChanges: context.options[VMDK.ignoreParentChangesOption] == "on", warnings: warnings)
  }

  // MARK: The image itself is an extent.

  mutating func openWithDescriptorInside() throws(ImageError) {
    let store = files.stores[0]
    let header = try SparseHeader.read(store)
    if header.descriptorSector != 0 {
      let text = try Self.embeddedDescriptor(store, header)
      descriptor = try Descriptor(parsing: text)
      guard !descriptor.extents.isEmpty || !descriptor.createType.isEmpty else {
        throw .corrupt("the descriptor at sector \(header.descriptorSector) is no descriptor")
      }
    }
    if header.capacity == 0, header.descriptorSector != 0 {
      // The header only carries the descriptor of a disk that lies in other files. Those are opened as extents, and
      // descriptors inside them are not looked at: so this goes one step deep.
      for line in descriptor.extents where line.sectorCount > 0 { try add(line) }
      return
    }
    if descriptor.extents.count == 1, descriptor.extents[0].sectorCount > header.capacity {
      throw .corrupt(
        "the descriptor's extent has \(descriptor.extents[0].sectorCount) sectors, and the header's capacity is "
          + "\(header.capacity)")
    }
    let opener = ExtentOpener(store: store, index: 0, context: context)
    let extent = try opener.sparse(header, sectorCount: header.capacity)
    note(header, in: store)
    // The line inside describes the file itself; its name and access may be stale.
    try append(extent, sectorCount: header.capacity, typeName: "", fileName: store.name)
  }

  private static func embeddedDescriptor(_ store: any ByteStore, _ header: SparseHeader) throws(ImageError) -> [UInt8] {
    let most = UInt64(Descriptor.maximumByteCount)
    guard header.descriptorSectorCount > 0, header.descriptorSectorCount <= most / sectorByteCount else {
      throw .corrupt("the header's descriptor has \(header.descriptorSectorCount) sectors, not 1 to \(most / 512)")
    }
    guard let offset = header.descriptorSector.multiplied(by: sectorByteCount) else {
      throw .truncated("the descriptor at sector \(header.descriptorSector) lies past the end of the file")
    }
    let count = Int(header.descriptorSectorCount * sectorByteCount)
    return try store.readFully("the descriptor", at: offset, count: count)
  }

  mutating func openBareVMFSSparse() throws(ImageError) {
    let opener = ExtentOpener(store: files.stores[0], index: 0, context: context)
    let (extent, capacity) = try opener.vmfsSparse(sectorCount: nil)
    try append(extent, sectorCount: capacity, typeName: "", fileName: files.stores[0].name)
  }

  // MARK: The image is a text.

  mutating func openFromText() throws(ImageError) {
    let store = files.stores[0]
    let length = try store.byteCount()
    guard length <= UInt64(Descriptor.maximumByteCount) else {
      throw .corrupt(
        "starts neither as an extent nor as a descriptor, which has at most \(Descriptor.maximumByteCount) bytes")
    }
    let text = try store.readPrefix(count: Int(length))
    let start = Array(text.prefix(ProbeHead.byteCount))
    guard Descriptor.isLikely(start.rawBytes) else {
      throw .corrupt("starts neither as an extent nor as a descriptor")
    }
    descriptor = try Descriptor(parsing: text)
    guard !descriptor.extents.isEmpty else { throw .corrupt("the descriptor lists no extent") }
    for line in descriptor.extents {
      guard line.sectorCount > 0 else { throw .corrupt("extent \(parts.count + 1) has 0 sectors") }
      try add(line)
    }
  }

  private mutating func add(_ line: ExtentLine) throws(ImageError) {
    let number = parts.count + 1
    let fileName = line.name.map { files.shownName(descriptor.text($0)) } ?? ""
    let extent: any DiskExtent
    do throws(ImageError) {
      extent = try open(line, number)
    } catch {
      guard context.isForFactsOnly else { throw error }
      warnings.append(error.description)
      extent = UnreadableExtent(reason: error)
    }
    try append(extent, sectorCount: line.sectorCount, typeName: line.kind.rawValue, fileName: fileName)
  }

  private func open(_ line: ExtentLine, _ number: Int) throws(ImageError) -> any DiskExtent {
    if line.kind == .zero { return ZeroExtent() }
    guard line.access != .none else {
      return UnreadableExtent(
        reason: ImageError(.forbidden, "extent \(number) is marked NOACCESS: it must not be read"))
    }
    guard line.kind != .vmfsRDM, line.kind != .vmfsRaw else {
      throw .unsupported("extent \(number) is a device (\(line.kind.rawValue)), which is not opened")
    }
    let isWritable = context.isWritable && line.access == .readWrite
    let (store, index) = try files.open(
      descriptor.paths(line.name ?? []), what: "extent \(number)", isWritable: isWritable)
    return try naming(store.name) { () throws(ImageError) in
      let opener = ExtentOpener(store: store, index: index, context: context)
      switch line.kind {
      case .flat, .vmfs:
        let extent = try opener.flat(offset: line.offset, sectorCount: line.sectorCount)
        if let fault = extent.fault { context.warn("\(store.name): \(fault), and reading it there fails") }
        return extent
      case .sparse: return try opener.sparse(try SparseHeader.read(store), sectorCount: line.sectorCount)
      case .vmfsSparse: return try opener.vmfsSparse(sectorCount: line.sectorCount).extent
      case .seSparse: return try opener.seSparse(sectorCount: line.sectorCount)
      case .zero, .vmfsRDM, .vmfsRaw: return ZeroExtent()
      }
    }
  }

  private mutating func append(_ extent: any DiskExtent, sectorCount: UInt64, typeName: String, fileName: String)
    throws(ImageError)
  {
    // Each number is below 2^54, so only the sum can be too large.
    guard let sectors = (end / sectorByteCount).adding(sectorCount), sectors <= ExtentLine.maximumSectorCount else {
      throw .corrupt("the extents together have more sectors than a disk can have (\(ExtentLine.maximumSectorCount))")
    }
    let byteCount = sectorCount * sectorByteCount
    guard byteCount > 0 else { return }
    parts.append(
      VMDKImage.Part(start: end, byteCount: byteCount, extent: extent, typeName: typeName, fileName: fileName))
    end += byteCount
  }

  private mutating func note(_ header: SparseHeader, in store: any ByteStore) {
    if !header.hasIntactNewlines {
      let warning = "the newline bytes of the header are changed: the file went through a text transfer"
      warnings.append(warning)
      context.warn("\(store.name): \(warning)")
    }
    if header.isUnclean { warnings.append("the extent was not closed cleanly") }
  }
}

/// The files that the extents of a disk lie in; each is opened once.
final class ExtentFiles {
  private(set) var stores: [any ByteStore]
  private let context: OpenContext
  private var opened: [FilePath: UInt16] = [:]

  init(_ store: any ByteStore, _ context: OpenContext) {
    stores = [store]
    self.context = context
  }

  /// Opens the first of a name's spellings that is there.
  func open(_ paths: [FilePath], what: String, isWritable: Bool) throws(ImageError) -> (any ByteStore, UInt16) {
    var missing: ImageError?
    for path in paths {
      if let index = opened[path], stores[Int(index)].isWritable || !isWritable { return (stores[Int(index)], index) }
      do throws(ImageError) {
        let store = try context.resolver.open(path, from: context.path, what: what, isWritable: isWritable)
        guard store.identity != stores[0].identity else {
          throw .corrupt("the \(what) \"\(path.printable)\" is the descriptor itself")
        }
        let index = UInt16(stores.count)
        stores.append(store)
        opened[path] = index
        return (store, index)
      } catch {
        guard error.code == .notFound else { throw error }
        missing = missing ?? error
      }
    }
    throw missing ?? ImageError.corrupt("the \(what) has no usable name")
  }

  /// A name inside the descriptor as the user would have to write it.
  func shownName(_ name: String) -> String {
    guard let path = context.path, !name.hasPrefix("/") else { return name }
    let folder = path.removingLastComponent()
    return folder.isEmpty ? name : folder.appending(name).string
  }
}
