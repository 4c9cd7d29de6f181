package import PlatterCore

/// A store in front of another one: what it does not do itself goes there.
package protocol StoreDecorator: ByteStore {
  var base: any ByteStore { get }
}

extension StoreDecorator {
  package var name: String { base.name }
  package var isWritable: Bool { base.isWritable }
  package var alignment: Int { base.alignment }
  package var identity: StoreIdentity? { base.identity }
  package func byteCount() throws(ImageError) -> UInt64 { try base.byteCount() }
  package func allocatedByteCount() throws(ImageError) -> UInt64 { try base.allocatedByteCount() }
  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) throws(ImageError) -> Int {
    try base.read(into: &buffer, at: offset)
  }
  package func write(_ bytes: RawSpan, at offset: UInt64) throws(ImageError) { try base.write(bytes, at: offset) }
  package func segment(at offset: UInt64, limit: UInt64) throws(ImageError) -> StoreSegment {
    try base.segment(at: offset, limit: limit)
  }
  package func punch(_ range: Range<UInt64>) throws(ImageError) { try base.punch(range) }
  package func zero(_ range: Range<UInt64>) throws(ImageError) { try base.zero(range) }
  package func allocate(_ range: Range<UInt64>) throws(ImageError) { try base.allocate(range) }
  package func expectFlush() { base.expectFlush() }
  package func flush() throws(ImageError) { try base.flush() }
  package func resize(to byteCount: UInt64) throws(ImageError) { try base.resize(to: byteCount) }
}
