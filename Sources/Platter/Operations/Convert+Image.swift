import PlatterCore
import PlatterLUKS
import PlatterQCOW2
import SystemPackage

extension Convert {
  /// What a new image of a disk that comes through a pipe is made for at first, where nobody knows its size.
  private static let firstByteCount: UInt64 = 1 << 20

  /// Makes a new image and fills it. It takes its name when it is complete.
  func makeImage(_ create: Create, _ total: UInt64?, _ bitmaps: [BitmapFacts], _ progress: ProgressHandler?)
    throws(ImageError)
  {
    var create = create
    create.byteCount = total ?? Self.firstByteCount
    if total == nil, hasPlaces(create) {
      throw ImageError(
        .invalidArgument, "space cannot be given in advance to a disk whose size is not known", file: create.path.string
      )
    }
    if total == nil, create.format.name == LUKS.name {
      throw ImageError(
        .invalidArgument, "a LUKS volume has its size from the start, and this disk's is not known: say --source-size",
        file: create.path.string)
    }
    let request = try create.prepare()
    try checkCompression(create)
    let backing = create.opensBacking ? try create.openBacking() : nil
    try create.make(request, isDirect: options.isDirect, sharing: options.sharesTarget) { files throws(ImageError) in
      try fill(files, create, backing, request, total, bitmaps, progress)
    }
  }

  /// Sends a new image in order.
  func streamImage(_ create: Create, to stream: OutputStream, _ progress: ProgressHandler?) throws(ImageError) {
    guard case .disks(let disks) = source else {
      throw .unsupported(
        "a \(create.format.name) image cannot be made from one pipe into another: its tables come before the data, so "
          + "the disk is read twice; put one of the two into a file")
    }
    guard let format = create.format as? any StreamableFormat.Type else {
      throw .unsupported("a \(create.format.name) image cannot go to a pipe; name a file")
    }
    let total = disks.totalByteCount
    var create = create
    create.byteCount = total
    let request = try create.prepare()
    try checkCompression(create)
    let backing = create.opensBacking ? try create.openBacking() : nil
    let image = try format.stream(request)
    try UnitStream(disks, image, backing: backing, try unitOptions(request)).run(
      to: stream, ProgressCounter(total: total.multiplied(by: 2) ?? .max, progress))
  }

  /// Fills a new image whose files have no names yet.
  private func fill(
    _ files: NewFiles, _ create: Create, _ backing: DiskImage?, _ request: CreationRequest, _ total: UInt64?,
    _ bitmaps: [BitmapFacts], _ progress: ProgressHandler?
  ) throws(ImageError) {
    if options.flushes { files.store.expectFlush() }
    var open = create.backingOptions
    open.node = [:]
    for key in ["encrypt.key-secret", "key-secret"] { open.node[key] = create.options[key] }
    let openMade = { () throws(ImageError) in
      try DiskImage.open(made: files, at: create.path, format: create.format.name, backing: backing, open)
    }
    let image = try openMade()
    if hasPlaces(create) || image.layers[0].map.allocationUnit == nil {
      // Every guest byte has its place already, so there is no order to keep. Encrypted space may read as noise.
      try fill(image, total, isZero: backing == nil && !image.layers[0].map.isEncrypted, bitmaps, progress)
    } else {
      try copyUnits(to: image, request, total, progress)
      guard !bitmaps.isEmpty else { return }
      let writer = try DiskWriter(openMade(), cache: options.flushes ? .writeback : .unsafe)
      try writer.closing { () throws(ImageError) in try copyBitmaps(bitmaps, with: writer) }
    }
  }

  /// Copies through the write engine: into images that are there.
  func fill(
    _ image: DiskImage, _ total: UInt64?, isZero: Bool, _ bitmaps: [BitmapFacts], _ progress: ProgressHandler?
  ) throws(ImageError) {
    let writer = try DiskWriter(image, cache: options.flushes ? .writeback : .unsafe, writesMuch: true)
    let isZero = isZero && options.sparseByteCount > 0
    try writer.closing { () throws(ImageError) in
      if options.isCompressed {
        try UnitWrite(source, writer, isZero: isZero, unitOptions()).run(
          ProgressCounter(total: total ?? .max, progress))
      } else {
        try copy(total, to: ImageSink(writer, isZero: isZero), limit: image.byteCount, progress)
      }
      try copyBitmaps(bitmaps, with: writer)
    }
  }

  private func hasPlaces(_ create: Create) -> Bool {
    create.options["data_file_raw"] == "on" || (create.options["preallocation"] ?? "off") != "off"
  }

  private func copyUnits(
    to image: DiskImage, _ request: CreationRequest, _ total: UInt64?, _ progress: ProgressHandler?
  ) throws(ImageError) {
    guard let map = image.layers[0].map as? any WritableMap else {
      throw ImageError(.unsupported, "the \(image.formatName) format cannot be written", file: image.name)
    }
    try UnitCopy(source, image, map, try unitOptions(request)).run(
      ProgressCounter(total: total ?? .max, progress))
    if options.flushes { for store in map.stores { try store.flush() } }
  }

  private func unitOptions() -> UnitCopyOptions {
    var copy = UnitCopyOptions(workerCount: options.workerCount)
    copy.skipsZeros = options.sparseByteCount > 0
    copy.gapByteCount = UInt64(options.sparseByteCount)
    copy.isOrdered = options.isOrdered
    return copy
  }

  /// The same for a new image, with the effort that its options ask for.
  private func unitOptions(_ request: CreationRequest) throws(ImageError) -> UnitCopyOptions {
    var copy = unitOptions()
    if options.isCompressed { copy.packing = UnitPacker.Effort(try CompressionEffort(request)) }
    return copy
  }

  private func checkCompression(_ create: Create) throws(ImageError) {
    guard options.isCompressed else { return }
    func refuse(_ reason: String) -> ImageError { ImageError(.invalidArgument, reason, file: create.path.string) }
    guard create.format.name == QCOW2.name else {
      throw refuse("Compression not supported for this file format")
    }
    if create.options["data_file"] != nil {
      throw refuse("Compression and data file not supported at the same time")
    }
    if (create.options["preallocation"] ?? "off") != "off" {
      throw refuse("Compression and preallocation not supported at the same time")
    }
    if create.options["encryption"] == "on" || create.options["encrypt.format"] != nil {
      throw refuse("Compression and encryption not supported at the same time")
    }
  }
}
