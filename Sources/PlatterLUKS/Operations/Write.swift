package import PlatterCore
import PlatterCrypto
import Synchronization

extension LUKSMap: InPlaceMap {
  var mapUnit: UInt64 { LUKSHeader.sectorByteCount }
  /// New bytes of the file decrypt to noise. Zeros would have to be written, a disk of them.
  var growsWithZeros: Bool { false }

  /// Zeros of the file are not zeros of the guest.
  func release(_ range: Range<UInt64>, as result: Release) throws(ImageError) -> ReleaseAnswer { .cannot }

  /// Sizes are rounded up to whole sectors, as `create` does.
  func resize(to byteCount: UInt64, _ barrier: Barrier) throws(ImageError) {
    guard let whole = byteCount.roundedUp(toMultipleOf: LUKSHeader.sectorByteCount),
      let length = payloadOffset.adding(whole), length <= UInt64(Int64.max)
    else {
      throw ImageError(
        .invalidArgument, "the disk's size \(byteCount) is larger than any file can be", file: stores[0].name)
    }
    try stores[0].resize(to: length)
    size.store(whole, ordering: .relaxed)
  }
}

extension LUKS: AmendableFormat {
  package static var amendOptions: [CreationOption] { KeySlotChange.options() }
}

extension LUKSMap: AmendableMap {
  func amend(_ request: AmendRequest, _ barrier: Barrier) throws(ImageError) {
    try naming(stores[0].name) { () throws(ImageError) in
      let change = try KeySlotChange(request)
      try volume.withLock { volume throws(ImageError) in
        guard let plan = try volume?.plan(change) else { return }
        try volume?.carryOut(plan, barrier)
      }
    }
  }
}
