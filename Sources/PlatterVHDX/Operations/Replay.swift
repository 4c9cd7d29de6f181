package import PlatterCore

extension ReplayPlan {
  /// Makes the log's changes in the file itself, oldest first, and puts them on stable storage. Repeatable: a stop at
  /// any point leaves the log as it was.
  func apply(to store: any ByteStore) throws(ImageError) {
    if fileByteCount > (try store.byteCount()) { try store.resize(to: fileByteCount) }
    for operation in operations {
      switch operation {
      case .zero(let range):
        try store.zero(range)
      case .page(let target, let leading, let trailing, let sector):
        let position = log.lowerBound + UInt64(sector) * Self.pageByteCount
        var bytes = try store.readFully("a data sector of the log", at: position, count: Int(Self.pageByteCount))
        bytes.withMutableRawBytes { bytes in
          bytes.storeLittleEndian(leading, at: 0)
          bytes.storeLittleEndian(trailing, at: LogDataSector.content.upperBound)
        }
        try store.write(bytes.rawBytes, at: target)
      }
    }
    try store.flush()
  }
}

extension HeaderPair {
  /// Writes a changed header, first to the slot that does not count, then to the other, flushing after each: at every
  /// moment one slot holds a whole header, and the larger sequence number is the newer state.
  ///
  /// - Parameter change: what to change beside the sequence number.
  package mutating func update(_ store: any ByteStore, _ change: (inout Header) -> Void) throws(ImageError) {
    var header = current
    change(&header)
    for slot in [1 - currentSlot, currentSlot] {
      guard let next = header.sequenceNumber.adding(1) else {
        throw .corrupt("the header's sequence number \(header.sequenceNumber) cannot grow")
      }
      header.sequenceNumber = next
      try store.write(header.encoded().rawBytes, at: Header.slotOffsets[slot])
      try store.flush()
      current = header
      currentSlot = slot
      faults[slot] = nil
    }
  }
}
