import PlatterCore
import SystemPackage

/// The steps of opening, in order: what the header cluster says, checked against the file.
struct Opening {
  let store: any ByteStore
  let fileByteCount: UInt64
  let header: Header
  let extensions: HeaderExtensions
  let backing: BackingReference?

  init(_ store: any ByteStore, _ context: OpenContext) throws(ImageError) {
    self.store = store
    fileByteCount = try store.byteCount()
    var cluster = try store.readPrefix(count: Header.version3MinimumByteCount)
    var header: Header
    if cluster.count >= Header.version2ByteCount, let bits = cluster.rawBytes.bigEndian(at: 20, as: UInt32.self),
      (9...21).contains(bits)
    {
      cluster = try store.readPrefix(count: 1 << Int(bits))
    }
    header = try Header(parsing: cluster.rawBytes, isForCheck: context.isForCheck)
    try Self.checkFeatures(header, cluster)
    extensions = try HeaderExtensions(parsing: cluster.rawBytes, header)
    if header.isDataFileRaw && header.backingNameOffset != 0 && header.backingNameByteCount != 0 {
      throw .corrupt("an image with a raw data file cannot have a backing file as well")
    }
    let l1ByteCount = UInt64(header.l1EntryCount) * 8
    guard context.isForCheck || header.l1Offset + l1ByteCount <= fileByteCount else {
      throw .truncated(Self.outside(header, fileByteCount))
    }
    if context.isWritable, header.incompatibleFeatures.contains(.corrupt) {
      throw ImageError(
        .forbidden, "the image is marked corrupt: it can be opened for reading and repaired, but not for writing")
    }
    backing = try Self.backing(header, extensions, cluster)
    self.header = header
  }

  /// A sentence about an L1 table that does not lie inside the file behind the header.
  static func outside(_ header: Header, _ fileByteCount: UInt64) -> String {
    let place =
      header.l1Offset < header.clusterByteCount
      ? "overlaps the header" : "lies past the end of the file (\(fileByteCount.hex))"
    return "the L1 table (\(UInt64(header.l1EntryCount) * 8) bytes at \(header.l1Offset.hex)) \(place)"
  }

  /// Refuses incompatible features that nobody here knows, by the names that the image gives them.
  private static func checkFeatures(_ header: Header, _ cluster: [UInt8]) throws(ImageError) {
    let unknown = header.incompatibleFeatures.subtracting(.known)
    guard !unknown.isEmpty else { return }
    // A feature may change what extensions look like: names are a courtesy, never a reason to fail otherwise.
    var names = FeatureNames(parsing: [])
    do throws(ImageError) { names = try HeaderExtensions(parsing: cluster.rawBytes, header).featureNames } catch {}
    throw .unsupported("Unsupported qcow2 feature(s): \(names.describe(unknown))")
  }

  private static func backing(_ header: Header, _ extensions: HeaderExtensions, _ cluster: [UInt8])
    throws(ImageError) -> BackingReference?
  {
    let format = try extensions.backingFormat()
    // QEMU takes a name of no bytes for no name.
    guard header.backingNameOffset != 0, header.backingNameByteCount != 0 else { return nil }
    let (offset, count) = (Int(header.backingNameOffset), Int(header.backingNameByteCount))
    guard let bytes = cluster.rawBytes.bytes(at: offset, count: count) else {
      throw .truncated(
        "the backing file's name (\(count) bytes at \(header.backingNameOffset.hex)) lies past the end of the file "
          + "(\(UInt64(cluster.count).hex))")
    }
    guard let path = FilePath(bytes: bytes) else { throw .corrupt("the backing file's name holds a NUL byte") }
    return BackingReference(
      names: [path], formatName: format, displayName: String(decoding: bytes, as: UTF8.self))
  }

  /// The external data file: its name as the image records it, and the file, which is not opened for facts alone.
  func openDataFile(_ context: OpenContext) throws(ImageError) -> (name: String?, store: (any ByteStore)?) {
    let option = context.options["data-file.filename"]
    guard header.hasDataFile else {
      guard option == nil else {
        throw .invalidArgument("\"data-file\" is given, but the image has no external data file")
      }
      return (nil, nil)
    }
    let recorded = try extensions.dataFileName()
    let name = recorded.map { String(decoding: $0, as: UTF8.self) }
    guard !context.isForFactsOnly else { return (name, nil) }
    if let file = context.dataFile { return (name, file) }
    if let option {
      // The caller's own word: neither relative to the image nor subject to the policy for names inside images.
      let file = try FileStore(FilePath(option), FileStore.Options(isWritable: context.isWritable))
      try context.resolver.opened(file)
      return (name, file)
    }
    guard let recorded, let path = FilePath(bytes: recorded) else {
      throw .corrupt("the image keeps its data in an external file, but names none")
    }
    let file = try context.resolver.open(
      path, from: context.path, what: "data file", isWritable: context.isWritable)
    return (name, file)
  }
}
