package import PlatterCore
package import SystemPackage

/// What `Convert` copies.
package enum ConvertSource: Sendable {
  /// Disks, one behind the other; at least one.
  case disks([DiskImage])
  /// A raw disk, read once.
  case pipe(PipeSource)

  /// None where a pipe is the source.
  package var images: [DiskImage] {
    if case .disks(let disks) = self { return disks }
    return []
  }
}

/// Where `Convert` puts a disk.
package enum ConvertTarget: Sendable {
  /// A new file. It appears under its name when it is complete, and not at all when the copy fails.
  case newFile(FilePath)
  /// A file or block device that is there, written in place. `isZero`: the caller knows that it reads as zeros.
  case existing(FilePath, isZero: Bool)
  /// A pipe or terminal: everything in order, zeros included.
  case stream(OutputStream)
  /// A new image. Its size is that of the sources together.
  case newImage(Create)
  /// The same, in order to a pipe or terminal. The sources are read twice, because tables come first.
  case imageStream(Create, OutputStream)
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
    /// Compress what is written into an image.
    package var isCompressed = false
    /// New images: places are taken in the guest's order, so that the file is the same on every run.
    package var isOrdered = true
    /// Copy the source's persistent bitmaps too.
    package var copiesBitmaps = false
    /// Leave out those that were not saved, instead of refusing to copy.
    package var skipsInconsistentBitmaps = false
    package init() {}
  }

  package var source: ConvertSource
  package var target: ConvertTarget
  package var options: Options

  package init(sources: [DiskImage], target: ConvertTarget, options: Options = Options()) {
    precondition(!sources.isEmpty)
    self.init(.disks(sources), target: target, options: options)
  }

  package init(_ source: ConvertSource, target: ConvertTarget, options: Options = Options()) {
    self.source = source
    self.target = target
    self.options = options
  }

  /// Copies everything.
  /// - Throws: what reading or writing throws; `.cancelled`. After an error a new file does not exist.
  package func run(progress: ProgressHandler? = nil) throws(ImageError) {
    let total = try total()
    let bitmaps = try selectBitmaps().copied
    switch target {
    case .newFile(let path): try makeFile(path, total, progress)
    case .existing(let path, let isZero): try overwrite(path, isZero: isZero, total, progress)
    case .stream(let stream): try copy(total, to: StreamSink(stream), limit: UInt64(Int64.max), progress)
    case .newImage(let create): try makeImage(create, total, bitmaps, progress)
    case .imageStream(let create, let stream): try streamImage(create, to: stream, progress)
    case .image(let image, let isZero):
      try checkRoom(image.byteCount, total, image.name)
      try fill(image, total, isZero: isZero, bitmaps, progress)
    }
  }

  /// Bytes of the sources together; nil where nobody knows before the end.
  private func total() throws(ImageError) -> UInt64? {
    if case .pipe(let pipe) = source { return pipe.byteCount }
    var total: UInt64 = 0
    for disk in source.images {
      guard let sum = total.adding(disk.byteCount), sum <= UInt64(Int64.max) else {
        throw ImageError.invalidArgument("the sources together are larger than any file can be")
      }
      total = sum
    }
    return total
  }

  private func checkRoom(_ present: UInt64, _ total: UInt64?, _ name: String) throws(ImageError) {
    guard let total, present < total else { return }
    throw ImageError(
      .invalidArgument, "the target has \(present) bytes, but \(total) are to be written", file: name)
  }

  private func makeFile(_ path: FilePath, _ total: UInt64?, _ progress: ProgressHandler?) throws(ImageError) {
    var fileOptions = FileStore.Options(isWritable: true)
    fileOptions.isDirect = options.isDirect
    let output = try OutputFile(path, fileOptions, sharing: options.sharesTarget)
    if options.flushes { output.store.expectFlush() }
    let sink = RawSink(output.store, isZero: true, sparse: options.sparseByteCount > 0)
    if let total { try output.store.resize(to: total) }
    try copy(total, to: sink, limit: UInt64(Int64.max), progress)
    if total == nil, case .pipe(let pipe) = source { try output.store.resize(to: pipe.wholeByteCount) }
    if options.flushes { try output.store.flush() }
    try output.commit()
  }

  private func overwrite(_ path: FilePath, isZero: Bool, _ total: UInt64?, _ progress: ProgressHandler?)
    throws(ImageError)
  {
    var fileOptions = FileStore.Options(isWritable: true)
    fileOptions.isDirect = options.isDirect
    let store = try FileStore(path, fileOptions)
    if !options.sharesTarget { try ImageLock.acquireForWriting(store) }
    let present = try store.byteCount()
    try checkRoom(present, total, path.printable)
    if options.flushes { store.expectFlush() }
    let sink = RawSink(store, isZero: isZero, sparse: options.sparseByteCount > 0)
    try copy(total, to: sink, limit: present, progress)
    if options.flushes { try store.flush() }
  }

  /// Copies by pieces.
  /// - Parameter limit: bytes that the sink takes.
  func copy(_ total: UInt64?, to sink: any CopySink, limit: UInt64, _ progress: ProgressHandler?) throws(ImageError) {
    let counter = ProgressCounter(total: total ?? .max, progress)
    switch source {
    case .disks(let disks):
      let engine = CopyEngine(disks, sink, workerCount: options.workerCount, sparseByteCount: options.sparseByteCount)
      try engine.run(counter)
    case .pipe(let pipe):
      try PipeCopy(pipe: pipe, sink: sink, sparseByteCount: options.sparseByteCount, limit: limit).run(counter)
    }
  }
}
