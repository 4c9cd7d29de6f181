import PlatterCore
import PlatterCrypto

/// What `amend` is asked for: the options, checked one by one and against the image.
struct Amendment {
  /// 2 or 3; nil keeps it.
  var version: UInt32?
  var hasLazyRefcounts: Bool?
  var refcountOrder: UInt32?
  var dataFileName: [UInt8]?
  var dropsRawDataFile = false
  var keySlots: KeySlotChange?

  init(_ wanted: AmendRequest, _ core: WriterCore) throws(ImageError) {
    let options = wanted.options
    let request = CreationRequest(byteCount: core.header.virtualByteCount, options: options)
    try request.checkNames(QCOW2.creationOptions + QCOW2.amendOptions)
    let others = ["backing_file", "backing_fmt", "size"]
    let amendable = Set(QCOW2.amendOptions.map(\.name)).subtracting(others)
    for name in options.keys.sorted() where !amendable.contains(name) {
      throw .unsupported("option \"\(name)\" of an existing image cannot be changed")
    }
    try readKeySlots(wanted, core)
    switch request.text("compat") {
    case nil: break
    case "1.1", "v3": version = 3
    case "0.10", "v2": version = 2
    case let other?: throw .invalidArgument("Unknown compatibility level \(other)")
    }
    hasLazyRefcounts = try request.flag("lazy_refcounts")
    if let bits = try request.number("refcount_bits") {
      guard bits.nonzeroBitCount == 1, bits <= 64 else {
        throw .invalidArgument("Refcount width must be a power of two and may not exceed 64 bits")
      }
      refcountOrder = UInt32(bits.trailingZeroBitCount)
    }
    try readDataFile(request, core)
    try check(core)
  }

  private mutating func readKeySlots(_ wanted: AmendRequest, _ core: WriterCore) throws(ImageError) {
    let prefix = "encrypt."
    guard wanted.options.keys.contains(where: { $0.hasPrefix(prefix) }) else { return }
    guard core.isEncrypted else { throw .invalidArgument("Can't amend encryption options - encryption not present") }
    guard core.luks != nil else { throw .invalidArgument("Only LUKS encryption options can be amended") }
    keySlots = try KeySlotChange(wanted, prefix: prefix)
  }

  private mutating func readDataFile(_ request: CreationRequest, _ core: WriterCore) throws(ImageError) {
    if let name = request.text("data_file") {
      guard core.hasDataFile else {
        throw .unsupported("data-file can only be set for images that use an external data file")
      }
      let bytes = Array(name.utf8)
      guard bytes.count <= HeaderExtensions.maximumDataFileNameByteCount, !bytes.contains(0) else {
        throw .invalidArgument(
          "the data file's name must have at most \(HeaderExtensions.maximumDataFileNameByteCount) bytes and no NUL")
      }
      dataFileName = bytes
    }
    guard let isRaw = try request.flag("data_file_raw") else { return }
    // The data file may hold bytes that the image does not show.
    guard !isRaw || core.isDataFileRaw else {
      throw .unsupported("data-file-raw cannot be set on existing images")
    }
    dropsRawDataFile = !isRaw && core.isDataFileRaw
  }

  /// What the version that is wanted cannot say.
  private func check(_ core: WriterCore) throws(ImageError) {
    let header = core.header
    let isVersion2 = (version ?? header.version) == 2
    guard !isVersion2 || hasLazyRefcounts != true else {
      throw .invalidArgument(
        "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)")
    }
    guard !isVersion2 || (refcountOrder ?? header.refcountOrder) == 4 else {
      throw .unsupported(
        version == 2
          ? "compat=0.10 requires refcount_bits=16"
          : "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)")
    }
    guard version == 2, header.version == 3 else { return }
    // Version 2 has no place for a snapshot's own size.
    guard core.snapshots.allSatisfy({ ($0.diskByteCount ?? header.virtualByteCount) == header.virtualByteCount }) else {
      throw .unsupported("Internal snapshots prevent downgrade of image")
    }
    guard !header.hasDataFile else { throw .unsupported("Cannot downgrade an image with a data file") }
    guard !header.hasExtendedL2 else {
      throw .unsupported("Cannot downgrade an image with incompatible features 0x10 set")
    }
    let obstacles = [
      // Zeros that must hide the backing image would have to be encrypted first.
      (core.isEncrypted && core.hasBacking, "encryption and a backing file"),
      (
        core.extensions.bytes(of: HeaderExtensions.Kind.bitmaps) != nil || !core.liveBitmaps.isEmpty,
        "persistent bitmaps"
      ),
    ]
    for (isThere, what) in obstacles where isThere {
      throw .unsupported("an image with \(what) cannot be made compat=0.10")
    }
  }
}
