package import PlatterCore

/// How much of new space is settled when a disk grows.
package enum Preallocation: String, Sendable, CaseIterable {
  case off
  /// The format's tables name a place for every byte; the places take no space yet.
  case metadata
  /// Space is reserved.
  case falloc
  /// Zeros are written.
  case full
}

extension DiskWriter {
  /// Whether the image can settle new space in this way: a raw disk has no tables.
  package func supports(_ mode: Preallocation) -> Bool { mode != .metadata || map.allocationUnit != nil }

  /// Gives every byte of a range that reads as zeros its place, as a new disk's end does. On stable storage when it
  /// returns.
  package func preallocate(_ range: Range<UInt64>, _ mode: Preallocation) throws(ImageError) {
    guard mode != .off, !range.isEmpty else { return }
    try prepare()
    var position = range.lowerBound
    while position < range.upperBound {
      let next = min(range.upperBound, position + Self.maximumPreallocationByteCount)
      position += try exclusively(aligned(position..<next)) { () throws(ImageError) in
        try preallocateStep(position..<next, mode)
      }
      if map.mustPublishSoon { try publish() }
    }
    try flush()
  }

  private func aligned(_ range: Range<UInt64>) -> Range<UInt64> {
    range.lowerBound / unit * unit..<range.upperBound.dividedRoundingUp(by: unit) * unit
  }

  /// Settles the start of a range. Returns the bytes settled.
  private func preallocateStep(_ range: Range<UInt64>, _ mode: Preallocation) throws(ImageError) -> UInt64 {
    var extents: [Extent] = []
    _ = try map.map(range, limit: 1, into: &extents)
    guard let first = extents.first else { return range.upperBound - range.lowerBound }
    guard first.kind != .data || first.isShared else {
      // A raw disk, or what stood in the last unit already.
      try settle(first.offset..<first.offset + first.byteCount, in: first.store, mode, first.cipher, isZero: true)
      return first.byteCount
    }
    let allocation = try map.allocate(first.start..<first.end)
    let host = allocation.offset..<allocation.offset + allocation.byteCount
    let guest = allocation.start..<min(allocation.range.upperBound, map.byteCount)
    // New space decrypts to noise: the tables must say that it is zeros, or zeros must stand there.
    let isEncrypted = allocation.cipher > 0
    var saysZero = false
    do throws(ImageError) {
      if isEncrypted { saysZero = try map.release(guest, as: .zeroKeepingSpace) == .done }
      if isEncrypted, !saysZero {
        try writeEncryptedZeros(allocation)
      } else {
        try settle(host, in: allocation.store, mode, allocation.cipher, isZero: allocation.fill == .readsZero)
      }
    } catch {
      map.abandon(allocation)
      throw error
    }
    try map.link(allocation)
    if saysZero { _ = try map.release(guest, as: .zeroKeepingSpace) }
    return min(allocation.range.upperBound, range.upperBound) - range.lowerBound
  }

  private func writeEncryptedZeros(_ allocation: Allocation) throws(ImageError) {
    var position: UInt64 = 0
    while position < allocation.byteCount {
      let count = min(Self.maximumStepByteCount, allocation.byteCount - position)
      var buffer = AlignedBuffer(byteCount: Int(count), zeroed: true)
      try buffer.withMutableBytes { bytes throws(ImageError) in
        try map.ciphers[Int(allocation.cipher) - 1].encrypt(
          &bytes, guestOffset: allocation.start + position, hostOffset: allocation.offset + position)
      }
      try map.stores[Int(allocation.store)].write(buffer.bytes, at: allocation.offset + position)
      position += count
    }
  }

  /// - Parameter isZero: the place reads as zeros already.
  private func settle(
    _ host: Range<UInt64>, in store: UInt16, _ mode: Preallocation, _ cipher: UInt8, isZero: Bool
  ) throws(ImageError) {
    let store = map.stores[Int(store)]
    if try store.byteCount() < host.upperBound { try store.resize(to: host.upperBound) }
    switch mode {
    case .off: return
    case .metadata: if !isZero { try store.punch(host) }
    case .falloc:
      if !isZero { try store.zero(host) }
      try store.allocate(host)
    case .full:
      guard cipher == 0 else { return try store.allocate(host) }
      let zeros = Self.zeros(host)
      var position = host.lowerBound
      while position < host.upperBound {
        let count = Int(min(UInt64(zeros.count), host.upperBound - position))
        try store.write(zeros.rawBytes.extracting(0..<count), at: position)
        position += UInt64(count)
      }
    }
  }
}
