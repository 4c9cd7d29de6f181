import TestSupport
import WriterProof

extension TurnModel {
  /// Every byte that changed is in a bitmap, and nothing that nobody asked for.
  /// - Parameter isThorough: QEMU reads them too, where its server and a client of it are installed.
  func checkBitmaps(isThorough: Bool) throws {
    for (name, bitmap) in bitmaps {
      let ranges = try BitmapRanges.ours(scratch.file(image.name), name, image.openOptions())
      let found = Set(ranges.flatMap { bitmap.granules($0) })
      guard found.isSuperset(of: bitmap.must) else {
        throw WriterFault("bitmap \(name) lacks \(bitmap.must.subtracting(found).sorted())")
      }
      guard found.isSubset(of: bitmap.may) else {
        throw WriterFault("bitmap \(name) has \(found.subtracting(bitmap.may).sorted()) too much")
      }
      guard isThorough, !row.isEncrypted, Tool.qemuNBD.isInstalled, Tool.nbdinfo.isInstalled else { continue }
      let theirs = try BitmapRanges.theirs(image.name, name, in: folder)
      guard theirs == ranges else { throw WriterFault("bitmap \(name) is \(theirs) for QEMU, \(ranges) for us") }
    }
  }
}
