package import PlatterCore
package import SystemPackage

/// Where `Convert` puts a disk.
package enum ConvertTarget: Sendable {
  /// A new file. It appears under its name when it is complete, and not at all when the copy fails.
  case newFile(FilePath)
  /// A file or block device that is there, written in place. `isZero`: the caller knows that it reads as zeros.
  case existing(FilePath, isZero: Bool)
  /// A pipe or terminal, by descriptor: everything in order, zeros included.
  case stream(Int32)
  /// A new image. Its size is that of the sources together.
  case newImage(Create)
  /// The same, to a pipe or terminal by its descriptor. Takes as much temporary space as the image has bytes.
  case imageStream(Create, Int32)
  /// An image that is there, opened for writing. `isZero`: the caller knows that it reads as zeros.
  case image(DiskImage, isZero: Bool)
}

/// Copies the guest content of one or several disks, one behind the other, into a raw disk or
/// an image.
///
/// Reading, decoding and looking for zeros happen on all workers; holes of the source are never read. Memory: one
/// buffer of a piece and one of packed bytes per worker.
package struct Convert: Sendable {
  package struct Options: Sendable {
    /// Threads; at least 1.
    package var workerCount = min(Workers.processorCount, Workers.maximumCount)
    /// Runs of zero bytes of at least this length and alignment become holes. 0: no holes, everything is written or
    /// reserved.
    package var sparseByteCount = 4096
    /// Wait for the disk at the end.
    package var flushes = false
    /// Bypass the page cache.
    package var isDirect = false
    /// Take no lock on the target.
    package var sharesTarget = false
    /// Compress what is written into a new image.
    package var isCompressed = false
    /// New images: places are taken in the guest's order, so that the file is the same on every run.
    package var isOrdered = true
    /// Copy the source's persistent bitmaps too.
    package var copiesBitmaps = false
    /// Leave out those that were not saved, instead of refusing to copy.
    package var skipsInconsistentBitmaps = false
    package init() {}
  }

  package var sources: [DiskImage]
  package var target: ConvertTarget
  package var options: Options

  package init(sources: [DiskImage], target: ConvertTarget, options: Options = Options()) {
    self.sources = sources
    self.target = target
    self.options = options
  }

  /// Copies everything.
  /// - Throws: what reading or writing throws; `.cancelled`. After an error a new file does not exist.
  package func run(progress: ProgressHandler? = nil) throws(ImageError) {
    var total: UInt64 = 0
    for source in sources {
      guard let sum = total.adding(source.byteCount), sum <= UInt64(Int64.max) else {
        throw ImageError.invalidArgument("the sources together are larger than any file can be")
      }
      total = sum
    }
    let bitmaps = try selectBitmaps().copied
    switch target {
    case .newFile(let path):
      var fileOptions = FileStore.Options(isWritable: true)
      fileOptions.isDirect = options.isDirect
      let output = try OutputFile(path, fileOptions, sharing: options.sharesTarget)
      let sink = RawSink(output.store, isZero: true, sparse: options.sparseByteCount > 0)
      try output.store.resize(to: total)
      try copy(total, to: sink, progress)
      if options.flushes { try output.store.flush() }
      try output.commit()
    case .existing(let path, let isZero):
      var fileOptions = FileStore.Options(isWritable: true)
      fileOptions.isDirect = options.isDirect
      let store = try FileStore(path, fileOptions)
      if !options.sharesTarget { try ImageLock.acquireForWriting(store) }
      let present = try store.byteCount()
      guard present >= total else {
        throw ImageError(
          .invalidArgument, "the target has \(present) bytes, but \(total) are to be written", file: path.printable)
      }
      try copy(total, to: RawSink(store, isZero: isZero, sparse: options.sparseByteCount > 0), progress)
      if options.flushes { try store.flush() }
    case .stream(let descriptor):
      try copy(total, to: StreamSink(descriptor), progress)
    case .newImage(let create):
      try makeImage(create, total, bitmaps, progress)
    case .imageStream(let create, let descriptor):
      try streamImage(create, total, to: descriptor, bitmaps, progress)
    case .image(let image, let isZero):
      guard image.byteCount >= total else {
        throw ImageError(
          .invalidArgument, "the target has \(image.byteCount) bytes, but \(total) are to be written", file: image.name)
      }
      try fill(image, total, isZero: isZero, bitmaps, progress)
    }
  }

  private func copy(_ total: UInt64, to sink: any CopySink, _ progress: ProgressHandler?) throws(ImageError) {
    let engine = CopyEngine(sources, sink, workerCount: options.workerCount, sparseByteCount: options.sparseByteCount)
    try engine.run(ProgressCounter(total: total, progress))
  }
}
