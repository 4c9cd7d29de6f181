import CPlatter
import Synchronization
package import SystemPackage

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// A regular file or a block device. Closed when the last reference goes.
package final class FileStore: ByteStore {
  /// How a file is opened.
  package struct Options: Sendable {
    package var isWritable = false
    /// Bypass the page cache (cache modes "none" and "directsync").
    package var isDirect = false
    /// Fail instead of following a symbolic link in the last component.
    package var refusesLinks = false
    /// Make the file when it is not there.
    package var creates = false
    /// With `creates`: cut an existing file to nothing.
    package var truncates = false
    /// With `creates`: fail when the file exists.
    package var isExclusive = false
    /// The path is a folder: make a file in it that has no name yet (`giveName`).
    package var isNameless = false
    package var mode: UInt32 = 0o644
    package init(isWritable: Bool = false) { self.isWritable = isWritable }
  }

  package let name: String
  package let path: FilePath
  package let isWritable: Bool
  package let alignment: Int
  package let identity: StoreIdentity?
  /// A block device has a fixed size, and none of a file's allocation.
  package let isBlockDevice: Bool
  package let descriptor: Int32
  private let deviceByteCount: UInt64
  /// With direct I/O: the same file through the page cache, for requests that are not aligned. Else `descriptor`.
  private let bufferedDescriptor: Int32
  /// The kernel lets one writer into a file at a time, and others spin, also those who want to change its length: waiting
  /// here costs less processor time.
  private let gate = Monitor(())
  /// Shorter writes are over before a second writer has waited.
  private static let minimumGatedByteCount = 64 << 10
  /// What lies behind has been written by this store or not at all: space for long writes there is reserved just before
  /// them where that saves time (Documentation/Decisions/copying.md).
  private let byteCountAtOpening: off_t
  /// Cleared by the first reservation that fails.
  private let reservesWrites: Atomic<Bool>
  /// Long writes begin their way to the disk at once, so that it works while the next bytes are made.
  private let writesBackEarly = Atomic(false)
  /// Shorter writes gain nothing from space reserved just before them.
  private static let minimumReservedByteCount = 128 << 10

  /// Opens a file.
  ///
  /// - Throws: `.notFound`, `.io` with the system's reason; `.unsupported` for a folder, pipe or socket.
  ///
  /// - Parameter shownAs: the name that errors use instead of `path`.
  package convenience init(_ path: FilePath, _ options: Options = Options(), shownAs name: String? = nil)
    throws(ImageError)
  {
    let open = unsafe options.isNameless ? platter_open_nameless : platter_open_path
    let descriptor = unsafe path.withPlatformString { name in
      unsafe open(name, Self.flags(options), Int32(options.mode))
    }
    try self.init(descriptor: descriptor, path: path, name: name, options)
  }

  /// Gives a nameless file a name that is free.
  /// - Throws: `.io` with `.fileExists` where it is not.
  package func giveName(_ path: FilePath) throws(ImageError) {
    guard unsafe path.withPlatformString({ unsafe platter_give_name(descriptor, $0) }) == 0 else {
      throw ImageError.io("cannot take its name", Errno(rawValue: errno), file: path.printable)
    }
  }

  /// Whether `giveName` can work here at all.
  package var canBeNamed: Bool { unsafe access("/proc/self/fd/\(descriptor)", F_OK) == 0 }

  /// An empty file without a name, for things too large for memory. Its space is free again when it is closed.
  package static func temporary() throws(ImageError) -> FileStore {
    let folder = Environment.value("TMPDIR") ?? "/tmp"
    let path = FilePath(folder).appending("platter")
    let descriptor = unsafe path.withPlatformString { name in unsafe platter_open_temporary(name) }
    return try FileStore(descriptor: descriptor, path: path, Options(isWritable: true))
  }

  private static func flags(_ options: Options) -> Int32 {
    var flags = (options.isWritable ? O_RDWR : O_RDONLY) | O_CLOEXEC
    // A FIFO must not block the opening.
    flags |= O_NONBLOCK
    if options.isDirect { flags |= platter_open_direct_flag() }
    if options.refusesLinks { flags |= O_NOFOLLOW }
    if options.creates { flags |= O_CREAT }
    if options.truncates { flags |= O_TRUNC }
    if options.isExclusive { flags |= O_EXCL }
    return flags
  }

  private init(descriptor: Int32, path: FilePath, name: String? = nil, _ options: Options) throws(ImageError) {
    let name = name ?? path.printable
    guard descriptor >= 0 else {
      throw ImageError.io("cannot be opened", Errno(rawValue: errno), file: name)
    }
    var status = stat()
    guard unsafe fstat(descriptor, &status) == 0 else {
      let reason = Errno(rawValue: errno)
      _ = close(descriptor)
      throw ImageError.io("cannot be examined", reason, file: name)
    }
    var deviceByteCount: UInt64 = 0
    var alignment = options.isDirect && platter_open_direct_flag() != 0 ? AlignedBuffer.alignment : 1
    switch status.st_mode & S_IFMT {
    case S_IFREG:
      isBlockDevice = false
    case S_IFBLK:
      isBlockDevice = true
      var sector: Int32 = 512
      guard unsafe platter_block_device_size(descriptor, &deviceByteCount) == 0 else {
        let reason = Errno(rawValue: errno)
        _ = close(descriptor)
        throw ImageError.io("the size of the device cannot be found", reason, file: name)
      }
      if options.isDirect, unsafe platter_block_device_sector(descriptor, &sector) == 0 {
        alignment = max(alignment, Int(sector))
      }
    case S_IFDIR:
      _ = close(descriptor)
      throw ImageError(.unsupported, "is a folder, not a disk image", file: name, errno: .isDirectory)
    default:
      _ = close(descriptor)
      throw ImageError(.unsupported, "is neither a regular file nor a block device", file: name)
    }
    self.name = name
    self.path = path
    self.isWritable = options.isWritable
    self.descriptor = descriptor
    self.alignment = alignment
    self.deviceByteCount = deviceByteCount
    var buffered = descriptor
    if options.isDirect, platter_open_direct_flag() != 0 {
      let flags = (options.isWritable ? O_RDWR : O_RDONLY) | O_CLOEXEC
      buffered = unsafe FilePath("/proc/self/fd/\(descriptor)").withPlatformString {
        unsafe platter_open_path($0, flags, 0)
      }
      guard buffered >= 0 else {
        let reason = Errno(rawValue: errno)
        _ = close(descriptor)
        throw ImageError.io("cannot be opened for requests that are not aligned", reason, file: name)
      }
    }
    bufferedDescriptor = buffered
    byteCountAtOpening = status.st_size
    reservesWrites = Atomic(
      options.isWritable && !isBlockDevice && !options.isDirect && platter_gains_by_reserving(descriptor) == 1)
    identity = StoreIdentity(device: UInt64(truncatingIfNeeded: status.st_dev), inode: UInt64(status.st_ino))
  }

  deinit {
    if bufferedDescriptor != descriptor { _ = close(bufferedDescriptor) }
    _ = close(descriptor)
  }

  /// The descriptor that takes a request as it is: direct I/O wants memory, place and length aligned.
  private func descriptor(for bytes: UnsafeRawBufferPointer, at position: off_t) -> Int32 {
    guard alignment > 1 else { return descriptor }
    let isAligned =
      Int(bitPattern: bytes.baseAddress) % alignment == 0 && bytes.count % alignment == 0
      && Int(position) % alignment == 0
    return isAligned ? descriptor : bufferedDescriptor
  }

  package func byteCount() throws(ImageError) -> UInt64 {
    if isBlockDevice { return deviceByteCount }
    return UInt64(try status().st_size)
  }

  package func allocatedByteCount() throws(ImageError) -> UInt64 { UInt64(try status().st_blocks) * 512 }

  /// The file's permission bits.
  package var permissions: UInt32 { (try? status()).map { UInt32($0.st_mode) & 0o777 } ?? 0o644 }

  private func status() throws(ImageError) -> stat {
    var status = stat()
    guard unsafe fstat(descriptor, &status) == 0 else { throw failure("cannot be examined") }
    return status
  }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) throws(ImageError) -> Int {
    let wanted = buffer.byteCount
    guard wanted > 0 else { return 0 }
    guard let position = off_t(exactly: offset) else {
      throw ImageError(.io, "cannot read \(wanted) bytes at \(offset.hex): past any file", file: name)
    }
    var done = 0
    var reason: Int32 = 0
    unsafe buffer.withUnsafeMutableBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      var descriptor = unsafe descriptor(for: UnsafeRawBufferPointer(bytes), at: position)
      while done < wanted {
        let got = unsafe pread(descriptor, base + done, wanted - done, position + off_t(done))
        if got > 0 {
          done += got; descriptor = bufferedDescriptor
        } else if got == 0 {
          break
        } else if errno != EINTR {
          reason = errno; break
        }
      }
    }
    guard reason == 0 else {
      throw ImageError.io("cannot read \(wanted) bytes at \(offset.hex)", Errno(rawValue: reason), file: name)
    }
    return done
  }

  package func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) {
    let wanted = bytes.byteCount
    guard wanted > 0 else { return }
    guard let position = off_t(exactly: offset), position.adding(off_t(wanted)) != nil else {
      throw ImageError(.io, "cannot write \(wanted) bytes at \(offset.hex): past any file", file: name)
    }
    let isLong = wanted >= Self.minimumGatedByteCount && !isBlockDevice && alignment == 1
    let reason = isLong ? gate.withLock { _ in reserveAndPut(bytes, at: position) } : put(bytes, at: position)
    guard reason == 0 else {
      throw ImageError.io("cannot write \(wanted) bytes at \(offset.hex)", Errno(rawValue: reason), file: name)
    }
    if isLong, writesBackEarly.load(ordering: .relaxed) {
      platter_start_writing_back(descriptor, Int64(position), Int64(wanted))
    }
  }

  private func reserveAndPut(_ bytes: RawSpan, at position: off_t) -> Int32 {
    if bytes.byteCount >= Self.minimumReservedByteCount, position >= byteCountAtOpening,
      reservesWrites.load(ordering: .relaxed),
      platter_allocate(descriptor, Int64(position), Int64(bytes.byteCount)) != 0
    {
      // Nothing is lost: the write finds its place itself, or says what is wrong.
      reservesWrites.store(false, ordering: .relaxed)
    }
    return put(bytes, at: position)
  }

  /// Writes all bytes; the system's reason where that fails, else 0.
  private func put(_ bytes: RawSpan, at position: off_t) -> Int32 {
    unsafe bytes.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return 0 }
      var descriptor = unsafe descriptor(for: bytes, at: position)
      var done = 0
      while done < bytes.count {
        let put = unsafe pwrite(descriptor, base + done, bytes.count - done, position + off_t(done))
        if put > 0 {
          done += put
          // What is left of a short request need not be aligned.
          descriptor = bufferedDescriptor
        } else if put == 0 {
          return ENOSPC
        } else if errno != EINTR {
          return errno
        }
      }
      return 0
    }
  }

  package func segment(at offset: UInt64, limit: UInt64) throws(ImageError) -> StoreSegment {
    let end = min(offset.adding(limit) ?? .max, try byteCount())
    guard offset < end else { return StoreSegment(isHole: true, byteCount: limit) }
    guard !isBlockDevice else { return StoreSegment(isHole: false, byteCount: end - offset) }
    let data = platter_seek_data(descriptor, Int64(offset))
    if data < 0 {
      // No data from here on, or a file system that cannot tell.
      guard errno == ENXIO else { return StoreSegment(isHole: false, byteCount: end - offset) }
      return StoreSegment(isHole: true, byteCount: end - offset)
    }
    if UInt64(data) > offset { return StoreSegment(isHole: true, byteCount: min(UInt64(data), end) - offset) }
    let hole = platter_seek_hole(descriptor, Int64(offset))
    guard hole > Int64(offset) else { return StoreSegment(isHole: false, byteCount: end - offset) }
    return StoreSegment(isHole: false, byteCount: min(UInt64(hole), end) - offset)
  }

  package func punch(_ range: Range<UInt64>) throws(ImageError) {
    guard !range.isEmpty else { return }
    if platter_punch(descriptor, Int64(range.lowerBound), Int64(range.upperBound - range.lowerBound)) == 0 { return }
    guard [EOPNOTSUPP, ENOSYS, EINVAL, ENODEV, ENOTTY].contains(errno) else {
      throw failure("cannot punch a hole of \(range.upperBound - range.lowerBound) bytes at \(range.lowerBound.hex)")
    }
    try writeZeros(range)
  }

  package func zero(_ range: Range<UInt64>) throws(ImageError) {
    guard !range.isEmpty else { return }
    if platter_zero_range(descriptor, Int64(range.lowerBound), Int64(range.upperBound - range.lowerBound)) == 0 {
      return
    }
    guard [EOPNOTSUPP, ENOSYS, EINVAL, ENODEV, ENOTTY].contains(errno) else {
      throw failure("cannot zero \(range.upperBound - range.lowerBound) bytes at \(range.lowerBound.hex)")
    }
    try writeZeros(range)
  }

  private func writeZeros(_ range: Range<UInt64>) throws(ImageError) {
    let zeros = AlignedBuffer(byteCount: 1 << 18, zeroed: true)
    var offset = range.lowerBound
    while offset < range.upperBound {
      let count = Int(min(UInt64(zeros.byteCount), range.upperBound - offset))
      try write(zeros.bytes.extracting(0..<count), at: offset)
      offset += UInt64(count)
    }
  }

  package func allocate(_ range: Range<UInt64>) throws(ImageError) {
    guard !range.isEmpty else { return }
    guard
      platter_allocate(descriptor, Int64(range.lowerBound), Int64(range.upperBound - range.lowerBound)) == 0
    else {
      throw failure("cannot reserve \(range.upperBound - range.lowerBound) bytes at \(range.lowerBound.hex)")
    }
  }

  package func expectFlush() { writesBackEarly.store(true, ordering: .relaxed) }

  package func flush() throws(ImageError) {
    guard fdatasync(descriptor) == 0 else { throw failure("cannot be flushed") }
  }

  package func resize(to byteCount: UInt64) throws(ImageError) {
    if isBlockDevice {
      guard byteCount <= deviceByteCount else {
        throw ImageError(
          .invalidArgument, "a device of \(deviceByteCount) bytes cannot grow to \(byteCount)", file: name)
      }
      return
    }
    let reason = gate.withLock { _ -> Int32 in
      guard let size = off_t(exactly: byteCount) else { return EFBIG }
      return ftruncate(descriptor, size) == 0 ? 0 : errno
    }
    guard reason == 0 else {
      throw ImageError.io("cannot be resized to \(byteCount) bytes", Errno(rawValue: reason), file: name)
    }
  }

  private func failure(_ what: String) -> ImageError { ImageError.io(what, Errno(rawValue: errno), file: name) }
}
