/// Bytes at absolute offsets: a file, a block device, memory; later a remote object. May be slow and far.
///
/// Thread-safe, blocking, without a cursor. Every call names the store in its errors.
package protocol ByteStore: AnyObject, Sendable {
  /// The name that people know it by.
  var name: String { get }
  var isWritable: Bool { get }
  /// Bytes that direct I/O must be aligned to; 1 where it need not be.
  var alignment: Int { get }
  /// Identity on this machine, equal for two names of one file; nil where there is none.
  var identity: StoreIdentity? { get }

  /// Present length in bytes.
  func byteCount() throws(ImageError) -> UInt64
  /// Bytes that it occupies on its disk.
  func allocatedByteCount() throws(ImageError) -> UInt64

  /// Fills `buffer` from `offset` on. Returns the bytes read: fewer than asked only at the end of the store.
  func read(into buffer: inout MutableRawSpan, at offset: UInt64) throws(ImageError) -> Int
  /// Writes all of `bytes` at `offset`; grows the store where needed.
  func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError)

  /// Whether the byte at `offset` lies in data or in a hole (reads as zeros), and how far the same holds, looking no
  /// further than `offset + limit`. A store that cannot tell says data. `offset` lies inside the store.
  func segment(at offset: UInt64, limit: UInt64) throws(ImageError) -> StoreSegment

  /// Makes a range read as zeros and gives its space back where that is possible. Inside the store.
  func punch(_ range: Range<UInt64>) throws(ImageError)
  /// Makes a range read as zeros and keeps its space. Inside the store.
  func zero(_ range: Range<UInt64>) throws(ImageError)
  /// Reserves space for a range; grows the store where needed.
  func allocate(_ range: Range<UInt64>) throws(ImageError)
  /// A hint: a flush will wait for what is written from now on, so long writes may begin their way to the disk at once.
  func expectFlush()
  /// Everything written before is on stable storage after.
  func flush() throws(ImageError)
  /// Cuts or grows (with zeros).
  func resize(to byteCount: UInt64) throws(ImageError)
}

/// A run of equal kind in a store.
package struct StoreSegment: Sendable, BitwiseCopyable, Equatable {
  package var isHole: Bool
  package var byteCount: UInt64
  package init(isHole: Bool, byteCount: UInt64) {
    self.isHole = isHole
    self.byteCount = byteCount
  }
}

/// Device and inode.
package struct StoreIdentity: Sendable, Hashable {
  package var device: UInt64
  package var inode: UInt64
  package init(device: UInt64, inode: UInt64) {
    self.device = device
    self.inode = inode
  }
}

extension ByteStore {
  package var alignment: Int { 1 }
  package var identity: StoreIdentity? { nil }
  package func allocatedByteCount() throws(ImageError) -> UInt64 { try byteCount() }

  package func expectFlush() {}

  package func segment(at offset: UInt64, limit: UInt64) throws(ImageError) -> StoreSegment {
    StoreSegment(isHole: false, byteCount: min(limit, try byteCount() - offset))
  }

  /// Writes zeros as bytes, so that their space is really there; grows the store where needed.
  package func writeZeros(_ range: Range<UInt64>) throws(ImageError) {
    let zeros = [UInt8](repeating: 0, count: 1 << 20)
    var offset = range.lowerBound
    while offset < range.upperBound {
      let count = Int(min(UInt64(zeros.count), range.upperBound - offset))
      try write(zeros.rawBytes.extracting(0..<count), at: offset)
      offset += UInt64(count)
    }
  }

  /// Fills all of `buffer`. `what` names the structure in the error where the store ends first:
  /// "L1 table (0x1000 bytes at 0x30000) lies past the end of the file (0x20000)".
  package func readFully(_ what: @autoclosure () -> String, into buffer: inout MutableRawSpan, at offset: UInt64)
    throws(ImageError)
  {
    let got = try read(into: &buffer, at: offset)
    guard got == buffer.byteCount else {
      throw ImageError(
        .truncated,
        "\(what()) (\(buffer.byteCount) bytes at \(offset.hex)) lies past the end of the file "
          + "(\(try byteCount().hex))", file: name)
    }
  }

  /// A copy of `count` bytes. `count` must have been checked against a limit: this allocates it.
  package func readFully(_ what: @autoclosure () -> String, at offset: UInt64, count: Int) throws(ImageError) -> [UInt8]
  {
    // Checked first, so that a lie about a length never costs memory.
    let length = try byteCount()
    guard count >= 0, offset <= length, UInt64(count) <= length - offset else {
      throw ImageError(
        .truncated,
        "\(what()) (\(count) bytes at \(offset.hex)) lies past the end of the file (\(length.hex))", file: name)
    }
    var bytes = [UInt8](repeating: 0, count: count)
    try bytes.withMutableRawBytes { buffer throws(ImageError) in
      try readFully(what(), into: &buffer, at: offset)
    }
    return bytes
  }

  /// Up to `count` bytes, fewer at the end of the store: for probing.
  package func readPrefix(at offset: UInt64 = 0, count: Int) throws(ImageError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    let got = try bytes.withMutableRawBytes { buffer throws(ImageError) in try read(into: &buffer, at: offset) }
    bytes.removeLast(count - got)
    return bytes
  }
}
