import PlatterCore

extension [UInt8] {
  /// Stores a little-endian number.
  package mutating func put<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int) {
    withMutableRawBytes { $0.storeLittleEndian(value, at: offset) }
  }

  /// Stores bytes over others.
  package mutating func put(_ bytes: [UInt8], at offset: Int) {
    withMutableRawBytes { $0.copy(bytes.rawBytes, to: offset) }
  }

  /// The same bytes with a little-endian number stored.
  package func with<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int) -> [UInt8] {
    var bytes = self
    bytes.put(value, at: offset)
    return bytes
  }
}
