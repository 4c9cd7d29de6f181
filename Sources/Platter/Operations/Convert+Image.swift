import PlatterCore
import PlatterQCOW2
import SystemPackage

extension Convert {
  /// Makes a new image and fills it. It takes its name when it is complete.
  func makeImage(_ create: Create, _ total: UInt64, _ progress: ProgressHandler?) throws(ImageError) {
    var create = create
    create.byteCount = total
    let request = try create.prepare()
    try checkCompression(create)
    var fileOptions = FileStore.Options(isWritable: true)
    fileOptions.isDirect = options.isDirect
    let output = try OutputFile(create.path, fileOptions, sharing: options.sharesTarget)
    try makeImage(in: output.store, create, request, total, progress)
    try output.commit()
  }

  /// Makes a new image in a nameless file and sends it in order: its tables are complete only at the end.
  func streamImage(_ create: Create, _ total: UInt64, to descriptor: Int32, _ progress: ProgressHandler?)
    throws(ImageError)
  {
    var create = create
    create.byteCount = total
    guard create.options["data_file"] == nil else {
      throw .invalidArgument(
        "an image with an external data file cannot go to a pipe: the data file would need a place")
    }
    let request = try create.prepare()
    try checkCompression(create)
    let file = try FileStore.temporary()
    try makeImage(in: file, create, request, total, progress)
    var buffer = AlignedBuffer(byteCount: 256 << 10)
    var offset: UInt64 = 0
    while true {
      let position = offset
      let count = try buffer.withMutableBytes { bytes throws(ImageError) in try file.read(into: &bytes, at: position) }
      guard count > 0 else { return }
      try StandardOutput.write(buffer.bytes.extracting(0..<count), to: descriptor)
      offset += UInt64(count)
    }
  }

  private func makeImage(
    in store: FileStore, _ create: Create, _ request: CreationRequest, _ total: UInt64, _ progress: ProgressHandler?
  ) throws(ImageError) {
    let backing = create.opensBacking ? try create.openBacking() : nil
    try create.format.create(in: store, request)
    var open = create.backingOptions
    open.node = [:]
    for key in ["encrypt.key-secret", "key-secret"] { open.node[key] = create.options[key] }
    let image = try DiskImage.open(
      made: store, at: create.path, format: create.format.name, backing: backing, open)
    if hasPlaces(create) || image.layers[0].map.allocationUnit == nil {
      // Every guest byte has its place already, so there is no order to keep. Encrypted space may read as noise.
      try fill(image, total, isZero: backing == nil && !image.layers[0].map.isEncrypted, progress)
    } else {
      try copyUnits(to: image, request, total, progress)
    }
  }

  /// Copies through the write engine: into images that are there.
  func fill(_ image: DiskImage, _ total: UInt64, isZero: Bool, _ progress: ProgressHandler?) throws(ImageError) {
    let writer = try DiskWriter(image, cache: options.flushes ? .writeback : .unsafe)
    let engine = CopyEngine(
      sources, ImageSink(writer, isZero: isZero && options.sparseByteCount > 0), workerCount: options.workerCount,
      sparseByteCount: options.sparseByteCount)
    try engine.run(ProgressCounter(total: total, progress))
    try writer.close()
  }

  private func hasPlaces(_ create: Create) -> Bool {
    create.options["data_file_raw"] == "on" || (create.options["preallocation"] ?? "off") != "off"
  }

  private func copyUnits(
    to image: DiskImage, _ request: CreationRequest, _ total: UInt64, _ progress: ProgressHandler?
  ) throws(ImageError) {
    guard let map = image.layers[0].map as? any WritableMap else {
      throw ImageError(.unsupported, "the \(image.formatName) format cannot be written", file: image.name)
    }
    var copy = UnitCopyOptions(workerCount: options.workerCount)
    copy.skipsZeros = options.sparseByteCount > 0
    copy.isOrdered = options.isOrdered
    if options.isCompressed {
      let effort = try CompressionEffort(request)
      copy.packing =
        effort.codec == .zstd
        ? .zstd(level: effort.level) : .deflate(level: effort.level, window: effort.window)
    }
    try UnitCopy(sources, image, map, copy).run(ProgressCounter(total: total, progress))
    if options.flushes { for store in map.stores { try store.flush() } }
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
