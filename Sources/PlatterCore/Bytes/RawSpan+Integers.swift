// The one way in which numbers are read from and written to disk structures: bounds-checked, byte order named.
// All of it is inlinable, because a generic function called across a module border is otherwise not specialised.

extension RawSpan {
  /// The big-endian integer at a byte offset, or nil where it does not lie whole inside the span.
  @inlinable package func bigEndian<T: FixedWidthInteger & BitwiseCopyable>(at offset: Int, as type: T.Type = T.self)
    -> T?
  {
    guard offset >= 0, offset <= byteCount - MemoryLayout<T>.size else { return nil }
    return T(bigEndian: unsafe unsafeLoadUnaligned(fromByteOffset: offset, as: T.self))
  }

  /// The little-endian integer at a byte offset, or nil where it does not lie whole inside the span.
  @inlinable package func littleEndian<T: FixedWidthInteger & BitwiseCopyable>(at offset: Int, as type: T.Type = T.self)
    -> T?
  {
    guard offset >= 0, offset <= byteCount - MemoryLayout<T>.size else { return nil }
    return T(littleEndian: unsafe unsafeLoadUnaligned(fromByteOffset: offset, as: T.self))
  }

  /// The byte at an offset. Traps outside the span: for offsets that were checked.
  @inlinable package subscript(offset: Int) -> UInt8 {
    precondition(offset >= 0 && offset < byteCount)
    return unsafe unsafeLoad(fromUncheckedByteOffset: offset, as: UInt8.self)
  }

  /// A copy of a range of bytes, or nil where it leaves the span.
  @inlinable package func bytes(at offset: Int, count: Int) -> [UInt8]? {
    guard offset >= 0, count >= 0, offset <= byteCount, count <= byteCount - offset else { return nil }
    let part = extracting(offset..<offset + count)
    return unsafe part.withUnsafeBytes { unsafe [UInt8]($0) }
  }

  /// A copy of all bytes.
  @inlinable package func array() -> [UInt8] {
    unsafe withUnsafeBytes { unsafe [UInt8]($0) }
  }
}

extension MutableRawSpan {
  @inlinable package mutating func storeBigEndian<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int) {
    storeBytes(of: value.bigEndian, toByteOffset: offset, as: T.self)
  }

  @inlinable package mutating func storeLittleEndian<T: FixedWidthInteger & BitwiseCopyable>(
    _ value: T, at offset: Int
  ) {
    storeBytes(of: value.littleEndian, toByteOffset: offset, as: T.self)
  }

  /// Copies `source` to the bytes from `offset` on. Traps where it does not fit.
  @inlinable package mutating func copy(_ source: RawSpan, to offset: Int = 0) {
    precondition(offset >= 0 && source.byteCount <= byteCount - offset)
    guard source.byteCount > 0 else { return }
    unsafe withUnsafeMutableBytes { target in
      unsafe source.withUnsafeBytes { source in
        guard let from = source.baseAddress, let to = target.baseAddress else { return }
        unsafe to.advanced(by: offset).copyMemory(from: from, byteCount: source.count)
      }
    }
  }

  /// Sets a range of bytes to zero. Traps outside the span.
  @inlinable package mutating func zero(_ range: Range<Int>) {
    precondition(range.lowerBound >= 0 && range.upperBound <= byteCount)
    guard !range.isEmpty else { return }
    unsafe withUnsafeMutableBytes { target in
      guard let base = target.baseAddress else { return }
      _ = unsafe base.advanced(by: range.lowerBound).initializeMemory(as: UInt8.self, repeating: 0, count: range.count)
    }
  }

  /// A part of the span as a span of its own, for the length of one call. Traps outside the span.
  @inlinable package mutating func withPart<R: ~Copyable, E>(
    _ range: Range<Int>, _ body: (inout MutableRawSpan) throws(E) -> R
  ) throws(E) -> R {
    var part = _mutatingExtracting(range)
    return try body(&part)
  }
}

extension Array where Element == UInt8 {
  /// The array's bytes.
  @inlinable package var rawBytes: RawSpan { @_lifetime(borrow self) borrowing get { unsafe span.bytes } }

  /// Lends the array's bytes for writing.
  @inlinable package mutating func withMutableRawBytes<R: ~Copyable, E>(
    _ body: (inout MutableRawSpan) throws(E) -> R
  ) throws(E) -> R {
    var span = mutableSpan
    var raw = unsafe span.mutableBytes
    return try body(&raw)
  }
}
