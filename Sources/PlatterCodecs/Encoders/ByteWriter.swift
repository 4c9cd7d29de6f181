/// Appends bytes to a buffer; what does not fit is dropped and remembered.
@safe struct ByteWriter {
  private let base: UnsafeMutableRawPointer
  private let capacity: Int
  private(set) var count = 0
  private(set) var hasOverflowed = false

  init(_ buffer: UnsafeMutableRawBufferPointer) {
    // A buffer without an address has no bytes, so the made-up one is never used.
    unsafe base = buffer.baseAddress ?? UnsafeMutableRawPointer(bitPattern: 16).unsafelyUnwrapped
    capacity = buffer.count
  }

  @inline(__always)
  mutating func append(_ byte: UInt8) {
    guard count < capacity else {
      hasOverflowed = true
      return
    }
    unsafe base.storeBytes(of: byte, toByteOffset: count, as: UInt8.self)
    count &+= 1
  }

  @inline(__always)
  mutating func append(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count <= capacity &- count else {
      hasOverflowed = true
      return
    }
    guard let source = bytes.baseAddress else { return }
    unsafe (base + count).copyMemory(from: source, byteCount: bytes.count)
    count &+= bytes.count
  }

  mutating func append(_ bytes: UnsafeRawPointer, _ byteCount: Int) {
    unsafe append(UnsafeRawBufferPointer(start: bytes, count: byteCount))
  }

  mutating func appendLittleEndian<T: FixedWidthInteger>(_ value: T) {
    unsafe withUnsafeBytes(of: value.littleEndian) { unsafe append($0) }
  }
}
