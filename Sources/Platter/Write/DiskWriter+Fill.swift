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
      let next = preallocationEnd(from: position, in: range)
      position += try exclusively(aligned(position..<next)) { () throws(ImageError) in
        try preallocateStep(position..<next, mode)
      }
      if map.mustPublishSoon { try publish() }
    }
    try flush()
  }

  /// How far one step goes: units of which only a part is in the range go alone, and of encrypted ones only a few go at
  /// once, since they may have to be written.
  private func preallocationEnd(from position: UInt64, in range: Range<UInt64>) -> UInt64 {
    let unitEnd = (position / unit + 1) * unit
    guard position % unit == 0 else { return min(range.upperBound, unitEnd) }
    let most = map.isEncrypted ? Self.maximumStepByteCount : Self.maximumPreallocationByteCount
    let end = min(range.upperBound, position + most)
    return end < map.byteCount ? min(range.upperBound, max(end / unit * unit, unitEnd)) : end
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
    let guest = max(allocation.start, range.lowerBound)..<min(allocation.range.upperBound, range.upperBound)
    let saysZero: Bool
    do throws(ImageError) {
      saysZero = try fill(allocation, guest, mode)
    } catch {
      map.abandon(allocation)
      throw error
    }
    try map.link(allocation)
    if saysZero { _ = try map.release(guest, as: .zeroKeepingSpace) }
    return guest.upperBound - range.lowerBound
  }

  /// Makes new space read as zeros, and as what the guest has around them.
  /// - Parameter guest: the part that is to be zeros.
  /// - Returns: whether the tables must say so, since new space decrypts to noise.
  private func fill(_ allocation: Allocation, _ guest: Range<UInt64>, _ mode: Preallocation) throws(ImageError) -> Bool
  {
    let end = min(allocation.range.upperBound, map.byteCount)
    let isWhole = guest.lowerBound == allocation.start && guest.upperBound == end
    let isEncrypted = allocation.cipher > 0
    if isWhole, !isEncrypted {
      // A file of guest bytes alone ends where the disk ends.
      let byteCount = allocation.store > 0 ? end - allocation.start : allocation.byteCount
      let host = allocation.offset..<allocation.offset + byteCount
      try settle(host, in: allocation.store, mode, 0, isZero: allocation.fill == .readsZero)
      return false
    }
    if isWhole, try map.release(guest, as: .zeroKeepingSpace) == .done {
      let host = allocation.offset..<allocation.offset + allocation.byteCount
      try settle(host, in: allocation.store, mode, allocation.cipher, isZero: allocation.fill == .readsZero)
      return true
    }
    let zeros = [UInt8](repeating: 0, count: guest.count)
    try write(zeros.rawBytes, at: guest.lowerBound, into: allocation)
    return false
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
