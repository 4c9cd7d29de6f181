import PlatterCodecs
package import PlatterCore
import PlatterCrypto

extension QCOW2 {
  /// In QEMU's order, under QEMU's names; the last two are ours.
  package static let creationOptions: [CreationOption] =
    [
      CreationOption(
        "encryption", .flag, "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)"),
      CreationOption("encrypt.format", .text, "Encrypt the image, format choices: 'aes', 'luks'"),
      CreationOption("encrypt.key-secret", .text, "ID of secret providing qcow AES key or LUKS passphrase"),
    ] + LUKSSettings.options(prefix: "encrypt.") + [
      CreationOption("cluster_size", .size, "qcow2 cluster size", shownDefault: "65536"),
      CreationOption("extended_l2", .flag, "Extended L2 tables", shownDefault: "off"),
      CreationOption("preallocation", .text, "Preallocation mode (allowed values: off, metadata, falloc, full)"),
      CreationOption(
        "compression_type", .text, "Compression method used for image cluster compression", shownDefault: "zlib"),
      CreationOption("size", .size, "Virtual disk size"),
      CreationOption("compat", .text, "Compatibility level (v2 [0.10] or v3 [1.1])"),
      CreationOption("backing_file", .text, "File name of a base image"),
      CreationOption("backing_fmt", .text, "Image format of the base image"),
      CreationOption("data_file", .text, "File name of an external data file"),
      CreationOption("data_file_raw", .flag, "The external data file must stay valid as a raw image"),
      CreationOption("lazy_refcounts", .flag, "Postpone refcount updates", shownDefault: "off"),
      CreationOption("refcount_bits", .number, "Width of a reference count entry in bits", shownDefault: "16"),
      CreationOption("nocow", .flag, "Turn off copy-on-write (valid only on btrfs)", isForFileSystem: true),
      CreationOption(
        "extent_size_hint", .size, "Extent size hint for the image file, 0 to disable", isForFileSystem: true),
      CreationOption(
        "compression_level", .number, "Effort of -c: 1 to 12 with zlib, 1 to 22 with zstd", isOwn: true),
      CreationOption(
        "compression_window", .text, "Window of -c with zlib (allowed values: 4k, 32k)", isOwn: true),
    ]
}

/// What a new image is to be: the options, checked one by one and against each other.
struct NewImage {
  enum Preallocation: String { case off, metadata, falloc, full }

  enum Encryption {
    case none
    case legacyAES
    case luks(LUKSSettings)
  }

  var version: UInt32 = 3
  var clusterBits: UInt32 = 16
  var refcountOrder: UInt32 = 4
  var byteCount: UInt64
  var hasLazyRefcounts = false
  var hasExtendedL2 = false
  var compression = Header.Compression.deflate
  var preallocation = Preallocation.off
  var backingName: [UInt8] = []
  var backingFormat: String?
  var dataFileName: String?
  var isDataFileRaw = false
  var encryption = Encryption.none
  var secretID: String?

  var clusterByteCount: UInt64 { 1 << UInt64(clusterBits) }
  /// Bytes of the LUKS header with all key slots; 0 without.
  var cryptoByteCount: UInt64 {
    if case .luks(let settings) = encryption { return LUKSHeader.areaByteCount(settings.suite) }
    return 0
  }

  /// - Parameter isMade: there will be such an image; else it is only measured, for which an unnamed format of its backing
  ///   file is no danger.
  init(_ request: CreationRequest, isMade: Bool = true) throws(ImageError) {
    try request.checkNames(QCOW2.creationOptions)
    // The unit that guests are given is a sector.
    guard let byteCount = request.byteCount.roundedUp(toMultipleOf: 512), byteCount <= UInt64(Int64.max) else {
      throw .invalidArgument("the disk's size \(request.byteCount) is larger than any file can be")
    }
    self.byteCount = byteCount
    _ = try request.flag("nocow")
    _ = try request.size("extent_size_hint")
    _ = try CompressionEffort(request)
    try readVersion(request)
    try readGeometry(request)
    try readReferences(request, isMade: isMade)
    try readEncryption(request)
    try checkCombinations()
  }

  private mutating func readVersion(_ request: CreationRequest) throws(ImageError) {
    switch request.text("compat") {
    case nil, "1.1", "v3": version = 3
    case "0.10", "v2": version = 2
    case let other?: throw .invalidArgument("compat \"\(other)\" is neither 0.10 (v2) nor 1.1 (v3)")
    }
    hasLazyRefcounts = try request.flag("lazy_refcounts") ?? false
    hasExtendedL2 = try request.flag("extended_l2") ?? false
    switch request.text("compression_type") {
    case nil, "zlib": compression = .deflate
    case "zstd":
      try PackedCodec.zstd.requireSupport()
      compression = .zstd
    case let other?: throw .invalidArgument("compression_type \"\(other)\" is neither zlib nor zstd")
    }
  }

  private mutating func readGeometry(_ request: CreationRequest) throws(ImageError) {
    let cluster = try request.size("cluster_size") ?? 1 << 16
    guard cluster.nonzeroBitCount == 1, (512...2 << 20).contains(cluster) else {
      throw .invalidArgument("Cluster size must be a power of two between 512 and 2048k")
    }
    clusterBits = UInt32(cluster.trailingZeroBitCount)
    let bits = try request.number("refcount_bits") ?? 16
    guard bits.nonzeroBitCount == 1, bits <= 64 else {
      throw .invalidArgument("Refcount width must be a power of two and may not exceed 64 bits")
    }
    refcountOrder = UInt32(bits.trailingZeroBitCount)
    if let text = request.text("preallocation") {
      guard let mode = Preallocation(rawValue: text) else {
        throw .invalidArgument("preallocation \"\(text)\" is not off, metadata, falloc or full")
      }
      preallocation = mode
    }
  }

  private mutating func readReferences(_ request: CreationRequest, isMade: Bool) throws(ImageError) {
    backingFormat = request.text("backing_fmt")
    if let name = request.text("backing_file"), !name.isEmpty {
      backingName = Array(name.utf8)
      guard !isMade || backingFormat != nil else {
        throw .invalidArgument("Backing file specified without backing format")
      }
      guard backingName.count <= Int(Header.maximumBackingNameByteCount) else {
        throw .invalidArgument(
          "the backing file's name has \(backingName.count) bytes, more than \(Header.maximumBackingNameByteCount)")
      }
    } else if backingFormat != nil {
      throw .invalidArgument("Backing format cannot be used without backing file")
    }
    if let format = backingFormat, format.utf8.count > HeaderExtensions.maximumBackingFormatByteCount {
      throw .invalidArgument("the backing format's name \"\(format)\" is too long")
    }
    isDataFileRaw = try request.flag("data_file_raw") ?? false
    dataFileName = request.text("data_file")
    if let name = dataFileName, name.isEmpty || name.utf8.count > HeaderExtensions.maximumDataFileNameByteCount {
      throw .invalidArgument("the data file's name has \(name.utf8.count) bytes, not 1 to 1023")
    }
  }

  private mutating func readEncryption(_ request: CreationRequest) throws(ImageError) {
    let isOldAlias = try request.flag("encryption") ?? false
    var format = request.text("encrypt.format")
    guard !isOldAlias || format == nil else {
      throw .invalidArgument("'encrypt.format' and its alias 'encryption' can't be used at the same time")
    }
    if isOldAlias { format = "aes" }
    let given = request.options.keys.filter { $0.hasPrefix("encrypt.") && $0 != "encrypt.format" }.sorted()
    secretID = request.text("encrypt.key-secret")
    switch format {
    case nil:
      guard given.isEmpty else { throw .invalidArgument("Parameter 'encrypt.format' is missing") }
      return
    case "aes":
      for name in given where name != "encrypt.key-secret" {
        throw .invalidArgument("Parameter '\(name)' is unexpected")
      }
      encryption = .legacyAES
    case "luks": encryption = .luks(try LUKSSettings(request, prefix: "encrypt."))
    case let other?: throw .invalidArgument("Parameter 'format' does not accept value '\(other)'")
    }
    guard secretID != nil else { throw .invalidArgument("Parameter 'encrypt.key-secret' is required for cipher") }
  }

  private mutating func checkCombinations() throws(ImageError) {
    let needed = "supported with compatibility level 1.1 and above (use compat=1.1 or greater)"
    if version < 3 {
      if hasLazyRefcounts { throw .invalidArgument("Lazy refcounts only \(needed)") }
      if refcountOrder != 4 { throw .invalidArgument("Different refcount widths than 16 bits are only \(needed)") }
      if compression != .deflate { throw .invalidArgument("Non-zlib compression type is only \(needed)") }
      if hasExtendedL2 { throw .invalidArgument("Extended L2 entries are only \(needed)") }
      if dataFileName != nil { throw .invalidArgument("External data files are only \(needed)") }
    }
    if hasExtendedL2, clusterBits < 14 {
      throw .invalidArgument("Extended L2 entries are only supported with cluster sizes of at least 16384 bytes")
    }
    if isDataFileRaw, dataFileName == nil { throw .invalidArgument("data-file-raw requires data-file") }
    if isDataFileRaw, !backingName.isEmpty {
      throw .invalidArgument("Backing file and data-file-raw cannot be used at the same time")
    }
    // A raw data file is a disk by itself only where every guest byte has its place in it.
    if isDataFileRaw, preallocation == .off { preallocation = .metadata }
    if preallocation != .off, !backingName.isEmpty, !hasExtendedL2 {
      throw .invalidArgument(
        "Backing file and preallocation can only be used at the same time if extended_l2 is on")
    }
  }
}
